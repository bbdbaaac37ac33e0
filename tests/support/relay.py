"""A TCP relay on the loopback address that keeps what passes through it.

with Relay(server.host, server.port) as relay:
    connect(relay.host, relay.port)
assert b"HeaderDigest=CRC32C" in relay.from_target
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_RECEIVE_BYTES = 1 << 16


class Relay:
    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.host, self.port = self._listener.getsockname()
        self.from_initiator = bytearray()
        self.from_target = bytearray()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Cuts what is still connected; what was kept is complete afterwards."""
        for each in tuple(self._sockets):
            _shut(each)
        for thread in tuple(self._threads):
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                initiator, _ = self._listener.accept()
            except OSError:
                return  # shut by __exit__
            target = socket.create_connection(self._target)
            self._sockets += [initiator, target]
            self._start(_copy, initiator, target, self.from_initiator)
            self._start(_copy, target, initiator, self.from_target)


def _copy(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(_RECEIVE_BYTES):
            kept += received
            sink.sendall(received)
    _shut(sink)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
