"""A TCP relay on the loopback address that keeps what passes through it, and can be cut.

with Relay(server.host, server.port) as relay:
    connect(relay.host, relay.port)
assert b"HeaderDigest=CRC32C" in relay.from_target

`cut` ends all connections, `hold` stalls them until `release`, as a network that drops everything
would; all of them, or those of one process, whose packets alone are lost. One for a long run keeps
nothing (`keep=False`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_RECEIVE_BYTES = 1 << 16
_MAPPED = "0000000000000000FFFF0000"  # ::ffff:0:0/96 as proc(5) has it on a little-endian machine


@dataclass(frozen=True, slots=True)
class _Connection:
    initiator: socket.socket
    target: socket.socket
    flowing: threading.Event = field(default_factory=threading.Event)


class Relay:
    def __init__(self, target_host: str, target_port: int, *, keep: bool = True) -> None:
        self._target = (target_host, target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self.host, self.port = self._listener.getsockname()
        self.from_initiator = bytearray()
        self.from_target = bytearray()
        self._keep = keep
        self.delay_seconds = 0.0  # of each piece, in each direction
        self._held: Callable[[socket.socket], bool] | None = None  # which, by their initiator
        self._lock = threading.Lock()  # of the above and all `flowing`

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Cuts what is still connected; what was kept is complete afterwards."""
        self.release()
        _shut(self._listener)
        self.cut()
        for thread in tuple(self._threads):
            thread.join()
        self._listener.close()
        for each in self._connections:
            each.initiator.close()
            each.target.close()

    def cut(self) -> None:
        """End the connections that there are; new ones are taken."""
        for each in tuple(self._connections):
            _shut(each.initiator)
            _shut(each.target)

    def hold(self, pid: int | None = None) -> None:
        """Nothing passes any more, in either direction; nobody is told.

        Given a process, it is what belongs to it; what others send passes.
        """
        with self._lock:
            self._held = (lambda _: True) if pid is None else (lambda each: _owns(pid, each))
            for each in self._connections:
                if self._held(each.initiator):
                    each.flowing.clear()

    def hold_present(self) -> None:
        """Nothing passes any more on the connections that there are; new ones go on."""
        with self._lock:
            for each in self._connections:
                each.flowing.clear()

    def release(self) -> None:
        """What was held back passes."""
        with self._lock:
            self._held = None
            for each in self._connections:
                each.flowing.set()

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
            connection = _Connection(initiator, target)
            with self._lock:
                self._connections.append(connection)
                if self._held is None or not self._held(initiator):
                    connection.flowing.set()
            flowing = connection.flowing
            self._start(self._copy, initiator, target, flowing, self.from_initiator)
            self._start(self._copy, target, initiator, flowing, self.from_target)

    def _copy(
        self,
        source: socket.socket,
        sink: socket.socket,
        flowing: threading.Event,
        kept: bytearray,
    ) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(_RECEIVE_BYTES):
                if self._keep:
                    kept += received
                flowing.wait()
                time.sleep(self.delay_seconds)
                sink.sendall(received)
        _shut(sink)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def _owns(pid: int, accepted: socket.socket) -> bool:
    """Whether a process has the other end of an IPv4 connection from this machine (proc(5))."""
    try:
        ends = [_as_in_proc(accepted.getpeername()), _as_in_proc(accepted.getsockname())]
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # either has ended
    sockets = []
    for table in ("tcp", "tcp6"):  # a socket for both has its IPv4 connections in the latter
        for line in Path("/proc/net", table).read_text().splitlines():
            fields = line.split()
            if [end.removeprefix(_MAPPED) for end in fields[1:3]] == ends:
                sockets.append(f"socket:[{fields[9]}]")
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(descriptor) in sockets:
                return True
    return False


def _as_in_proc(address: tuple[str, int]) -> str:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
