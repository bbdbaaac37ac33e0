"""Reads of what a worker on the same machine has cached: by the node itself, where that is right.

A worker that is stopped answers nothing, so what is read meanwhile was not read by it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_socket import NoAnswer
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import NodeCluster

IQN = "iqn.2026-11.io.lunmesh:target"
BLOCKS = 8
UNANSWERED_SECONDS = 0.3
OLD, NEW = bytes([1]) * 4096, bytes([2]) * 4096


@contextlib.contextmanager
def stopped(worker: LunmeshWorker) -> Iterator[None]:
    """It may go on before the end of the block."""
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


@contextlib.contextmanager
def session(node: LunmeshServer) -> Iterator[Initiator]:
    with Initiator("127.0.0.1", node.port, target=IQN) as initiator:
        initiator.login()
        hear_attentions(initiator)
        yield initiator


def hear_attentions(initiator: Initiator) -> None:
    while initiator.command(cdb.TEST_UNIT_READY).sense_key:
        pass


def write(initiator: Initiator, lba: int, data: bytes) -> None:
    assert initiator.command(cdb.write10(lba, BLOCKS), data_out=data).status == 0


def read(initiator: Initiator, lba: int) -> bytes:
    task = initiator.command(cdb.read10(lba, BLOCKS), read_length=BLOCKS * 512)
    assert task.status == 0
    return bytes(task.data_in)


def answered(initiator: Initiator, lba: int, worker: LunmeshWorker) -> bool:
    """Whether a read is answered while the worker is stopped; in the end it is."""
    with stopped(worker):
        task = initiator.start(cdb.read10(lba, BLOCKS), read_length=BLOCKS * 512)
        try:
            initiator.wait(task, timeout=UNANSWERED_SECONDS)
            at_once = True
        except NoAnswer:
            at_once = False
    initiator.wait(task)
    assert task.status == 0
    return at_once


@pytest.mark.parametrize("direct", ["on", "off"])
def test_the_node_reads_what_is_cached(tmp_path: Path, direct: str) -> None:
    with (
        LunmeshWorker(tmp_path / "w", arguments=["--direct-reads", direct]) as worker,
        LunmeshServer(
            tmp_path / "s", ["disk0=64M"], arguments=["--worker", worker.address]
        ) as node,
        session(node) as initiator,
    ):
        write(initiator, 0, OLD)
        assert answered(initiator, 0, worker) == (direct == "on")


def test_a_read_waits_for_the_write_that_it_overlaps(tmp_path: Path) -> None:
    with (
        LunmeshWorker(tmp_path / "w") as worker,
        LunmeshServer(
            tmp_path / "s", ["disk0=64M"], arguments=["--worker", worker.address]
        ) as node,
        session(node) as initiator,
    ):
        write(initiator, 0, OLD)
        write(initiator, BLOCKS, OLD)
        with stopped(worker):
            late = initiator.start(cdb.write10(0, BLOCKS), data_out=NEW)
            assert read(initiator, BLOCKS) == OLD
            behind = initiator.start(cdb.read10(0, BLOCKS), read_length=BLOCKS * 512)
            with pytest.raises(NoAnswer):
                initiator.wait(behind, timeout=UNANSWERED_SECONDS)
        initiator.wait(late, behind)
        assert bytes(behind.data_in) == NEW


def test_what_a_worker_granted_is_over_with_its_process(tmp_path: Path) -> None:
    with (
        LunmeshWorker(tmp_path / "w") as worker,
        LunmeshServer(
            tmp_path / "s", ["disk0=64M"], arguments=["--worker", worker.address]
        ) as node,
        session(node) as initiator,
    ):
        write(initiator, 0, OLD)
        worker.kill()
        task = initiator.start(cdb.write10(BLOCKS, BLOCKS), data_out=NEW)
        behind = initiator.start(cdb.read10(BLOCKS, BLOCKS), read_length=BLOCKS * 512)
        worker.start()
        initiator.wait(task, behind)
        assert bytes(behind.data_in) == NEW
        assert answered(initiator, 0, worker)


def test_volumes_on_several_workers(tmp_path: Path) -> None:
    with (
        LunmeshWorker(tmp_path / "w0") as first,
        LunmeshWorker(tmp_path / "w1") as second,
        LunmeshServer(
            tmp_path / "s",
            ["disk0=64M,chunk=64K"],
            arguments=["--worker", first.address, "--worker", second.address],
        ) as node,
        session(node) as initiator,
        stopped(first),
        stopped(second),
    ):
        for chunk in range(16):  # nothing of it is written: the file has zeros
            assert read(initiator, chunk * 128) == bytes(4096)
        with contextlib.suppress(NoAnswer):  # from both, and so from none at once
            across = initiator.start(cdb.read10(124, BLOCKS), read_length=BLOCKS * 512)
            initiator.wait(across, timeout=UNANSWERED_SECONDS)
            raise AssertionError("a read of two chunks is the workers'")


def test_only_while_no_other_node_serves_the_volume(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["disk0=64M"], workers=1) as cluster:
        worker, (one, other) = cluster.workers[0], cluster.nodes
        with session(one) as initiator:
            write(initiator, 0, OLD)
            assert not answered(initiator, 0, worker), "another node may be writing there"
            assert other.stop() == 0
            hear_attentions(initiator)
            write(initiator, 0, NEW)  # it finds out that it is alone
            while not answered(initiator, 0, worker):
                pass
            other.start()
            with session(other) as second:
                hear_attentions(initiator)
                write(second, 0, OLD)
                assert not answered(initiator, 0, worker)
                assert read(initiator, 0) == OLD
