"""Reservations of a disk that two nodes serve: one state, whichever node is asked or dies."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import pytest

from target.scsi.reservations.state import Type
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer

GOOD, CHECK_CONDITION, BUSY, CONFLICT = 0x00, 0x02, 0x08, 0x18
LEASE_SECONDS = "2"
KEY_A, KEY_B = 0xA, 0xB
ISID = b"\x80\0\0\0\0\1"
WAIT_SECONDS = 60
WRITES = 4  # a session is given no wider window until it has used this one
DELAY = "delay=300ms"  # of the worker: what it is told while a test fences, it is still at


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LunmeshServer]]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        worker = stack.enter_context(LunmeshWorker(folder / "worker", arguments=["--fault", DELAY]))
        flags = ["--redis", redis.url, "--worker", worker.address, "--lease", LEASE_SECONDS]
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


def command(session: Initiator, cdb: bytes, data_out: bytes = b"") -> Task:
    """Run one; unit attentions are taken on the way, and BUSY is for trying again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        task = session.command(cdb, data_out=data_out, read_length=0 if data_out else 4096)
        if task.status not in (CHECK_CONDITION, BUSY):
            return task
        assert time.monotonic() < deadline, task


def login(node: LunmeshServer, name: str) -> Initiator:
    """All with one ISID: initiators often have it the same on every path."""
    name = f"iqn.2026-11.io.lunmesh.test:{name}"
    session = Initiator(node.host, node.port, target=node.iqn, name=name, isid=ISID)
    session.login()
    return session


def out(session: Initiator, action: int, data: bytes, kind: int = Type.EXCLUSIVE_ACCESS) -> int:
    return command(session, pr.pr_out(action, kind, len(data)), data).status


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
