"""Takes in the connections of an HTTP server, never more than its process can spare.

1. Who has shown nothing yet holds little: of ``CONNECTIONS_MAX`` connections, handshakes of TLS
   counted too, the next one is closed at once.  So the descriptors of the node stay its own.
2. The handshake and the head of the first request must be there after ``HEAD_SECONDS_MAX``.  Later
   requests: aiohttp's ``keepalive_timeout``, which does not watch over the first one.
3. What is no HTTP, be it the head or the body of a request, is no line of the log: anybody could
   fill it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

CONNECTIONS_MAX: Final = 256
HEAD_SECONDS_MAX: Final = 15.0
ACCEPT_AGAIN_SECONDS: Final = 0.5  # after an error such as EMFILE
BACKLOG: Final = 128


class _NoHttp(logging.Filter):
    """Rule 3: aiohttp has a traceback for each."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], _NO_HTTP_ERRORS))


_NO_HTTP_ERRORS: Final = (HttpProcessingError, web.RequestPayloadError)
_NO_HTTP: Final = _NoHttp()


class Door:
    """In front of ``server``; without ``context`` in the clear."""

    def __init__(self, server: web.Server, context: ssl.SSLContext | None = None) -> None:
        logging.getLogger("aiohttp.server").addFilter(_NO_HTTP)  # once, however often it is said
        self._server = server
        self._context = context
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._arriving: dict[asyncio.Task[None], web.RequestHandler] = {}
        self._unheard: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns where.  Raises OSError."""
        loop = asyncio.get_running_loop()
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        self._sockets = [each.dup() for each in bound.sockets]
        bound.close()
        for each in self._sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
        self._accepting = [asyncio.create_task(self._accept(each)) for each in self._sockets]
        where, at = self._sockets[0].getsockname()[:2]
        return where, at

    async def close(self) -> None:
        """Take nobody in any more; who is in stays."""
        tasks = [*self._accepting, *self._arriving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self._sockets:
            each.close()
        for timer in self._unheard.values():
            timer.cancel()
        self._unheard.clear()

    def heard(self, connection: web.RequestHandler) -> None:
        """The head of a request has come."""
        if (timer := self._unheard.pop(connection, None)) is not None:
            timer.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._server.connections) + len(self._arriving) >= CONNECTIONS_MAX:  # rule 1
                peer.close()
                continue
            if len(self._unheard) >= 2 * CONNECTIONS_MAX:
                self._forget_gone()
            connection = self._server()
            self._unheard[connection] = loop.call_later(HEAD_SECONDS_MAX, self._late, connection)
            task = asyncio.create_task(self._let_in(peer, connection))
            self._arriving[task] = connection
            task.add_done_callback(self._arriving.pop)

    def _forget_gone(self) -> None:
        """Who comes and goes again without a word does not leave more behind than who stays."""
        arriving = set(self._arriving.values())
        for connection in [it for it in self._unheard if it.transport is None]:
            if connection not in arriving:
                self.heard(connection)

    async def _let_in(self, peer: socket.socket, connection: web.RequestHandler) -> None:
        loop = asyncio.get_running_loop()
        limit = None if self._context is None else HEAD_SECONDS_MAX
        with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError are some; it is closed
            await loop.connect_accepted_socket(
                lambda: connection, peer, ssl=self._context, ssl_handshake_timeout=limit
            )

    def _late(self, connection: web.RequestHandler) -> None:
        """Rule 2."""
        del self._unheard[connection]
        if connection.transport is not None:
            connection.transport.abort()
