"""`lunmesh node`, `session` and `task`: what two real nodes say of what happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.volume_command import VolumeCommand

ABORTED_COMMAND = 0x0B


@contextmanager
def logged_in(server: LunmeshServer, name: str) -> Iterator[Initiator]:
    with Initiator(server.host, server.port, target=server.iqn, name=name) as initiator:
        initiator.login()
        initiator.command(cdb.TEST_UNIT_READY)
        yield initiator


def ask(server: LunmeshServer, group: str) -> Any:
    return VolumeCommand(server, group).json("list")


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        pass


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
        assert "iqn.x:one" in VolumeCommand(server, "session").good("list")


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
                VolumeCommand(nodes[asked], "task").good("abort", seen["id"])
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
