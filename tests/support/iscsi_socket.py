"""A TCP connection that carries PDUs, for tests: bytes or PDUs out, PDUs in.

Sending never waits without reading. A target may stop reading because we do not read what it sends;
an initiator that then only wrote would make the deadlock itself.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from types import TracebackType
from typing import Self

from tests.support.iscsi_pdu import BHS_BYTES, DIGEST_BYTES, Pdu, digest

DEFAULT_TIMEOUT_S = 10.0
_RECEIVE_BYTES = 1 << 20
_SEND_PARTS_MAX = 256


class Disconnected(Exception):
    """The target closed the connection."""


class NoAnswer(Exception):
    """Nothing came, or nothing could be sent, in the time allowed."""


class ProtocolError(Exception):
    """The target sent what RFC 7143 does not allow."""


class PduSocket:
    """Digests are off until `header_digest` or `data_digest` is set, as they are until login."""

    def __init__(self, host: str, port: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self.timeout = timeout
        self.header_digest = False
        self.data_digest = False
        self.at_end = False  # the target has closed its side, and all before that is in the buffer
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._poll = select.poll()
        self._received = bytearray()
        self._read = 0  # what of `_received` has become PDUs
        self._to_send: deque[memoryview] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send these very bytes; returns when the kernel has them all."""
        self.queue(data)
        self.flush()

    def send(self, pdu: Pdu) -> None:
        self.queue_pdu(pdu)
        self.flush()

    def queue(self, *parts: bytes | memoryview) -> None:
        """Send later, with the next `step` or `flush`."""
        self._to_send.extend(memoryview(part) for part in parts if len(part))

    def queue_pdu(self, pdu: Pdu) -> None:
        self.queue(*pdu.segments(header_digest=self.header_digest, data_digest=self.data_digest))

    def flush(self) -> None:
        deadline = time.monotonic() + self.timeout
        while self._to_send:
            self._step_until(deadline)

    def read_pdu(self, timeout: float | None = None) -> Pdu:
        """The next PDU, waiting for it. Raises Disconnected or NoAnswer if none comes."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while (pdu := self.next_pdu()) is None:
            if self.at_end:
                raise Disconnected(f"the target closed; {self._unread} bytes of a PDU had arrived")
            self._step_until(deadline)
        return pdu

    def read_to_end(self, timeout: float | None = None) -> list[Pdu]:
        """Everything until the target closes, which it must do in time."""
        pdus: list[Pdu] = []
        while True:
            try:
                pdus.append(self.read_pdu(timeout))
            except Disconnected:
                return pdus

    def step(self, timeout: float) -> bool:
        """Wait for the socket once, send what it takes and read what it has; False if neither."""
        want = (0 if self.at_end else select.POLLIN) | (select.POLLOUT if self._to_send else 0)
        self._poll.register(self.socket, want)
        events = self._poll.poll(timeout * 1000)
        if not events:
            return False
        # An error shows in both directions; which of the two reports it makes no difference.
        if events[0][1] & ~select.POLLOUT and not self.at_end:
            self._receive()
        if events[0][1] & ~select.POLLIN and self._to_send:
            self._send_some()
        return True

    def next_pdu(self) -> Pdu | None:
        """A PDU that has arrived wholly, or None."""
        start = self._read
        if self._unread < BHS_BYTES:
            return None
        header_end = start + BHS_BYTES + 4 * self._received[start + 4]
        data_start = header_end + (DIGEST_BYTES if self.header_digest else 0)
        length = int.from_bytes(self._received[start + 5 : start + 8])
        padded_end = data_start + length + -length % 4
        end = padded_end + (DIGEST_BYTES if self.data_digest and length else 0)
        if len(self._received) < end:
            return None
        with memoryview(self._received) as view:
            if self.header_digest:
                _check_digest("header", view[start:header_end], view[header_end:data_start])
            if self.data_digest and length:
                _check_digest("data", view[data_start:padded_end], view[padded_end:end])
            if any(view[data_start + length : padded_end]):
                raise ProtocolError("padding bytes are not zero")
            pdu = Pdu(
                bytearray(view[start : start + BHS_BYTES]),
                bytes(view[start + BHS_BYTES : header_end]),
                bytes(view[data_start : data_start + length]),
            )
        self._read = end
        # Dropping the front of the buffer moves the rest, so not for every small PDU.
        if self._read == len(self._received) or self._read > _RECEIVE_BYTES:
            del self._received[: self._read]
            self._read = 0
        return pdu

    @property
    def _unread(self) -> int:
        return len(self._received) - self._read

    def _step_until(self, deadline: float) -> None:
        if not self.step(max(0.0, deadline - time.monotonic())):
            doing = "take our bytes" if self._to_send else "answer"
            raise NoAnswer(f"the target did not {doing} in time")

    def _receive(self) -> None:
        try:
            received = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            received = b""
        self._received += received
        self.at_end = not received

    def _send_some(self) -> None:
        parts = [self._to_send[i] for i in range(min(len(self._to_send), _SEND_PARTS_MAX))]
        try:
            sent = self.socket.sendmsg(parts)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError) as exc:
            # What the target said before it closed may still be unread: read_pdu reports the end.
            self._to_send.clear()
            if self.at_end:
                raise Disconnected("the target closed while we were sending") from exc
            return
        while sent:
            part = self._to_send.popleft()
            if len(part) > sent:
                self._to_send.appendleft(part[sent:])
                return
            sent -= len(part)


def _check_digest(what: str, data: memoryview, found: memoryview) -> None:
    if digest([data]) != found:
        raise ProtocolError(f"wrong {what} digest")
