"""Memory that a worker on this machine has lent, for the payload of writes (workers/lent.py).

A run is taken when an I/O is sent and given back when the worker has answered it, whatever its
caller still waits for by then.  First fit; neighbours that are free are one.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

ALIGNMENT: Final = 4096  # of a run


class BorrowedMemory:
    """What is behind the descriptor ``fd``, which is closed.  Raises OSError or ValueError."""

    def __init__(self, fd: int, nbytes: int) -> None:
        try:
            self._view = memoryview(mmap.mmap(fd, nbytes))
        finally:
            os.close(fd)
        self._free = [(0, nbytes // ALIGNMENT * ALIGNMENT)]  # [start, end), in order

    def put(self, views: Sequence[memoryview], nbytes: int) -> int | None:
        """Copy a scatter list of ``nbytes`` into a run; where that begins, or None: no room."""
        size = _rounded(nbytes)
        fits = next((i for i, (start, end) in enumerate(self._free) if end - start >= size), None)
        if fits is None:
            return None
        start, end = self._free[fits]
        if end - start == size:
            del self._free[fits]
        else:
            self._free[fits] = (start + size, end)
        at = start
        for view in views:
            self._view[at : at + len(view)] = view
            at += len(view)
        return start

    def give(self, start: int, nbytes: int) -> None:
        """The run of ``nbytes`` that begins there is free again."""
        end = start + _rounded(nbytes)
        free = self._free
        index = bisect_left(free, (start, end))
        assert index == len(free) or end <= free[index][0], "given back twice"
        if index < len(free) and free[index][0] == end:
            end = free.pop(index)[1]
        if index and free[index - 1][1] == start:
            index -= 1
            start = free.pop(index)[0]
        free.insert(index, (start, end))


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
