"""A worker on the same machine: memory that it lends, a socket past gRPC, and no byte lost."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.scrape import Samples, page

IQN = "iqn.2026-11.io.lunmesh:target"
BLOCKS = 512
SIZE = BLOCKS * 512


def figure(name: str, node: LunmeshServer, worker: LunmeshWorker) -> float:
    return Samples(page(node.admin, "/metrics").text).get(name, worker=worker.address)


def data(number: int) -> bytes:
    return bytes([number]) * SIZE


@pytest.mark.parametrize("direct", ["on", "off"])
def test_writes_go_through_lent_memory_and_a_socket(tmp_path: Path, direct: str) -> None:
    with (
        LunmeshWorker(tmp_path / "w", arguments=["--direct-reads", direct]) as worker,
        LunmeshServer(
            tmp_path / "s", ["disk0=64M"], arguments=["--worker", worker.address]
        ) as node,
        Initiator("127.0.0.1", node.port, target=IQN) as initiator,
    ):
        initiator.login()
        while initiator.command(cdb.TEST_UNIT_READY).sense_key:
            pass
        for number in range(1, 5):
            task = initiator.command(cdb.write10(number * BLOCKS, BLOCKS), data_out=data(number))
            assert task.status == 0
        assert (figure("worker_lent_bytes_total", node, worker) > 0) == (direct == "on")
        assert (figure("worker_on_socket", node, worker) == 1) == (direct == "on")
        # What was on its way when the worker died is sent again, by the next stream's memory.
        worker.signal(signal.SIGSTOP)
        late = [
            initiator.start(cdb.write10(number * BLOCKS, BLOCKS), data_out=data(number))
            for number in range(5, 9)
        ]
        worker.kill()
        worker.start()
        initiator.wait(*late)
        assert [task.status for task in late] == [0] * 4
        for number in range(1, 9):
            task = initiator.command(cdb.read10(number * BLOCKS, BLOCKS), read_length=SIZE)
            assert bytes(task.data_in) == data(number)
