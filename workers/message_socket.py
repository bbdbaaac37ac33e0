"""A stream's messages over a socket between two processes of one machine (worker.proto, rule 12).

gRPC costs a message 100 to 150 us of CPU time on each side; a socket costs it a system call.  Each
message goes behind its length.  A node uses this module at its end, a worker at its own.

Rules:

1. No task stands between the socket and who uses it: a message is handed over as it comes, and
   sent as it is given, where the socket takes it.
2. Bounded: a message is of at most ``MESSAGE_BYTES_MAX``.  While reading is paused, no more is
   taken from the socket than has been.
3. uvloop calls a reader once more when its socket has an error, as it has where the peer has gone
   without reading all, and then never again: so each call reads until there is nothing more.  Not
   for ever: ``READS_MAX`` buffers are more than any socket holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from workers.limits import LENGTH_BYTES, MESSAGE_BYTES_MAX
from workers.wire_fields import Parts, WireError, WireFault

READS_MAX: Final = 32
PARTS_MAX: Final = 1024  # of one system call (IOV_MAX)
# A read of 256 KiB goes at once, and comes into what is there.  A longer message gets a buffer of
# its own size while it comes.
BUFFER_BYTES: Final = 384 << 10
SEND_BYTES: Final = 512 << 10  # of the kernel's, where its administrator allows for that


class MessageSocket:
    """One end; ``sock`` is its own from now on.

    ``received`` is called with each message.  ``ended`` is done when no more come: the peer has
    hung up, or what it sent was not to be understood (WireError, or what ``received`` raised).
    """

    def __init__(self, sock: socket.socket, received: Callable[[bytes], None]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._socket = sock
        self._fd = sock.fileno()
        self._received = received
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0  # what has come and not been handed over
        self._over = False  # nothing more comes
        self.paused = False
        self._rest = memoryview(b"")  # of the last message, which the socket has not taken
        self._sent: asyncio.Future[None] | None = None  # for who waits until it has
        self._loop.add_reader(self._fd, self._readable)

    # --- messages in ------------------------------------------------------------------------------

    def pause(self) -> None:
        """Hand over no more messages (rule 2)."""
        if not self.paused:
            self.paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Go on."""
        if self.paused and not self.ended.done():
            self.paused = False
            self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._deliver()  # first: there may be no room for more
        if not self.paused and not self._over:
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        """Rule 3."""
        for _ in range(READS_MAX):
            if self.paused or self._over or not self._has_read():
                return
            self._deliver()

    def _has_read(self) -> bool:
        try:
            nbytes = self._socket.recv_into(self._buffer[self._end :])
        except BlockingIOError:
            return False
        except OSError:  # the peer has gone without reading all
            nbytes = 0
        self._end += nbytes
        if not nbytes:
            self._over = True
            self._loop.remove_reader(self._fd)
        return True

    def _deliver(self) -> None:
        if self.ended.done():
            return
        try:
            while not self.paused:
                message = self._next_message()
                if message is None:
                    if self._over:
                        self._finish(None)
                    return
                self._received(message)
        except Exception as exc:  # whoever waits for the end knows what it means
            self._finish(exc)

    def _finish(self, error: Exception | None) -> None:
        self.pause()
        if self.ended.done():  # closed within ``received``
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def _next_message(self) -> bytes | None:
        """Raises WireError of one that is too long."""
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

    # --- messages out -----------------------------------------------------------------------------

    def send(self, message: Parts) -> bool:
        """Send a message; False: :meth:`sent` is to be waited for before the next one.

        Where the peer has gone it goes nowhere, and ``ended`` says so.
        """
        assert not len(self._rest), "the message before is still being sent"
        nbytes = sum(map(len, message))
        parts: Parts = (nbytes.to_bytes(LENGTH_BYTES, "little"), *message)
        if len(parts) > PARTS_MAX:
            parts = (b"".join(parts),)
        try:
            sent = self._socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._hang_up()
            return True
        if sent == LENGTH_BYTES + nbytes:
            return True
        self._rest = _rest(parts, sent)
        self._loop.add_writer(self._fd, self._writable)
        return False

    async def sent(self) -> None:
        """Until the socket has taken the last message, or nobody is there to read it."""
        if len(self._rest):
            self._sent = self._loop.create_future()
            await self._sent

    async def write(self, message: Parts) -> None:
        """Send a message; returns when the next one may be sent."""
        if not self.send(message):
            await self.sent()

    def _writable(self) -> None:
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()
        if not len(self._rest):
            self._all_sent()

    def _all_sent(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def _hang_up(self) -> None:
        """Nobody reads: then reading ends too."""
        self._rest = memoryview(b"")
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # --- its end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Both directions end, ``ended`` is cancelled, and who waits for sent() goes on waiting."""
        if self._socket.fileno() >= 0:
            self.pause()
            self.ended.cancel()
            self._loop.remove_writer(self._fd)
            self._socket.close()
            self._buffer = self._rest = memoryview(b"")  # who has us may be here for longer


def _rest(parts: Parts, sent: int) -> memoryview:
    """What follows the first ``sent`` bytes, in memory of its own."""
    left: list[bytes | memoryview] = []
    for part in parts:
        if sent < len(part):
            left.append(part[sent:])
        sent = max(0, sent - len(part))
    return memoryview(b"".join(left))
