"""The control calls of a worker: volumes, status, drain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lunmesh.worker.v2 import worker_pb2 as pb

from tests.support.worker_client import Served, running_worker
from tests.support.worker_protocol import (
    BLOCK,
    READ,
    WRITE,
    Drive,
    ends_with,
    refused,
    statuses,
)
from workers.shares import MemoryShares
from workers.store import StoreStatus


def test_volumes_are_created_listed_grown_and_deleted(drive: Drive) -> None:
    async def body(served: Served) -> None:
        control = served.control
        share = served.share("disk")
        share.place = "here"
        for _ in range(2):  # asked again, it is as good
            created = await control.CreateVolume(pb.CreateVolumeRequest(share=share))
            assert created.status == pb.STATUS_OK
        other = served.share("disk")
        await refused(
            control.CreateVolume(pb.CreateVolumeRequest(share=other)),
            grpc.StatusCode.ALREADY_EXISTS,
        )
        for bad in (
            served.share("../etc"),
            served.share("x", size=0),
            served.share("x", uuid=b"short"),
        ):
            await refused(
                control.CreateVolume(pb.CreateVolumeRequest(share=bad)),
                grpc.StatusCode.INVALID_ARGUMENT,
            )
        missing = pb.OpenVolumeRequest(node="node", epoch=1, uuid=bytes(16))
        await refused(control.OpenVolume(missing), grpc.StatusCode.NOT_FOUND)
        unknown = pb.ResizeVolumeRequest(uuid=bytes(16), size=2 << 20)
        await refused(control.ResizeVolume(unknown), grpc.StatusCode.NOT_FOUND)
        handle = await served.reopen(share.uuid)
        stream = await served.stream()
        io = stream.io(WRITE, handle, 1 << 20, 512, BLOCK)
        assert statuses(await stream.run(io)) == [StoreStatus.OUT_OF_RANGE]
        grow = pb.ResizeVolumeRequest(uuid=share.uuid, size=2 << 20)
        assert (await control.ResizeVolume(grow)).status == pb.STATUS_OK
        io = stream.io(WRITE, handle, 1 << 20, 512, BLOCK)
        assert statuses(await stream.run(io)) == [StoreStatus.OK]
        shrink = pb.ResizeVolumeRequest(uuid=share.uuid, size=1 << 20)
        await refused(control.ResizeVolume(shrink), grpc.StatusCode.INVALID_ARGUMENT)
        listed = await control.ListVolumes(pb.ListVolumesRequest())
        assert [(s.name, s.size) for s in listed.shares] == [("disk", 2 << 20)]
        for elsewhere in ({"place": "another"}, {"store_id": "another"}):
            delete = pb.DeleteVolumeRequest(uuid=share.uuid, **elsewhere)
            await refused(control.DeleteVolume(delete), grpc.StatusCode.FAILED_PRECONDITION)
        for kept in ({"uuid": bytes(1 << 20)}, {"uuid": share.uuid, "place": "x" * 65}):
            delete = pb.DeleteVolumeRequest(**kept)
            await refused(control.DeleteVolume(delete), grpc.StatusCode.INVALID_ARGUMENT)
        assert statuses(await stream.run(stream.io(READ, handle, 0, 512))) == [StoreStatus.OK]
        for _ in range(2):
            delete = pb.DeleteVolumeRequest(uuid=share.uuid, place=share.place, store_id="")
            deleted = await control.DeleteVolume(delete)
            assert deleted.status == pb.STATUS_OK
        io = stream.io(READ, handle, 0, 512)
        assert statuses(await stream.run(io)) == [StoreStatus.UNAVAILABLE]
        assert not (await control.ListVolumes(pb.ListVolumesRequest())).shares

    drive(body)


def test_after_a_drain_nothing_begins(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        assert (await served.control.Drain(pb.DrainRequest())).status == pb.STATUS_OK
        answers = await stream.run(stream.io(READ, handle, 0, 512))
        assert statuses(answers) == [StoreStatus.UNAVAILABLE]
        late = served.bare_stream("other")
        await late.send()
        await ends_with(late, "UNAVAILABLE")
        assert (await served.control.GetStatus(pb.GetStatusRequest())).draining

    drive(body)


@pytest.mark.parametrize("checksum", [True, False])
def test_a_node_that_checksums_otherwise_is_refused_a_volume(drive: Drive, checksum: bool) -> None:
    """Not by a payload that is taken for a corrupt one, again and again."""

    async def body(served: Served) -> None:
        served.worker.checksum = checksum
        uuid = await served.create("disk")
        request = pb.OpenVolumeRequest(node="node", epoch=1, uuid=uuid, checksum=not checksum)
        await refused(served.control.OpenVolume(request), grpc.StatusCode.FAILED_PRECONDITION)
        request.checksum = checksum
        assert (await served.control.OpenVolume(request)).status == pb.STATUS_OK
        await served.reopen(uuid)  # one that does not say

    drive(body)


def test_a_worker_that_is_shut_out_of_its_store_says_that_it_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        back = asyncio.Event()

        async def rejoin(_: MemoryShares) -> None:
            await back.wait()

        monkeypatch.setattr(MemoryShares, "abandon", lambda _: None)
        monkeypatch.setattr(MemoryShares, "rejoin", rejoin)
        async with running_worker(tmp_path, memory=True) as served:
            health = health_pb2_grpc.HealthStub(served.channel)
            seen = health.Watch(health_pb2.HealthCheckRequest())
            assert (await seen.read()).status == health_pb2.HealthCheckResponse.SERVING
            served.worker.shares.evicted()
            assert (await seen.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            back.set()
            assert (await seen.read()).status == health_pb2.HealthCheckResponse.SERVING

    uvloop.run(main())


def test_who_opens_a_volume_is_told_who_else_has_it(drive: Drive) -> None:
    async def body(served: Served) -> None:
        async def others(node: str, epoch: int = 1) -> list[tuple[str, int]]:
            opened = await served.opened(uuid, node=node, epoch=epoch)
            return [(other.node, other.epoch) for other in opened.others]

        uuid = await served.create("disk")
        elsewhere = await served.create("elsewhere")
        await served.reopen(elsewhere, node="stranger")
        assert await others("a", 3) == []
        assert await others("a", 3) == []
        assert await others("b") == [("a", 3)]
        assert await others("a", 4) == [("b", 1)]
        fence = pb.FenceRequest(fence=pb.NodeFence(node="a", epoch=4))
        assert (await served.control.Fence(fence)).status == pb.STATUS_OK
        assert await others("c") == [("b", 1)], "who is refused has it no more"

    drive(body)
