"""A TCP relay on the loopback address that keeps what passes through it, and can be cut.

with Relay(server.host, server.port) as relay:
    connect(relay.host, relay.port)
assert b"HeaderDigest=CRC32C" in relay.from_target

`cut` ends all connections, `hold` stalls them until `release`, as a network that drops everything
would. One for a long run keeps nothing (`keep=False`).
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
    def __init__(self, target_host: str, target_port: int, *, keep: bool = True) -> None:
        self._target = (target_host, target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.host, self.port = self._listener.getsockname()
        self.from_initiator = bytearray()
        self.from_target = bytearray()
        self._keep = keep
        self._flowing = threading.Event()
        self._flowing.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Cuts what is still connected; what was kept is complete afterwards."""
        self._flowing.set()
        for each in tuple(self._sockets):
            _shut(each)
        for thread in tuple(self._threads):
            thread.join()
        for each in self._sockets:
            each.close()

    def cut(self) -> None:
        """End the connections that there are; new ones are taken."""
        for each in tuple(self._sockets):
            if each is not self._listener:
                _shut(each)

    def hold(self) -> None:
        """Nothing passes any more, in either direction; nobody is told."""
        self._flowing.clear()

    def release(self) -> None:
        """What was held back passes."""
        self._flowing.set()

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
            try:
                target = socket.create_connection(self._target)
            except OSError:
                initiator.close()  # refused there, refused here
                continue
            self._sockets += [initiator, target]
            self._start(self._copy, initiator, target, self.from_initiator)
            self._start(self._copy, target, initiator, self.from_target)

    def _copy(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(_RECEIVE_BYTES):
                if self._keep:
                    kept += received
                self._flowing.wait()
                sink.sendall(received)
        _shut(sink)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
