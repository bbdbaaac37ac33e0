"""Reservations of a disk that two nodes serve: one state, whichever node is asked or dies."""

from __future__ import annotations

import contextlib
import signal
import struct
import time
from collections.abc import Iterator

import pytest

from target.scsi.reservations.state import ALL_REGISTRANTS, REGISTRANTS, WRITE_EXCLUSIVE, Type
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import NodeCluster
from tests.support.redis_server import RedisServer
from tests.support.stubborn_writer import StubbornWriter

GOOD, CHECK_CONDITION, BUSY, CONFLICT = 0x00, 0x02, 0x08, 0x18
LEASE_SECONDS = "2"
KEY_A, KEY_B = 0xA, 0xB
REGISTRANTS_ONLY = Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
INVALID_FIELD_IN_PARAMETER_LIST, INVALID_RELEASE = (5, 0x26, 0), (5, 0x26, 4)
RESERVATIONS_PREEMPTED, RESERVATIONS_RELEASED = (6, 0x2A, 3), (6, 0x2A, 4)
REGISTRATIONS_PREEMPTED = (6, 0x2A, 5)
ISID = b"\x80\0\0\0\0\1"
WAIT_SECONDS = 60
WRITES = 4  # a session is given no wider window until it has used this one
WORKER_SECONDS = 3
FENCED_BLOCKS = 8
DELAY = "delay=300ms"  # of the worker: what it is told while a test fences, it is still at


PORT_GROUPS = bytes((0xA3, 0x0A)) + bytes(4) + struct.pack(">I", 255) + bytes(2)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LunmeshServer]]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        worker = stack.enter_context(LunmeshWorker(folder / "worker", arguments=["--fault", DELAY]))
        flags = ["--redis", redis.url, "--worker", worker.address, "--lease", LEASE_SECONDS]
        flags += ["--worker-timeout", str(WORKER_SECONDS)]
        yield [
            stack.enter_context(
                LunmeshServer(
                    folder / f"node{n}",
                    ["disk0=16M"],
                    arguments=[*flags, "--node-id", f"node{n}"],
                )
            )
            for n in (1, 2)
        ]


def command(session: Initiator, cdb: bytes, data_out: bytes = b"", lun: int = 0) -> Task:
    """Run one; unit attentions are taken on the way, and BUSY is for trying again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        task = session.command(cdb, data_out=data_out, read_length=0 if data_out else 4096, lun=lun)
        if task.status not in (CHECK_CONDITION, BUSY):
            return task
        assert time.monotonic() < deadline, task


def login(node: LunmeshServer, name: str) -> Initiator:
    """All with one ISID: initiators often have it the same on every path."""
    name = f"iqn.2026-11.io.lunmesh.test:{name}"
    session = Initiator(node.host, node.port, target=node.iqn, name=name, isid=ISID)
    session.login()
    return session


def out(
    session: Initiator,
    action: int,
    data: bytes,
    kind: int = Type.EXCLUSIVE_ACCESS,
    lun: int = 0,
) -> int:
    return command(session, pr.pr_out(action, kind, len(data)), data, lun).status


def test_one_state_through_every_node(nodes: list[LunmeshServer]) -> None:
    with login(nodes[0], "one") as one, login(nodes[1], "one") as same, login(nodes[1], "b") as two:
        assert out(one, pr.REGISTER, pr.keys(0, KEY_A)) == GOOD
        assert out(one, pr.RESERVE, pr.keys(KEY_A)) == GOOD
        for other in (same, two):  # the same initiator through another port is another nexus
            assert command(other, cdb.read10(0, 1)).status == CONFLICT
            assert out(other, pr.REGISTER, pr.keys(0, KEY_B)) == GOOD
        keys = pr.read_keys_data(3, KEY_A, KEY_B, KEY_B)
        for session in (one, same, two):
            assert command(session, pr.pr_in(pr.READ_KEYS)).data_in == keys
        full = command(two, pr.pr_in(pr.READ_FULL_STATUS)).data_in
        (length,) = struct.unpack_from(">I", full, 28)
        ports = struct.unpack_from(">H", full, 26) + struct.unpack_from(
            ">H", full, 26 + 24 + length
        )
        assert ports == (1, 2)
        to = pr.transport_id("iqn.2026-11.io.lunmesh.test:b", ISID)
        moved = pr.move(KEY_A, KEY_B, to, flags=pr.UNREG, port=2)
        assert out(one, pr.MOVE, moved) == GOOD
        assert command(one, cdb.read10(0, 1)).status == CONFLICT
        assert command(two, cdb.read10(0, 1)).status == GOOD
        assert out(two, pr.CLEAR, pr.keys(KEY_B)) == GOOD
        assert out(one, pr.REGISTER, pr.keys(0, KEY_A, pr.ALL_TG_PT)) == GOOD
        assert command(one, pr.pr_in(pr.READ_KEYS)).data_in[8:] == struct.pack(">2Q", KEY_A, KEY_A)
        assert out(same, pr.CLEAR, pr.keys(KEY_A)) == GOOD


def test_no_write_lands_behind_a_preempt_and_abort_through_another_node(
    nodes: list[LunmeshServer],
) -> None:
    kind = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    with login(nodes[0], "writer") as writer, login(nodes[1], "fence") as fence:
        for session, key in ((writer, KEY_A), (fence, KEY_B)):
            assert out(session, pr.REGISTER, pr.keys(0, key)) == GOOD
        assert out(writer, pr.RESERVE, pr.keys(KEY_A), kind) == GOOD
        running = [writer.start(cdb.write10(n, 1), data_out=b"w" * 512) for n in range(WRITES)]
        # What the node answers, it answers in the order in which it was asked.
        assert writer.command(cdb.TEST_UNIT_READY).status == GOOD
        assert not any(write.done for write in running), "the worker is not that fast"
        assert out(fence, pr.PREEMPT_AND_ABORT, pr.keys(KEY_B, KEY_A), kind) == GOOD
        then = command(fence, cdb.read10(0, WRITES)).data_in
        assert command(writer, cdb.write10(0, 1), b"w" * 512).status == CONFLICT
        assert not any(write.done for write in running), "they were aborted"
        assert command(fence, cdb.read10(0, WRITES)).data_in == then
        assert out(fence, pr.CLEAR, pr.keys(KEY_B)) == GOOD


def test_specified_initiator_ports(nodes: list[LunmeshServer]) -> None:
    """With an ISID each node knows who is meant; without, none can, wherever it is logged in."""
    name = "iqn.2026-11.io.lunmesh.test:named"
    with login(nodes[0], "one") as one, login(nodes[1], "one") as same, login(nodes[1], "named"):
        for session in (one, same):
            data = pr.with_transport_ids(0, KEY_A, [pr.transport_id(name)])
            assert command(session, cdb.TEST_UNIT_READY).status == GOOD  # unit attentions
            task = session.command(pr.pr_out(pr.REGISTER, 0, len(data)), data_out=data)
            assert task.sense_triple == INVALID_FIELD_IN_PARAMETER_LIST
        data = pr.with_transport_ids(0, KEY_A, [pr.transport_id(name, ISID)], flags=pr.ALL_TG_PT)
        assert out(one, pr.REGISTER, data) == GOOD
        assert out(one, pr.RESERVE, pr.keys(KEY_A), REGISTRANTS_ONLY) == GOOD
        with login(nodes[1], "named") as named, login(nodes[1], "b") as stranger:
            assert command(named, cdb.read10(0, 1)).status == GOOD
            assert command(stranger, cdb.read10(0, 1)).status == CONFLICT
        assert out(one, pr.CLEAR, pr.keys(KEY_A)) == GOOD


@pytest.mark.parametrize("stopped", [False, True])
def test_a_fence_through_another_node_ends_a_running_writer(
    nodes: list[LunmeshServer], stopped: bool
) -> None:
    """As Pacemaker's fence_scsi does it.  Whatever the writer's node had taken up, or finds in its
    sockets when it goes on after it was stopped: nothing of it lands any more.
    """
    kind = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    one, other = nodes

    def blocks() -> bytes:
        return bytes(command(fence, cdb.read10(0, FENCED_BLOCKS)).data_in)

    with login(one, "writer") as registering, login(other, "fence") as fence:
        assert out(registering, pr.REGISTER, pr.keys(0, KEY_A, pr.ALL_TG_PT)) == GOOD
        assert out(fence, pr.REGISTER, pr.keys(0, KEY_B)) == GOOD
        assert out(fence, pr.RESERVE, pr.keys(KEY_B), kind) == GOOD
    with (
        login(other, "fence") as fence,
        StubbornWriter(lambda: login(one, "writer"), blocks=FENCED_BLOCKS) as writer,
    ):
        writer.wait_for(GOOD, 2 * FENCED_BLOCKS)
        if stopped:
            one.signal(signal.SIGSTOP)
        try:
            assert out(fence, pr.PREEMPT_AND_ABORT, pr.keys(KEY_B, KEY_A), kind) == GOOD
            then = blocks()
        finally:
            if stopped:
                one.signal(signal.SIGCONT)
        writer.wait_for(CONFLICT, FENCED_BLOCKS)
        watched = time.monotonic() + float(LEASE_SECONDS) + WORKER_SECONDS
        while time.monotonic() < watched:
            assert blocks() == then
    with login(other, "fence") as fence:
        assert out(fence, pr.CLEAR, pr.keys(KEY_B)) == GOOD


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """Nodes without delay, on a Redis that keeps what it has; each test leaves both running."""
    folder = tmp_path_factory.mktemp("durable")
    flags = ["--lease", LEASE_SECONDS]
    with (
        RedisServer(folder / "redis", durable=True) as redis,
        NodeCluster(
            folder, ["disk0=16M", "disk1=16M"], workers=1, arguments=flags, redis=redis
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("empty", [False, True])
def test_what_is_to_last_outlives_everything(cluster: NodeCluster, empty: bool) -> None:
    """All is killed at once; Redis comes back as it was, or with nothing in it."""
    (one, other), (worker,) = cluster.nodes, cluster.workers
    with login(one, "one") as a, login(other, "b") as b:
        capabilities = command(b, pr.pr_in(pr.REPORT_CAPABILITIES)).data_in
        assert capabilities[2] & 1, "PTPL_C"
        flags = pr.APTPL | pr.ALL_TG_PT
        while len(command(a, PORT_GROUPS).data_in) < 4 + 2 * 12:
            pass  # a node that has just joined is known to the others when they renew their leases
        assert out(a, pr.REGISTER, pr.keys(0, KEY_A, flags)) == GOOD
        assert out(b, pr.REGISTER, pr.keys(0, KEY_B, pr.APTPL)) == GOOD
        assert out(a, pr.RESERVE, pr.keys(KEY_A), REGISTRANTS_ONLY) == GOOD
        full = command(a, pr.pr_in(pr.READ_FULL_STATUS)).data_in
        assert out(a, pr.REGISTER, pr.keys(0, KEY_A), lun=1) == GOOD
    for kill in (cluster.redis.kill, one.kill, other.kill, worker.kill):
        kill()
    # Not in the order in which they came first: each is the target port that it was.
    restart = cluster.redis.restart_empty if empty else cluster.redis.start
    for start in (restart, worker.start, other.start, one.start):
        start()
    with login(one, "one") as a, login(other, "one") as same, login(other, "b") as b:
        for session in (a, same, b):
            kept = command(session, pr.pr_in(pr.READ_FULL_STATUS)).data_in
            assert kept[4:] == full[4:]
            assert command(session, cdb.read10(0, 1)).status == GOOD
            there = command(session, pr.pr_in(pr.READ_KEYS), lun=1).data_in[8:]
            assert there == (b"" if empty else struct.pack(">Q", KEY_A)), "not to last"
        for node in (one, other):
            with login(node, "c") as stranger:
                assert command(stranger, cdb.read10(0, 1)).status == CONFLICT
        assert out(b, pr.CLEAR, pr.keys(KEY_B)) == GOOD
        if not empty:
            assert out(a, pr.CLEAR, pr.keys(KEY_A), lun=1) == GOOD


def ends(session: Initiator, action: int, data: bytes, kind: int) -> tuple[int, int, int]:
    """The sense of a PERSISTENT RESERVE OUT, once unit attentions have been taken."""
    assert command(session, cdb.TEST_UNIT_READY).status == GOOD
    task = session.command(pr.pr_out(action, kind, len(data)), data_out=data)
    assert task.status == CHECK_CONDITION
    return task.sense_triple


def access(session: Initiator) -> tuple[int, int]:
    """How a read and a write end."""
    read = command(session, cdb.read10(0, 1)).status
    return read, command(session, cdb.write10(0, 1), b"w" * 512).status


@pytest.mark.parametrize("kind", list(Type))
def test_each_type_through_another_node(cluster: NodeCluster, kind: Type) -> None:
    """What the holder, who is registered and who is not may do, and who may release it."""
    one, other = cluster.nodes
    registrants = (GOOD, GOOD)
    barred = (GOOD if kind in WRITE_EXCLUSIVE else CONFLICT, CONFLICT)
    with login(one, "one") as holder, login(other, "b") as member, login(other, "c") as stranger:
        assert out(holder, pr.REGISTER, pr.keys(0, KEY_A)) == GOOD
        assert out(member, pr.REGISTER, pr.keys(0, KEY_B)) == GOOD
        assert out(holder, pr.RESERVE, pr.keys(KEY_A), kind) == GOOD
        key = 0 if kind in ALL_REGISTRANTS else KEY_A
        held = pr.reservation_data(0, key, kind)[4:]
        for action in (pr.READ_RESERVATION, pr.READ_FULL_STATUS, pr.REPORT_CAPABILITIES):
            answers = {
                bytes(command(each, pr.pr_in(action)).data_in)
                for each in (holder, member, stranger)
            }
            assert len(answers) == 1, "the same through both nodes"
            if action == pr.READ_RESERVATION:
                assert answers.pop()[4:] == held
        assert access(holder) == (GOOD, GOOD)
        assert access(member) == (registrants if kind in REGISTRANTS else barred)
        assert access(stranger) == barred
        assert out(stranger, pr.RESERVE, pr.keys(KEY_B), kind) == CONFLICT, "not registered"
        assert out(stranger, pr.RELEASE, pr.keys(KEY_B), kind) == CONFLICT

        wrong = Type.WRITE_EXCLUSIVE if kind is not Type.WRITE_EXCLUSIVE else Type.EXCLUSIVE_ACCESS
        assert ends(holder, pr.RELEASE, pr.keys(KEY_A), wrong) == INVALID_RELEASE
        assert out(member, pr.RELEASE, pr.keys(KEY_B), kind) == GOOD
        assert (access(stranger) == (GOOD, GOOD)) is (kind in ALL_REGISTRANTS), "only a holder"
        assert out(holder, pr.RELEASE, pr.keys(KEY_A), kind) == GOOD
        assert access(stranger) == (GOOD, GOOD)
        if kind in REGISTRANTS and kind not in ALL_REGISTRANTS:
            assert member.command(cdb.TEST_UNIT_READY).sense_triple == RESERVATIONS_RELEASED
        assert out(holder, pr.CLEAR, pr.keys(KEY_A)) == GOOD
        told = member.command(cdb.TEST_UNIT_READY).sense_triple
        if told == REGISTRATIONS_PREEMPTED:  # found before it was told: owed.py, rule 3
            told = member.command(cdb.TEST_UNIT_READY).sense_triple
        assert told == RESERVATIONS_PREEMPTED


def test_all_target_ports_are_those_of_nodes_that_are_away_or_yet_to_come(
    cluster: NodeCluster,
) -> None:
    one, other = cluster.nodes
    other.stop()
    one.restart()
    with login(one, "one") as session:
        assert out(session, pr.REGISTER, pr.keys(0, KEY_A, pr.ALL_TG_PT)) == GOOD
        assert command(session, pr.pr_in(pr.READ_KEYS)).data_in[8:] == struct.pack(
            ">2Q", KEY_A, KEY_A
        )
        assert out(session, pr.RESERVE, pr.keys(KEY_A), REGISTRANTS_ONLY) == GOOD
    other.start()
    new = cluster.add_node()
    for node in (one, other, new):
        with login(node, "one") as session, login(node, "b") as stranger:
            assert command(session, cdb.write10(0, 1), b"w" * 512).status == GOOD
            assert command(stranger, cdb.read10(0, 1)).status == CONFLICT
            keys = command(session, pr.pr_in(pr.READ_KEYS)).data_in[8:]
            assert keys == struct.pack(">3Q", KEY_A, KEY_A, KEY_A)
            if node is new:
                assert out(session, pr.CLEAR, pr.keys(KEY_A)) == GOOD
    cluster.nodes.remove(new)
    assert new.stop() == 0


def test_a_node_that_dies_leaves_what_is_persistent_and_nothing_else(
    nodes: list[LunmeshServer],
) -> None:
    with login(nodes[1], "b") as two:
        one = login(nodes[0], "one")
        assert command(one, pr.RESERVE6).status == GOOD
        assert command(two, cdb.TEST_UNIT_READY).status == CONFLICT
        nodes[0].kill()
        one.close()
        deadline = time.monotonic() + WAIT_SECONDS
        while command(two, cdb.TEST_UNIT_READY).status == CONFLICT:
            assert time.monotonic() < deadline
        nodes[0].start()
        one = login(nodes[0], "one")
        assert out(one, pr.REGISTER, pr.keys(0, KEY_A)) == GOOD
        assert out(one, pr.RESERVE, pr.keys(KEY_A)) == GOOD
        nodes[0].kill()
        one.close()
        nodes[0].start()
        with login(nodes[0], "one") as one:
            assert command(one, cdb.read10(0, 1)).status == GOOD
            assert command(two, cdb.read10(0, 1)).status == CONFLICT
            assert out(one, pr.CLEAR, pr.keys(KEY_A)) == GOOD
