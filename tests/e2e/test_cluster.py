"""A disk that two nodes serve: one copy, one task set, whichever node dies or stalls."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.incrementers import GOOD, Incrementers, connect, until_good
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import TaskFunction
from tests.support.lunmesh_server import LunmeshServer
from tests.support.node_cluster import NodeCluster
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

LEASE_SECONDS = 2
WAIT_SECONDS = 60
CHECK_CONDITION = 0x02
UNIT_ATTENTION, RESET_OCCURRED, CLEARED_BY_ANOTHER = 6, 0x29, 0x2F
FUNCTION_COMPLETE = 0
ROUNDS = 20
BLOCKS = 64
WRITES = 2  # fewer than the window of a session that has used little of it
BOUNDARY = (1 << 20) // 512  # of two chunks, which two workers have


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[NodeCluster]:
    options = ("--lease", str(LEASE_SECONDS), "--cluster-wait", "5")
    with NodeCluster(folder, ["disk0=16M"], arguments=options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def all_the_time(cluster: NodeCluster) -> Iterator[Incrementers]:
    counting = Incrementers(cluster.nodes[:2])
    with counting:
        counting.all_go_on()
        yield counting
    counting.check()


def ready(session: Initiator) -> Initiator:
    """What it has not been told yet, it is told now."""
    deadline = time.monotonic() + WAIT_SECONDS
    while session.command(cdb.TEST_UNIT_READY).status != GOOD:
        assert time.monotonic() < deadline
    return session


def attention(session: Initiator) -> tuple[int, int]:
    """Sense key and additional sense code of the next unit attention."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (task := session.command(cdb.TEST_UNIT_READY)).status != CHECK_CONDITION:
        assert time.monotonic() < deadline
    return task.sense[2] & 0xF, task.sense[12]


def test_overlapping_writes_through_both_leave_one_of_them(cluster: NodeCluster) -> None:
    """Across the boundary of two workers, which know nothing of each other."""
    one, two = cluster.nodes
    with connect(one, "one") as a, connect(two, "two") as b:
        sessions = [ready(a), ready(b)]
        for number in range(ROUNDS):
            lba = BOUNDARY - BLOCKS // 2
            patterns = [bytes([2 * number + n]) * (BLOCKS * 512) for n in range(2)]
            writes = [
                session.start(cdb.write10(lba, BLOCKS), data_out=pattern)
                for session, pattern in zip(sessions, patterns, strict=True)
            ]
            for session, write in zip(sessions, writes, strict=True):
                session.wait(write)
                assert write.status == GOOD
            found = {
                bytes(session.command(cdb.read10(lba, BLOCKS), read_length=BLOCKS * 512).data_in)
                for session in sessions
            }
            assert len(found) == 1
            assert found <= set(patterns)


@pytest.mark.parametrize(
    ("function", "asc"),
    [
        (TaskFunction.LOGICAL_UNIT_RESET, RESET_OCCURRED),
        (TaskFunction.TARGET_WARM_RESET, RESET_OCCURRED),
        (TaskFunction.CLEAR_TASK_SET, CLEARED_BY_ANOTHER),
    ],
)
def test_what_ends_commands_ends_those_of_the_other_node(
    cluster: NodeCluster, function: TaskFunction, asc: int
) -> None:
    one, two = cluster.nodes
    lba = 8192
    before = until_good(two, cdb.read10(lba, WRITES), read_length=WRITES * 512)
    fresh = bytes([before[0] ^ 1]) * 512
    with (
        connect(one, "writer") as writer,
        connect(two, "ends") as ends,
        ThreadPoolExecutor(1) as thread,
    ):
        ready(writer)
        ready(ends)
        for worker in cluster.workers:
            worker.signal(signal.SIGSTOP)
        try:
            running = [writer.start(cdb.write10(lba + n, 1), data_out=fresh) for n in range(WRITES)]
            writer.nop(b"they have been taken", immediate=True)
            answer = thread.submit(ends.task_management, function)
            told = attention(writer)  # of it, while what has been asked for cannot be over
            assert not any(write.done for write in running)
        finally:
            for worker in cluster.workers:
                worker.signal(signal.SIGCONT)
        assert answer.result(WAIT_SECONDS) == FUNCTION_COMPLETE
        then = until_good(two, cdb.read10(lba, WRITES), read_length=WRITES * 512)
        assert told == (UNIT_ATTENTION, asc)
        ready(writer)
        assert not any(write.done for write in running), "they were aborted"
        assert until_good(one, cdb.read10(lba, WRITES), read_length=WRITES * 512) == then


def test_a_node_that_is_killed(cluster: NodeCluster, all_the_time: Incrementers) -> None:
    one, _ = cluster.nodes
    one.kill()
    others_go_on(all_the_time, 1)
    one.start()
    all_the_time.all_go_on()


def test_a_node_that_is_stopped_for_longer_than_its_lease(
    cluster: NodeCluster, all_the_time: Incrementers
) -> None:
    one, two = cluster.nodes
    two.signal(signal.SIGSTOP)
    others_go_on(all_the_time, 0)
    until(lambda: one.stderr().count("node has been shut out node=node1") > 0)
    two.signal(signal.SIGCONT)
    all_the_time.all_go_on()
    assert "starting anew" in two.stderr()


def test_volumes_through_any_node_and_one_that_comes_late(
    cluster: NodeCluster, folder: Path
) -> None:
    one, two = (VolumeCommand(node) for node in cluster.nodes)
    one.good("create", "extra", "8M")
    two.good("resize", "extra", "12M")
    places = [part for worker in cluster.workers for part in ("--worker", worker.address)]
    late = LunmeshServer(
        folder / "late",
        ["disk0=16M,chunk=1M"],
        arguments=[*("--redis", cluster.redis.url, "--node-id", "late"), *places],
    )
    with late:
        three = VolumeCommand(late)
        known = [
            [(v["name"], v["uuid"], v["lun"], v["size_bytes"]) for v in of.json("list")]
            for of in (one, two, three)
        ]
        assert known[0] == known[1] == known[2]
        assert [(name, size) for name, _, _, size in known[2]] == [
            ("disk0", 16 << 20),
            ("extra", 12 << 20),
        ]
        three.good("delete", "extra", "--yes", "--force")
        # Initiators see it nowhere; it is listed until its data are gone, which nobody waits for.
        for of in (one, two, three):
            assert [v["name"] for v in of.json("list") if v["lun"] is not None] == ["disk0"]
        until(lambda: all(len(of.json("list")) == 1 for of in (one, two, three)))
        assert late.stop() == 0


def test_a_node_that_is_shut_out_while_it_starts_begins_anew(
    cluster: NodeCluster, folder: Path
) -> None:
    """And not before its first life is over: that one is never let in to the catalog."""
    with cluster.redis.client() as redis:
        redis.hset("lunmesh:{catalog}:meta", "f:unlucky", "1")
    places = [part for worker in cluster.workers for part in ("--worker", worker.address)]
    arguments = ["--redis", cluster.redis.url, "--node-id", "unlucky", *places]
    with LunmeshServer(folder / "unlucky", ["disk0=16M"], arguments=arguments) as unlucky:
        assert unlucky.stderr().count("starting anew") == 1
        assert unlucky.stop() == 0


def others_go_on(counting: Incrementers, number: int) -> None:
    """The one with that number counts, while the other cannot."""
    goal = counting.done[number] + ROUNDS
    until(lambda: counting.done[number] >= goal)
