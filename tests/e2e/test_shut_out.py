"""Two nodes on one worker: what initiators see when that shuts a node out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lunmesh.worker.v2 import worker_pb2 as pb

from tests.support import cdb
from tests.support.incrementers import GOOD, connect, until_good
from tests.support.iscsi_socket import Disconnected
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import NodeCluster
from tests.support.until import until
from tests.support.worker_client import WorkerClient

BLOCK = 512
WRITES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shut_out")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[NodeCluster]:
    cluster = NodeCluster(folder, ["disk0=16M"], workers=0)
    delay = ["--fault", "delay=200ms"]  # so that something is in flight
    cluster.workers = [LunmeshWorker(folder / "worker", arguments=delay)]
    with cluster:
        yield cluster


def epoch_of(node: LunmeshServer) -> int:
    return int(json.loads((node.data_dir / "node.json").read_text())["epoch"])


async def fence(address: str, node: str, epoch: int) -> int:
    async with WorkerClient(address) as worker:
        request = pb.FenceRequest(fence=pb.NodeFence(node=node, epoch=epoch), timeout_ms=10_000)
        answer: pb.FenceResponse = await worker.control.Fence(request)
        return answer.status


def shut_out_while_it_writes(
    cluster: NodeCluster, data: bytes, *, with_redis: bool = True
) -> tuple[int, list[Task]]:
    """Node 0: the epoch that it had, and its writes, which have ended or never will."""
    node = cluster.nodes[0]
    until_good(node, cdb.TEST_UNIT_READY)
    epoch = epoch_of(node)
    with connect(node, "writer") as writer:
        while writer.command(cdb.TEST_UNIT_READY).status != GOOD:
            pass
        writes = [writer.start(cdb.write10(lba, 1), data_out=data) for lba in range(WRITES)]
        writer.nop(b"they have been taken", immediate=True)
        if not with_redis:
            cluster.redis.kill()
        assert asyncio.run(fence(cluster.workers[0].address, "node0", epoch)) == pb.STATUS_OK
        with contextlib.suppress(Disconnected):
            writer.wait(*writes)
    return epoch, writes


def test_no_command_fails_when_a_worker_refuses_its_node(cluster: NodeCluster) -> None:
    """Its initiator goes another way when the connection ends, and gives up after an error."""
    one, two = cluster.nodes
    data = bytes([7]) * BLOCK
    before, writes = shut_out_while_it_writes(cluster, data)
    assert {write.status for write in writes if write.done} <= {GOOD}
    assert not all(write.done for write in writes), "they were over before"
    for lba in range(WRITES):
        until_good(two, cdb.write10(lba, 1), data_out=data)
        assert until_good(one, cdb.read10(lba, 1), read_length=BLOCK) == data
    assert epoch_of(one) > before
    assert "this node has been shut out" in one.stderr()


def test_one_that_is_shut_out_while_redis_is_away_waits_for_it(cluster: NodeCluster) -> None:
    """It does not end for that: nobody might be there to start it again."""
    one = cluster.nodes[0]
    data = bytes([8]) * BLOCK
    before, _ = shut_out_while_it_writes(cluster, data, with_redis=False)
    until(lambda: "cannot begin anew yet" in one.stderr())
    cluster.redis.start()
    for lba in range(WRITES):
        until_good(one, cdb.write10(lba, 1), data_out=data)
    assert epoch_of(one) > before
