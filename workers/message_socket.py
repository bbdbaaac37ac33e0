"""A stream's messages over a socket between two processes of one machine (worker.proto, rule 12).

gRPC costs a message 100 to 150 us of CPU time on each side; a socket costs it a system call.  Each
message goes behind its length.  A node uses this module at its end, a worker at its own.

Rules:

1. One task reads and one writes.  Neither waits where the socket has, or takes, what there is.
2. Bounded: a message is of at most ``MESSAGE_BYTES_MAX``, and no more is taken from the socket than
   fits into the buffer, until what is there has been read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from workers.limits import LENGTH_BYTES, MESSAGE_BYTES_MAX
from workers.wire_fields import Parts, WireError, WireFault

PARTS_MAX: Final = 1024  # of one system call (IOV_MAX)
BUFFER_BYTES: Final = 256 << 10  # a longer message gets a buffer of its own size while it comes


class MessageSocket:
    """One end; ``sock`` is its own from now on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0  # what has come and not been read
        self._watching = False
        self._news: asyncio.Future[None] | None = None  # for who waits to read
        self._room: asyncio.Future[None] | None = None  # and to write
        self._ended = False

    async def read(self) -> bytes | None:
        """The next message; None at the end.  Raises WireError of one that is too long."""
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if self._ended:
                return None
            if not self._watching:
                self._watching = True
                self._loop.add_reader(self._fd, self._readable)
            self._news = self._loop.create_future()
            await self._news

    def _next_message(self) -> bytes | None:
        have = self._end - self._start
        if have < LENGTH_BYTES:
            self._make_room(LENGTH_BYTES)
            return None
        at = self._start + LENGTH_BYTES
        nbytes = int.from_bytes(self._buffer[self._start : at], "little")
        if nbytes > MESSAGE_BYTES_MAX:
            raise WireError(WireFault.TOO_LARGE, f"a message of {nbytes} bytes")
        if have < LENGTH_BYTES + nbytes:
            self._make_room(LENGTH_BYTES + nbytes)
            return None
        message = bytes(self._buffer[at : at + nbytes])
        self._start = at + nbytes
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > BUFFER_BYTES:
                self._buffer = memoryview(bytearray(BUFFER_BYTES))
        return message

    def _make_room(self, nbytes: int) -> None:
        """What has come of a message is moved to the front of a buffer that has ``nbytes``."""
        kept = self._buffer[self._start : self._end]
        if nbytes > len(self._buffer):
            self._buffer = memoryview(bytearray(nbytes))
        elif not self._start:
            return
        self._buffer[: len(kept)] = kept
        self._start, self._end = 0, len(kept)

    def _readable(self) -> None:
        if self._end == len(self._buffer):  # rule 2
            self._unwatch()
            return
        try:
            nbytes = self._socket.recv_into(self._buffer[self._end :])
        except BlockingIOError:
            return
        except OSError:  # the peer has gone without reading all
            nbytes = 0
        self._end += nbytes
        if not nbytes:
            self._ended = True
            self._unwatch()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._fd)
        self._watching = False

    async def write(self, message: Parts) -> None:
        """Returns when the socket has taken it.  Raises OSError, and then reading ends too."""
        nbytes = sum(map(len, message))
        parts: Parts = (nbytes.to_bytes(LENGTH_BYTES, "little"), *message)
        if len(parts) > PARTS_MAX:
            parts = (b"".join(parts),)
        try:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            if sent < LENGTH_BYTES + nbytes:
                await self._write_rest(_rest(parts, sent))
        except OSError:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            raise

    async def _write_rest(self, rest: memoryview) -> None:
        while len(rest):
            self._room = self._loop.create_future()
            self._loop.add_writer(self._fd, self._writable)
            try:
                await self._room
            finally:
                if self._socket.fileno() >= 0:
                    self._loop.remove_writer(self._fd)
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue

    def _writable(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def close(self) -> None:
        """Both directions end.  Who waits at this end goes on waiting, and is to be cancelled."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._socket.close()


def _rest(parts: Parts, sent: int) -> memoryview:
    """What follows the first ``sent`` bytes, in memory of its own."""
    left: list[bytes | memoryview] = []
    for part in parts:
        if sent < len(part):
            left.append(part[sent:])
        sent = max(0, sent - len(part))
    return memoryview(b"".join(left))
