"""Reads of what a worker on this machine has in the page cache, without asking the worker.

The worker has granted the descriptor of the share's file (``workers/grants.py``).  A read on the
spot is right only where the node alone decides what is in the blocks:

1. The stream to the worker is served, so the grant holds.
2. No write is in doubt: one that has been given up may still happen, and what overlaps it waits.
3. ``sole``: no other node serves the volume, before the read and still after it.  Otherwise another
   one's write could be half done, and a node that was stopped would return what was once true.

What else overlaps is ``Volume``'s to know, as for any store.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Final

from workers.limits import grant_path

GRANT_SECONDS_MAX: Final = 1.0


async def ask_for(worker_path: str, token: bytes) -> int | None:
    """The descriptor that ``token`` is good for; None: the worker does not give it."""
    asked = asyncio.ensure_future(asyncio.to_thread(_ask_for, grant_path(worker_path), token))
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        asked.add_done_callback(_unwanted)  # a thread cannot be cancelled
        raise


def _unwanted(asked: asyncio.Future[int | None]) -> None:
    if asked.cancelled() or asked.exception() is not None:
        return
    fd = asked.result()
    if fd is not None:
        os.close(fd)


def _ask_for(path: str, token: bytes) -> int | None:
    try:
        with socket.socket(socket.AF_UNIX) as asked:  # EMFILE as well
            asked.settimeout(GRANT_SECONDS_MAX)
            asked.connect(path)
            asked.sendall(token)
            _, fds, _, _ = socket.recv_fds(asked, 1, 1)
    except OSError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds[0] if fds else None


class DirectFile:
    """A granted descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        """Fill ``buffers`` with what is cached; False: the worker has to be asked."""
        try:
            return os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT) == nbytes
        except OSError:  # not cached; anything else is the worker's to find
            return False

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)
