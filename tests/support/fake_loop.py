"""An event loop and sockets that do what a test says, for the portal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FakeTimer:
    """What `call_later` returns."""

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Remembers what it was asked for; `run_soon` and `fire` do it."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], Any]] = {}
        self.writers: dict[int, Callable[[], Any]] = {}
        self.soon: list[Callable[[], Any]] = []
        self.timers: list[FakeTimer] = []

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def add_writer(self, fd: int, callback: Callable[[], Any]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self.soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], Any]) -> FakeTimer:
        self.timers.append(FakeTimer(callback))
        return self.timers[-1]

    def run_soon(self) -> None:
        while self.soon:
            self.soon.pop(0)()

    def fire(self) -> None:
        """Every timer that waits now is due."""
        timers, self.timers = self.timers, []
        for timer in timers:
            if not timer.cancelled:
                timer.callback()


class FakeSocket:
    """A connected socket: `arriving` is what there is to read, `taken` what was sent.

    `room` is how much may be sent before it blocks (None: anything). Set `receive_error` or
    `send_error` and the next call raises it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.arriving = bytearray()
        self.at_end = False
        self.taken = bytearray()
        self.room: int | None = None
        self.receive_error: OSError | None = None
        self.send_error: OSError | None = None
        self.sends = 0
        self.closed = False

    def fileno(self) -> int:
        return self.fd

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 3260

    def setblocking(self, flag: bool) -> None:
        pass

    def setsockopt(self, level: int, option: int, value: int) -> None:
        pass

    def recv(self, nbytes: int, flags: int) -> bytes:
        self._check_receive()
        return bytes(self.arriving[:nbytes])

    def recv_into(self, buffer: memoryview) -> int:
        return self.recvmsg_into([buffer])[0]

    def recvmsg_into(self, buffers: list[memoryview]) -> tuple[int]:
        self._check_receive()
        received = 0
        for buffer in buffers:
            piece = self.arriving[: len(buffer)]
            buffer[: len(piece)] = piece
            del self.arriving[: len(piece)]
            received += len(piece)
        return (received,)

    def _check_receive(self) -> None:
        if self.receive_error is not None:
            raise self.receive_error
        if not self.arriving and not self.at_end:
            raise BlockingIOError

    def sendmsg(self, buffers: list[bytes | memoryview]) -> int:
        self.sends += 1
        if self.send_error is not None:
            raise self.send_error
        data = b"".join(buffers)
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                raise BlockingIOError
        self.taken += data
        return len(data)

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True
