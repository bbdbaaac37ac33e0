"""Real `lunmesh worker --store rados:` processes on the real Ceph: one is stopped and shut out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lunmesh.worker.v2 import worker_pb2 as pb

from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_worker import PROJECT_ROOT, LunmeshWorker
from tests.support.worker_client import WorkerClient
from workers.store import IoKind, StoreStatus

pytestmark = pytest.mark.ceph
WRITES = 64
BYTES = 16 << 10
OLD, NEW = b"o" * BYTES, b"n" * BYTES


async def rejoined(client: WorkerClient, uuid: bytes, before: pb.OpenVolumeResponse) -> None:
    """Ask for the volume, as a node does, until the worker serves it as somebody else."""
    request = pb.OpenVolumeRequest(node="node", epoch=1, uuid=uuid)
    async with asyncio.timeout(30):
        while True:
            opened = await client.control.OpenVolume(request)
            if opened.status == pb.STATUS_OK and opened.instance != before.instance:
                assert opened.handle != before.handle
                return
            assert opened.status in (pb.STATUS_OK, pb.STATUS_UNAVAILABLE), opened.detail
            await asyncio.sleep(0.05)


async def overtaken(first: LunmeshWorker, second: LunmeshWorker) -> None:
    async with WorkerClient(first.address) as a, WorkerClient(second.address) as b:
        uuid = await a.create("disk", size=WRITES * BYTES)
        mine, theirs = await a.opened(uuid), await b.opened(uuid)
        assert mine.shared
        assert mine.store_id == theirs.store_id
        worker_name = (await a.control.GetStatus(pb.GetStatusRequest())).worker
        stream = await a.stream()
        await stream.run(stream.io(IoKind.WRITE, mine.handle, 0, BYTES, OLD))
        # Some of these are on their way to the OSD when the worker is stopped, some in its queue,
        # some in its socket.
        writes = [
            stream.io(IoKind.WRITE, mine.handle, n * BYTES, BYTES, OLD) for n in range(WRITES)
        ]
        half = WRITES // 2
        await stream.send(*writes[:half])
        first.signal(signal.SIGSTOP)
        # Nobody reads it now: the call may return only when the worker runs again.
        sending = asyncio.ensure_future(stream.send(*writes[half:]))

        request = pb.EvictRequest(store_id=theirs.store_id, instance=mine.instance)
        assert (await b.control.Evict(request)).status == pb.STATUS_OK
        other = await b.stream()
        news = [other.io(IoKind.WRITE, theirs.handle, n * BYTES, BYTES, NEW) for n in range(WRITES)]
        assert {answer.status for answer in await other.run(*news)} == {StoreStatus.OK}

        first.signal(signal.SIGCONT)
        await asyncio.gather(sending, return_exceptions=True)
        code, details = await stream.status_after_all()
        assert (code, details) == ("UNAVAILABLE", "the worker has been shut out of its store")
        await rejoined(a, uuid, mine)
        reads = [other.io(IoKind.READ, theirs.handle, n * BYTES, BYTES) for n in range(WRITES)]
        found = [b"".join(answer.payload) for answer in await other.run(*reads)]
        assert found == [NEW] * WRITES, "something of the first worker landed late"
        assert (await a.control.GetStatus(pb.GetStatusRequest())).worker != worker_name
        again = await a.stream(epoch=1)
        handle = (await a.opened(uuid)).handle
        (stale,) = await again.run(again.io(IoKind.WRITE, mine.handle, 0, BYTES, OLD))
        assert stale.status is StoreStatus.UNAVAILABLE, "a handle of before"
        (answer,) = await again.run(again.io(IoKind.WRITE, handle, 0, BYTES, OLD))
        assert answer.status is StoreStatus.OK
        (answer,) = await other.run(other.io(IoKind.READ, theirs.handle, 0, BYTES))
        assert b"".join(answer.payload) == OLD


def test_nothing_of_a_stopped_worker_lands_after_its_eviction(
    ceph: CephCluster, tmp_path: Path
) -> None:
    store = f"rados:{ceph.create_pool()}@{ceph.conf}"
    with (
        LunmeshWorker(tmp_path / "a", store=store) as first,
        LunmeshWorker(tmp_path / "b", store=store) as second,
    ):
        asyncio.run(asyncio.wait_for(overtaken(first, second), 60))
        assert second.stop() == 0
        assert first.stop() == 0
        log = first.stderr_path.read_text()
        assert log.count("evicted") == log.count("rejoined") == 1
        assert "Traceback" not in log


async def kept_waiting(ceph: CephCluster, worker: LunmeshWorker) -> None:
    async with WorkerClient(worker.address) as client:
        handle = await client.open("disk")
        stream = await client.stream()
        os.kill(ceph.osd_pid, signal.SIGSTOP)
        writes = [stream.io(IoKind.WRITE, handle, n * 512, 512, b"x" * 512) for n in range(8)]
        await stream.send(*writes)
        running = 0
        while running < len(writes):
            running = (await client.control.GetStatus(pb.GetStatusRequest())).operations_running
        assert await asyncio.to_thread(worker.stop) == 0


def test_a_worker_stops_though_its_cluster_does_not_answer(
    ceph: CephCluster, ceph_pool: str, tmp_path: Path
) -> None:
    store = f"rados:{ceph_pool}@{ceph.conf}"
    with LunmeshWorker(tmp_path, store=store, arguments=["--shutdown-timeout", "1"]) as worker:
        try:
            asyncio.run(asyncio.wait_for(kept_waiting(ceph, worker), 60))
        finally:
            os.kill(ceph.osd_pid, signal.SIGCONT)
        assert "I/Os still run" in worker.stderr_path.read_text()


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("rados:nopool@{conf}", "has no pool 'nopool'"),
        ("rados:{pool}@{conf}.not", "cannot read"),
        ("rados:{pool}@{nowhere}", "cannot reach the cluster"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    ceph: CephCluster, ceph_pool: str, tmp_path: Path, store: str, said: str
) -> None:
    nowhere = tmp_path / "ceph.conf"
    nowhere.write_text("[global]\nmon host = v2:127.0.0.1:1\nauth client required = none\n")
    store = store.format(conf=ceph.conf, pool=ceph_pool, nowhere=nowhere)
    command = [sys.executable, "-m", "target.cli", "worker", "--listen", f"unix:{tmp_path}/s"]
    done = subprocess.run(
        [*command, "--store", store],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("lunmesh: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
