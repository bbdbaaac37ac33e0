"""What systemd is told (sd_notify), by each command that serves; a stalled one is silent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_processes import first_of_two_free
from tests.support.redis_server import RedisServer

SECONDS_MAX = 30
WATCHDOG_USEC = 200_000


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(SECONDS_MAX)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_USEC))
        yield sock


def until(manager: socket.socket, state: str) -> list[str]:
    """All that is said up to ``state``."""
    said: list[str] = []
    while not said or said[-1] != state:
        said.append(manager.recv(4096).decode())
    return said


def test_a_node_says_that_it_serves_and_that_it_ends(
    tmp_path: Path, manager: socket.socket
) -> None:
    with LunmeshServer(tmp_path / "a", ["disk0=1M"]) as server:
        assert set(until(manager, "READY=1")) <= {"WATCHDOG=1", "READY=1"}
        assert until(manager, "WATCHDOG=1") == ["WATCHDOG=1"]
        os.kill(server.pid, signal.SIGSTOP)
        manager.settimeout(WATCHDOG_USEC / 1e6)
        with pytest.raises(TimeoutError):
            until(manager, "never")  # but what was on its way
        manager.settimeout(SECONDS_MAX)
        os.kill(server.pid, signal.SIGCONT)
        assert until(manager, "WATCHDOG=1") == ["WATCHDOG=1"]
        assert server.stop() == 0
        assert set(until(manager, "STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}


def test_a_worker_does(tmp_path: Path, manager: socket.socket) -> None:
    with LunmeshWorker(tmp_path / "w") as worker:
        assert until(manager, "READY=1") == ["READY=1"]
        assert until(manager, "WATCHDOG=1") == ["WATCHDOG=1"]
        worker.signal(signal.SIGTERM)
        assert set(until(manager, "STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}


def test_of_several_processes_the_one_that_was_started_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: socket.socket
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    with RedisServer(tmp_path / "redis") as redis, LunmeshWorker(tmp_path / "w") as worker:
        assert until(manager, "READY=1") == ["READY=1"]
        flags = ["--redis", redis.url, "--worker", worker.address, "--processes", "2"]
        server = LunmeshServer(tmp_path / "a", ["disk0=1M"], arguments=flags)
        server.admin_port = first_of_two_free()
        with server:
            assert until(manager, "READY=1") == ["READY=1"]
            assert server.stop() == 0
            assert until(manager, "STOPPING=1") == ["STOPPING=1"]
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):  # its processes say nothing
                manager.recv(4096)
