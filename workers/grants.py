"""Descriptors, which a worker hands to nodes on its own machine.

What such a node finds in the page cache it need not ask the worker for.  ``OpenVolumeResponse`` has
a token; who shows it on the socket beside the worker's Unix socket (``grant_path``) gets the
descriptor of the share's file, opened for reading.  Memory for payload (workers/lent.py) and a
socket for messages (workers/message_socket.py) are handed over likewise, by tokens in the first
message of a stream.

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
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from workers.lent import LentMemory
from workers.limits import TOKEN_BYTES, grant_path
from workers.store import VolumeStore

GRANTS_MAX: Final = 1024
CLIENTS_MAX: Final = 16
CLIENT_SECONDS_MAX: Final = 2.0
RETRY_SECONDS: Final = 0.1  # after a client that could not be accepted
GIVEN: Final = b"\1"  # a descriptor comes with some byte, at least one


class OfferedSocket(NamedTuple):
    """Both ends are the caller's to close; whoever shows the token gets ``theirs``."""

    ours: socket.socket
    theirs: socket.socket
    token: bytes


class Grants:
    """Those of the worker that listens on the Unix socket ``path``."""

    def __init__(self, path: str) -> None:
        self._path = grant_path(path)
        self._offers: OrderedDict[bytes, Callable[[], int]] = OrderedDict()  # by token
        self._socket: socket.socket | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def offer(self, store: VolumeStore) -> bytes:
        """A token for the file of ``store``; empty: there is none that could be read."""
        if self._socket is None or not store.has_file:
            return b""
        return self._offer(store.open_for_reading)

    def lend(self, nbytes: int) -> tuple[LentMemory, bytes] | None:
        """Memory of that size, and the token for it; None: there is none to be had."""
        if self._socket is None:
            return None
        try:
            memory = LentMemory(nbytes)
        except OSError:
            return None
        return memory, self._offer(memory.open)

    def connect(self) -> OfferedSocket | None:
        """A socket for the messages of a stream; None: there is none to be had."""
        if self._socket is None:
            return None
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        return OfferedSocket(ours, theirs, self._offer(theirs.detach))

    def _offer(self, open_it: Callable[[], int]) -> bytes:
        if len(self._offers) == GRANTS_MAX:
            self._offers.popitem(last=False)
        token = secrets.token_bytes(TOKEN_BYTES)
        self._offers[token] = open_it
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
        self._watch()

    async def stop(self) -> None:
        """Grant no more."""
        listener, self._socket = self._socket, None
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(listener.fileno())
        listener.close()
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor to spare: the loop would call again at once, and again
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.call_later(RETRY_SECONDS, self._watch)
            return
        client.setblocking(False)
        task = asyncio.ensure_future(self._serve(client))
        self._clients.add(task)
        task.add_done_callback(partial(self._served, client))
        self._watch()

    def _watch(self) -> None:
        """Accept connections while there is room for one more (rule 2)."""
        loop = asyncio.get_running_loop()
        if self._socket is None:
            return
        if len(self._clients) < CLIENTS_MAX:
            loop.add_reader(self._socket.fileno(), self._accept)
        else:
            loop.remove_reader(self._socket.fileno())

    def _served(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        client.close()  # here: a task that was cancelled may never have begun
        self._watch()

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLIENT_SECONDS_MAX):
                token = b""
                while len(token) < TOKEN_BYTES:
                    part = await loop.sock_recv(client, TOKEN_BYTES - len(token))
                    if not part:
                        return
                    token += part
            open_it = self._offers.pop(token, None)
            if open_it is None:
                return
            with contextlib.suppress(OSError):  # what it was for is closed, or the client is
                fd = open_it()
                try:
                    socket.send_fds(client, [GIVEN], [fd])
                finally:
                    os.close(fd)
