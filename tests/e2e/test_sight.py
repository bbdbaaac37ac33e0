"""`lunmesh node`, `session` and `task`: what two real nodes say of what happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import Opcode
from tests.support.iscsi_socket import Disconnected
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import NodeCluster
from tests.support.redis_server import RedisServer
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

ABORTED_COMMAND = 0x0B
LOGOUT_REQUESTED, SESSION_DROPPED = 1, 3  # Async Messages


@contextmanager
def logged_in(server: LunmeshServer, name: str) -> Iterator[Initiator]:
    with Initiator(server.host, server.port, target=server.iqn, name=name) as initiator:
        initiator.login()
        initiator.command(cdb.TEST_UNIT_READY)
        yield initiator


def ask(server: LunmeshServer, group: str) -> Any:
    return VolumeCommand(server, group).json("list")


def test_a_node_alone(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path / "a", ["disk0=16M"]) as server, logged_in(server, "iqn.x:one"):
        (node,) = ask(server, "node")
        assert (node["state"], node["here"]) == ("alone", True)
        (session,) = ask(server, "session")
        assert session["initiator"] == "iqn.x:one"
        assert ask(server, "task")["tasks"] == []
        tasks = VolumeCommand(server, "task")
        assert "is over" in tasks.refused("abort", "alone/0/1/iqn.x:one,i,0x00")
        assert "no task" in tasks.refused("abort", "nonsense")
        sessions = VolumeCommand(server, "session")
        assert "iqn.x:one" in sessions.good("list")
        assert sessions.json("show", session["id"])["tsih"] == session["tsih"]
        assert "no session" in sessions.refused("show", "alone/77")
        assert VolumeCommand(server, "node").json("show", "alone") == node
        assert "no node" in VolumeCommand(server, "node").refused("show", "nobody")


def test_a_session_is_dropped_whichever_node_is_asked(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    with NodeCluster(
        tmp_path, ["a=16M"], workers=1, arguments=["--audit-log", str(audit)]
    ) as cluster:
        here, there = cluster.nodes
        asked = VolumeCommand(here, "session")
        shown = VolumeCommand(here, "node").good("show", "node1")
        assert all(word in shown for word in ("serving", there.portal)), shown
        with logged_in(here, "iqn.x:stays"), logged_in(there, "iqn.x:goes") as goes:

            def listed() -> dict[str, str]:
                return {it["initiator"]: it["id"] for it in asked.json("list")}

            until(lambda: len(listed()) == 2)
            wanted = listed()["iqn.x:goes"]
            assert wanted.startswith("node1/")
            assert "iqn.x:goes" in asked.good("show", wanted)
            told: list[int] = []
            waiting = threading.Thread(target=lambda: told.extend(until_dropped(goes)))
            waiting.start()
            assert asked.json("drop", wanted) == {"deleted": wanted}
            waiting.join(30)
            assert told == [LOGOUT_REQUESTED, SESSION_DROPPED]
            assert [*listed()] == ["iqn.x:stays"]
            refusal = asked.run("drop", wanted, "--json")
            assert (refusal.status, json.loads(refusal.error)["status"]) == (1, 404)
            with logged_in(there, "iqn.x:goes"):
                until(lambda: len(listed()) == 2)
            own = listed()["iqn.x:stays"]
            asked.good("drop", own)
            assert listed() == {}
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(it["method"], it["path"], it["status"]) for it in lines] == [
        ("DELETE", f"/v1/sessions/{wanted}", 204),
        ("DELETE", f"/v1/sessions/{wanted}", 404),
        ("DELETE", f"/v1/sessions/{own}", 204),
    ]


def until_dropped(initiator: Initiator) -> Iterator[int]:
    """The events that it is told of, until its connection ends."""
    with contextlib.suppress(Disconnected):
        while True:
            pdu = initiator.read_pdu()
            if pdu.opcode == Opcode.ASYNC:
                yield pdu.async_event


@pytest.mark.parametrize("asked", ["a", "b"])
def test_a_command_of_one_node_is_seen_and_ended_by_another(tmp_path: Path, asked: str) -> None:
    with (
        RedisServer(tmp_path / "redis") as redis,
        LunmeshWorker(tmp_path / "worker") as worker,
    ):
        cluster = ["--redis", redis.url, "--worker", worker.address]
        nodes = {
            name: LunmeshServer(
                tmp_path / name, ["disk0=16M"], arguments=[*cluster, "--node-id", name]
            )
            for name in "ab"
        }
        # In this order: a node that comes later is a unit attention for who has logged in.
        with nodes["b"] as b, nodes["a"] as a, logged_in(a, "iqn.x:one") as one:
            assert len(ask(a, "node")) == len(ask(b, "node")) == 2
            assert [n["state"] for n in ask(a, "node")] == ["serving", "serving"]
            until(lambda: one.command(cdb.TEST_UNIT_READY).status == 0)  # it knows as well
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                task = one.start(cdb.write10(8, 1), data_out=bytes(512))
                one.socket.flush()

                def there() -> list[Any]:
                    return list(ask(nodes[asked], "task")["tasks"])

                until(lambda: len(there()) == 1)
                (seen,) = there()
                assert (seen["node"], seen["initiator"], seen["lun"]) == ("a", "iqn.x:one", 0)
                assert "WRITE (10)" in seen["request"] or "WRITE(10)" in seen["request"]
                tasks = VolumeCommand(nodes[asked], "task")
                assert tasks.json("abort", seen["id"]) == {"aborted": seen["id"]}
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            one.wait(task)
            assert task.status == 2
            assert task.sense_key == ABORTED_COMMAND
            until(lambda: there() == [])


def test_nodes_that_call_the_target_differently_do_not_join(tmp_path: Path) -> None:
    """Initiators would be told of one target, and find another."""
    with (
        RedisServer(tmp_path / "redis") as redis,
        LunmeshWorker(tmp_path / "worker") as worker,
    ):
        cluster = ["--redis", redis.url, "--worker", worker.address]
        a = LunmeshServer(tmp_path / "a", ["disk0=16M"], arguments=[*cluster, "--node-id", "a"])
        other = LunmeshServer(
            tmp_path / "b",
            ["disk0=16M"],
            arguments=[*cluster, "--node-id", "b"],
            iqn="iqn.2026-11.io.lunmesh:other",
        )
        with a:
            with pytest.raises(ServerError, match=f"node a serves these disks as {a.iqn}"):
                other.start()
            assert [node["id"] for node in ask(a, "node")] == ["a"]
