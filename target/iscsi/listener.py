"""A socket that listens: connections are accepted here and served elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Final

log = logging.getLogger(__name__)

LISTEN_BACKLOG: Final = 128
ACCEPTS_PER_WAKE: Final = 16
ACCEPT_PAUSE_SECONDS: Final = 1.0  # when there is no descriptor left
_NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@contextlib.contextmanager
def at_portal(address: object) -> Iterator[None]:
    """An OSError of it says of which portal."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, f"portal {address}") from exc


def bind(host: str, port: int) -> socket.socket:
    """A socket with this address, which does not listen yet.  Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Listener:
    """Listens until it is closed; ``take(socket, peer address)`` owns each connection then."""

    def __init__(self, bound: socket.socket, take: Callable[[socket.socket, str], None]) -> None:
        """With what :func:`bind` has made.  Raises OSError."""
        try:
            bound.listen(LISTEN_BACKLOG)
        except OSError:
            bound.close()
            raise
        self.port: int = bound.getsockname()[1]
        self._socket: socket.socket | None = bound
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(bound.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as exc:  # EMFILE, ECONNABORTED: this one is lost, the portal is not
                log.warning("accept failed: %s", exc)
                if exc.errno in _NO_RESOURCES:
                    self._pause_accepting()
                return
            self._take(sock, peer[0])

    def _pause_accepting(self) -> None:
        """The connection that cannot be accepted stays in the queue: do not ask all the time."""
        assert self._socket is not None
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Take no new connections."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
