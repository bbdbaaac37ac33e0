"""One end of a socket of messages, to be read from as a test goes along."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from workers.message_socket import MessageSocket
from workers.wire_fields import Parts

MESSAGES_MAX: Final = 8  # that nobody has read; then the socket rests


class Messages:
    """``sock`` is its own from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self._come: asyncio.Queue[bytes] = asyncio.Queue()
        self.socket = MessageSocket(sock, self._received)

    def _received(self, message: bytes) -> None:
        self._come.put_nowait(message)
        if self._come.qsize() == MESSAGES_MAX:
            self.socket.pause()

    async def read(self) -> bytes | None:
        """The next message; None at the end.  Raises what has ended it."""
        if self._come.empty():
            self.socket.resume()
            come = asyncio.ensure_future(self._come.get())
            waiting: list[asyncio.Future[Any]] = [come, self.socket.ended]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if come.done():
                    return come.result()
            finally:
                come.cancel()
            self.socket.ended.result()
            return None
        return self._come.get_nowait()

    async def write(self, message: Parts) -> None:
        """Returns when the socket has taken it, or the peer has gone."""
        await self.socket.write(message)

    def close(self) -> None:
        """Both directions end."""
        self.socket.close()
