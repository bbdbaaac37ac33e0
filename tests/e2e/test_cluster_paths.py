"""What initiators of one node learn of the other: functions, sessions, portals, access states."""

from __future__ import annotations

import contextlib
import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.support import cdb
from tests.support import iscsi_pdu as wire
from tests.support.incrementers import GOOD, connect, until_good
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import NO_TAG, Opcode, TaskFunction
from tests.support.iscsi_socket import Disconnected
from tests.support.lunmesh_server import LunmeshServer
from tests.support.node_cluster import NodeCluster
from tests.support.scrape import scrape
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

WAIT_SECONDS = 60
FUNCTION_COMPLETE = 0
SESSION_DROPPED = 3
STATE_CHANGED = (6, 0x2A, 0x06)
OPTIMIZED, UNAVAILABLE = 0, 3
LBA, WRITES = 64, 2
REPORT_TARGET_PORT_GROUPS = bytes((0xA3, 0x0A)) + bytes(4) + struct.pack(">I", 255) + bytes(2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    folder = tmp_path_factory.mktemp("paths")
    options = ("--lease", "2", "--cluster-wait", "5")
    with NodeCluster(folder, ["disk0=16M"], workers=1, arguments=options) as cluster:
        yield cluster


def ready(*sessions: Initiator) -> None:
    """What they have not been told yet, they are told now."""
    for session in sessions:
        until(partial(_good, session))


def _good(session: Initiator) -> bool:
    return session.command(cdb.TEST_UNIT_READY).status == GOOD


def blocks(node: LunmeshServer) -> bytes:
    return until_good(node, cdb.read10(LBA, WRITES), read_length=WRITES * 512)


class Held:
    """Writes of a session that a worker which stands still does not answer."""

    def __init__(self, cluster: NodeCluster, writer: Initiator) -> None:
        fresh = bytes([blocks(cluster.nodes[0])[0] ^ 1]) * 512
        (self._worker,) = cluster.workers
        self._worker.signal(signal.SIGSTOP)
        self.writes = [writer.start(cdb.write10(LBA + n, 1), data_out=fresh) for n in range(WRITES)]
        # Before they are with the worker, an abort need not wait for it.
        until(lambda: sum(scrape(cluster.nodes[0].admin).values("worker_unanswered")) >= WRITES)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.signal(signal.SIGCONT)


def dropped(session: Initiator) -> bool:
    """Whether the target says so, and then does so."""
    with contextlib.suppress(Disconnected):
        while True:
            session.process(session.read_pdu())
    return [event.async_event for event in session.events] == [SESSION_DROPPED]


@pytest.mark.parametrize("function", [TaskFunction.ABORT_TASK, TaskFunction.ABORT_TASK_SET])
def test_what_is_aborted_lands_no_more_and_concerns_no_other_nexus(
    cluster: NodeCluster, function: TaskFunction
) -> None:
    one, two = cluster.nodes
    with connect(one, "writer") as writer, connect(one, "a") as beside, connect(two, "b") as other:
        ready(writer, beside, other)
        with Held(cluster, writer) as held:
            first, second = held.writes
            named = function == TaskFunction.ABORT_TASK
            request = wire.task_management(
                function=function,
                itt=writer.new_tag(),
                cmd_sn=writer.next_cmd_sn(immediate=True),
                exp_stat_sn=writer.exp_stat_sn,
                referenced_tag=first.itt if named else NO_TAG,
                ref_cmd_sn=first.cmd_sn if named else 0,
                immediate=True,
            )
            writer.socket.send(request)
            writer.nop(b"not answered yet", immediate=True)
        while (answer := writer.read_pdu()).opcode != Opcode.TASK_MANAGEMENT_RESPONSE:
            writer.process(answer)
        assert answer.response == FUNCTION_COMPLETE
        then = blocks(two)
        for session in (beside, other):
            assert session.command(cdb.TEST_UNIT_READY).status == GOOD
        if named:
            writer.wait(second)
            assert second.status == GOOD
        else:
            assert not second.done
        assert not first.done
        ready(writer)
        assert blocks(one)[:512] == then[:512]
        assert named or blocks(one) == then


def test_a_cold_reset_through_one_node_drops_the_sessions_of_both(cluster: NodeCluster) -> None:
    one, two = cluster.nodes
    with (
        connect(one, "writer") as writer,
        connect(one, "beside") as beside,
        connect(two, "resets") as resets,
        ThreadPoolExecutor(1) as thread,
    ):
        ready(writer, beside, resets)
        with Held(cluster, writer) as held:
            answer = thread.submit(resets.task_management, TaskFunction.TARGET_COLD_RESET)
            assert dropped(writer), "while what runs there cannot be over"
            assert dropped(beside)
            assert not any(write.done for write in held.writes)
            assert not answer.done()
        assert answer.result(WAIT_SECONDS) == FUNCTION_COMPLETE
        assert dropped(resets)
        then = blocks(two)
        with connect(one, "writer") as again:
            ready(again)
            assert again.nop(b"it stays") == b"it stays"
        assert blocks(one) == then


def test_each_node_knows_the_sessions_of_all(cluster: NodeCluster) -> None:
    one, two = cluster.nodes

    def seen(node: LunmeshServer) -> dict[str, Any]:
        found = VolumeCommand(node, "session").json("list")
        return {it["initiator"].rpartition(":")[2]: it for it in found}

    def both_see(*names: str) -> bool:
        return all(seen(node).keys() == {*names} for node in cluster.nodes)

    with connect(one, "x") as x:
        with connect(two, "y"):
            until(lambda: both_see("x", "y"))
            known, own = seen(two)["x"], seen(one)["x"]
            assert (known["node"], known["commands"], own["commands"]) == ("node0", None, 0)
            here_only = {name: own[name] for name in ("commands", "window")}
            assert {**known, **here_only} == own
            assert known["isid"] == x.isid.hex()
            assert "node1" in VolumeCommand(one, "session").good("list")
        until(lambda: both_see("x"))
    until(both_see)


def test_a_command_of_the_other_node_that_is_over_is_not_aborted(cluster: NodeCluster) -> None:
    one, two = cluster.nodes
    task = VolumeCommand(two, "task")
    with connect(one, "writer") as writer:
        ready(writer)
        with Held(cluster, writer) as held:
            until(lambda: len(task.json("list")["tasks"]) == WRITES)
            names = [it["id"] for it in task.json("list")["tasks"]]
        writer.wait(*held.writes)
        assert [write.status for write in held.writes] == [GOOD, GOOD]
        until(lambda: not task.json("list")["tasks"])
        for name in names:
            assert "is over" in task.refused("abort", name)


def test_discovery_names_all_portals_and_a_dead_node_is_unavailable(cluster: NodeCluster) -> None:
    one, two = cluster.nodes
    with Initiator(one.host, one.port) as discovery:
        discovery.login(discovery=True)
        portals = [f"{node.host}:{node.port},{n}" for n, node in enumerate(cluster.nodes, 1)]
        assert discovery.send_targets() == [(one.iqn, portals)]

    with connect(one, "path") as path:
        ready(path)

        def states() -> dict[int, int]:
            data = path.command(REPORT_TARGET_PORT_GROUPS, read_length=255).data_in
            found, at = {}, 4
            while at < 4 + int.from_bytes(data[:4]):
                found[int.from_bytes(data[at + 2 : at + 4])] = data[at] & 0xF
                at += 8 + 4 * data[at + 7]
            return found

        assert states() == {1: OPTIMIZED, 2: OPTIMIZED}
        two.kill()
        told: list[tuple[int, int, int]] = []

        def attention() -> bool:
            task = path.command(cdb.TEST_UNIT_READY)
            if task.status != GOOD:
                told.append(task.sense_triple)
            return bool(told)

        until(attention)
        assert told == [STATE_CHANGED]
        assert states() == {1: OPTIMIZED, 2: UNAVAILABLE}
        two.start()
        until(lambda: attention() and len(told) > 1)
        assert told == [STATE_CHANGED, STATE_CHANGED]
        assert states() == {1: OPTIMIZED, 2: OPTIMIZED}
