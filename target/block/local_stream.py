"""The messages of a data stream over a socket that a worker on this machine gives (rule 12 there).

``WorkerStream`` (worker_channel.py) carries the first message of each side; these carry the others
where both are on one machine.  The stream of gRPC goes on beside them, and says why they end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from target.block.worker_errors import WorkerGone
from workers.message_socket import MessageSocket
from workers.wire import Parts

STATUS_SECONDS_MAX: Final = 1.0  # for gRPC to say why it has ended


class LocalStream:
    """``fd`` is its own from now on.  Messages are bytes of workers/wire.py.

    ``received`` is called with each message.  What it raises ends the stream, as WireError does.
    """

    def __init__(self, fd: int, received: Callable[[bytes], None]) -> None:
        self._messages = MessageSocket(socket.socket(fileno=fd), received)

    async def write(self, message: Parts) -> None:
        """Returns when the message is on its way, or the stream at its end: ended() knows."""
        await self._messages.write(message)

    async def ended(self) -> None:
        """Raises WorkerGone some time after the end, or what has ended the stream."""
        await self._messages.ended
        await asyncio.sleep(STATUS_SECONDS_MAX)
        raise WorkerGone("its socket has ended")

    def cancel(self) -> None:
        """End it."""
        self._messages.close()
