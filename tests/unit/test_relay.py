"""The relay of the fault tests: what it holds back, and whose."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.relay import Relay

SECONDS = 10.0
# Connects, sends a byte when it is told to, and says when the answer has come.
OTHER_PROCESS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as peer:
    print("connected", flush=True)
    sys.stdin.readline()
    peer.sendall(b"o")
    print("sent", flush=True)
    print(peer.recv(1).decode(), flush=True)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server


@contextlib.contextmanager
def connected(
    relay: Relay, listener: socket.socket
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection through it."""
    with socket.create_connection((relay.host, relay.port), SECONDS) as initiator:
        target, _ = listener.accept()
        target.settimeout(SECONDS)
        with target:
            yield initiator, target


def test_what_is_held_passes_when_it_is_released(listener: socket.socket) -> None:
    with Relay(*listener.getsockname()) as relay, connected(relay, listener) as (initiator, target):
        relay.hold()
        initiator.sendall(b"late")
        with connected(relay, listener) as (other, beyond):
            other.sendall(b"new ones as well")
            for each in (target, beyond):
                each.setblocking(False)
                with pytest.raises(BlockingIOError):
                    each.recv(1)
                each.settimeout(SECONDS)
            relay.release()
            assert target.recv(4) == b"late"
            assert beyond.recv(3) == b"new"


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_what_one_process_sends_is_held_and_nothing_else(
    listener: socket.socket, host: str
) -> None:
    with Relay(*listener.getsockname()) as relay, connected(relay, listener) as (initiator, target):
        with subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, host, str(relay.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            beyond, _ = listener.accept()
            with beyond:
                assert other.stdout.readline() == b"connected\n"
                relay.hold(other.pid)
                other.stdin.write(b"\n")
                other.stdin.flush()
                assert other.stdout.readline() == b"sent\n"
                initiator.sendall(b"mine")
                assert target.recv(4) == b"mine"
                beyond.setblocking(False)
                with pytest.raises(BlockingIOError):
                    beyond.recv(1)
                beyond.settimeout(SECONDS)
                relay.release()
                assert beyond.recv(1) == b"o"
                beyond.sendall(b"a")
                assert other.stdout.readline() == b"a\n"
        relay.hold(os.getpid())
        initiator.sendall(b"late")
        target.setblocking(False)
        with pytest.raises(BlockingIOError):
            target.recv(1)
