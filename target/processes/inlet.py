"""Where a process gets its connections from: a Unix socket to its supervisor.

Messages (SOCK_SEQPACKET):

- to the process: the number of a portal, two bytes, with the descriptor of a connection to it;
- to the supervisor: ``OPEN`` with what it may print once all are ready, and ``SHUT``.

Rules:

1. The end of the socket means the end of the process: its supervisor is gone, or wants it to stop.
2. A connection that comes while nothing is served here is closed; its initiator tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

OPEN: Final = b"+"
SHUT: Final = b"-"
MESSAGE_BYTES_MAX: Final = 64 << 10
PORTAL_BYTES: Final = 2
TAKEN_PER_WAKE: Final = 16

Take = Callable[[socket.socket, str], None]


class Inlet:
    """The process's end of the socket ``channel``."""

    def __init__(self, channel: socket.socket, on_end: Callable[[], None]) -> None:
        channel.setblocking(False)
        self.portals: list[Take] = []  # who takes connections, by the number of their portal
        self._channel = channel
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._readable)

    def open(self, ready: str) -> None:
        """Connections may come; ``ready`` is for whoever started the supervisor."""
        self._tell(OPEN + ready.encode()[: MESSAGE_BYTES_MAX - len(OPEN)])

    def shut(self) -> None:
        """No more connections, until it is open again."""
        self.portals.clear()
        self._tell(SHUT)

    def close(self) -> None:
        """Once nothing is served any more."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()

    def _tell(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone, which the reader notices
            self._channel.send(message)

    def _readable(self) -> None:
        for _ in range(TAKEN_PER_WAKE):
            try:
                message, descriptors, _, _ = socket.recv_fds(self._channel, PORTAL_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:  # rule 1
                self._loop.remove_reader(self._channel.fileno())
                self._on_end()
                return
            if not descriptors:
                log.warning("a connection was lost: no descriptor is left")
                continue
            os.set_inheritable(descriptors[0], False)  # recv_fds of Python 3.11 ignores its flags
            self._take(int.from_bytes(message), socket.socket(fileno=descriptors[0]))

    def _take(self, portal: int, sock: socket.socket) -> None:
        try:
            peer = sock.getpeername()[0]
        except OSError:  # it is gone already
            sock.close()
            return
        if portal < len(self.portals):
            self.portals[portal](sock, peer)
        else:  # rule 2
            sock.close()
