"""The Redis that tests start: what a restart loses, and what a stopped one does."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.support.lunmesh_server import free_port
from tests.support.redis_server import RedisServer


def test_a_restart_loses_everything(redis: RedisServer) -> None:
    with redis.client() as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
    redis.restart()
    with redis.client() as client:
        assert client.get("key") is None


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_durable_one_loses_nothing(tmp_path: Path, how: str) -> None:
    with RedisServer(tmp_path, durable=True) as server:
        with server.client() as client:
            client.set("key", "value")
        getattr(server, how)()
        server.start()
        with server.client() as client:
            assert client.get("key") == b"value"


def test_a_stopped_one_answers_when_it_goes_on(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, port=free_port()) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as probe,
    ):
        server.signal(signal.SIGSTOP)
        probe.sendall(b"PING\r\n")
        server.signal(signal.SIGCONT)
        assert probe.recv(64) == b"+PONG\r\n"
