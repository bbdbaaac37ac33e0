"""A worker's machine that restarts before what was answered is flushed: whoever flushes is told.

An initiator may write through one node and flush through another.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.support import cdb
from tests.support.incrementers import BUSY, CHECK_CONDITION, GOOD, connect, until_good
from tests.support.initiator import Initiator
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import NodeCluster

BLOCK = bytes([7]) * 512
FLUSH = bytes.fromhex("35000000000000000000")
MEDIUM_ERROR, WRITE_ERROR = 0x3, 0x0C
PATIENCE_SECONDS = 60


def flushed(session: Initiator) -> int | tuple[int, int, int]:
    """How a flush ends, once unit attentions have been heard and the worker is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        task = session.command(FLUSH)
        passing = task.status == BUSY or task.sense_key in (0x2, 0x6)  # not ready, attention
        if not passing or time.monotonic() > deadline:
            return task.sense_triple if task.status == CHECK_CONDITION else task.status


def test_a_flush_through_any_node_says_what_may_be_lost(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("the first\n")
    cluster = NodeCluster(tmp_path, ["disk0=16M"], workers=0)
    worker = LunmeshWorker(tmp_path / "worker", boot_id=boot)
    cluster.workers = [worker]
    with cluster:
        one, two = cluster.nodes
        for node in (one, two):
            until_good(node, cdb.TEST_UNIT_READY)
        until_good(one, cdb.write10(0, 1), data_out=BLOCK)
        worker.kill()
        boot.write_text("the second\n")
        worker.start()
        for node in (two, one):  # the one that had written nothing first
            with connect(node, "flusher") as session:
                said = flushed(session)
                assert isinstance(said, tuple), said
                assert said[:2] == (MEDIUM_ERROR, WRITE_ERROR)
                assert flushed(session) == GOOD, "it is said once"
        worker.kill()
        worker.start()  # the process alone: nothing is lost
        for node in (one, two):
            with connect(node, "flusher") as session:
                assert flushed(session) == GOOD
