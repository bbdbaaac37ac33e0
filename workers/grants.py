"""Descriptors for reading, which a worker hands to nodes on its own machine.

What such a node finds in the page cache it need not ask the worker for.  ``OpenVolumeResponse`` has
a token; who shows it on the socket beside the worker's Unix socket (``grant_path``) gets the
descriptor of the share's file, opened for reading.

Rules:

1. A grant holds as long as the stream of the node that got it is served.  It is for reading: what a
   fenced node may do no more is to write, and that goes through the worker.
2. A token is good once.  Bounded: ``GRANTS_MAX`` tokens, the oldest go first; ``CLIENTS_MAX``
   connections, each for ``CLIENT_SECONDS_MAX``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections import OrderedDict
from typing import Final

from workers.limits import TOKEN_BYTES, grant_path
from workers.store import VolumeStore

GRANTS_MAX: Final = 1024
CLIENTS_MAX: Final = 16
CLIENT_SECONDS_MAX: Final = 2.0
GIVEN: Final = b"\1"  # a descriptor comes with some byte, at least one


class Grants:
    """Those of the worker that listens on the Unix socket ``path``."""

    def __init__(self, path: str) -> None:
        self._path = grant_path(path)
        self._stores: OrderedDict[bytes, VolumeStore] = OrderedDict()  # by token
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def offer(self, store: VolumeStore) -> bytes:
        """A token for the file of ``store``; empty: there is none that could be read."""
        if self._socket is None or not store.has_file:
            return b""
        if len(self._stores) == GRANTS_MAX:
            self._stores.popitem(last=False)
        token = secrets.token_bytes(TOKEN_BYTES)
        self._stores[token] = store
        return token

    def start(self) -> None:
        """Listen.  Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o077)  # for the worker's own user, as its other socket is
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # of a worker that was killed
            listener.bind(self._path)
            listener.listen(CLIENTS_MAX)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        self._socket = listener
        self._task = asyncio.ensure_future(self._accept(listener))

    async def stop(self) -> None:
        """Grant no more."""
        if self._socket is None:
            return
        tasks = [*self._clients, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._clients) >= CLIENTS_MAX:
                await asyncio.wait(self._clients, return_when=asyncio.FIRST_COMPLETED)
            client, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._serve(client))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLIENT_SECONDS_MAX):
                token = b""
                while len(token) < TOKEN_BYTES:
                    part = await loop.sock_recv(client, TOKEN_BYTES - len(token))
                    if not part:
                        return
                    token += part
            store = self._stores.pop(token, None)
            if store is None:
                return
            fd = store.open_for_reading()
            try:
                socket.send_fds(client, [GIVEN], [fd])
            finally:
                os.close(fd)
