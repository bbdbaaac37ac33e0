"""What was read, kept for the next time: for a store that answers from far away, as Ceph does.

For a store that only this process writes to, whose overlapping I/O the volume above keeps in order
(workers/store.py, rule 4): no write comes between a read and what is kept of it.

Rules:

1. Whole pages are kept, of reads only; a write changes those that it finds here, once the store has
   taken it, and anything else that changes the disk drops them.
2. While there is room everything is kept.  Then one read in ``KEEP_ONE_OF`` is, in place of what
   was not asked for the longest: a disk that is larger than the cache and read from one end to the
   other leaves most of it alone (bimodal insertion, Qureshi et al., ISCA 2007).
3. A process that was shut out of its store does not know it before it asks there: what is here is
   good for ``FRESH_SECONDS`` after a question that the store has answered was sent.
4. ``room()`` bytes are kept at most: what a cache of writes beside it has not taken.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore, joined, scatter

PAGE_BYTES: Final = 4096
_SHIFT: Final = 12
KEEP_ONE_OF: Final = 16
FRESH_SECONDS: Final = 1.0
_CHANGES: Final = frozenset({IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})


class ReadCache(VolumeStore):
    """``store``, with what was read of it."""

    at_hand = True

    def __init__(
        self,
        store: VolumeStore,
        room: Callable[[], int],
        *,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.read_only = store.read_only
        self.shared = store.shared
        self.hits = 0  # reads that were answered from here
        self._store = store
        self._room = room
        self._clock = clock
        self._chance = chance
        self._pages: OrderedDict[int, bytes] = OrderedDict()  # who was not asked for longest first
        self._fresh_until = -1.0  # rule 3

    @property
    def size(self) -> int:
        """Of the store, which may grow."""
        return self._store.size

    @size.setter
    def size(self, size: int) -> None:
        self._store.size = size

    @property
    def nbytes(self) -> int:
        """That are kept."""
        return len(self._pages) * PAGE_BYTES

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        pages = self._pages
        first = offset >> _SHIFT
        if first not in pages or self._clock() > self._fresh_until or nbytes <= 0:
            return False
        numbers = range(first, (offset + nbytes - 1 >> _SHIFT) + 1)
        found = [pages[number] for number in numbers if number in pages]
        if len(found) != len(numbers):
            return False
        if len(buffers) == len(found) and len(found) * PAGE_BYTES == nbytes:  # as segments lie
            for view, page in zip(buffers, found, strict=True):
                if len(view) != PAGE_BYTES:
                    scatter(buffers, memoryview(b"".join(found)))
                    break
                view[:] = page
        else:
            start = offset - first * PAGE_BYTES
            scatter(buffers, memoryview(b"".join(found))[start : start + nbytes])
        for number in numbers:
            pages.move_to_end(number)
        self.hits += 1
        return True

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        if io.kind is IoKind.READ:
            self._read(io)
        elif io.kind is IoKind.WRITE:
            self._write(io)
        else:
            if io.kind in _CHANGES:
                self._drop(io.offset, io.length)
            self._store.submit(io)

    def close(self) -> None:
        self._pages.clear()
        self._store.close()

    def _read(self, io: StoreIo) -> None:
        asked = self._clock()
        room = self.nbytes + io.length <= self._room()
        keeps = room or self._chance() * KEEP_ONE_OF < 1  # rule 2
        if not keeps and asked < self._fresh_until - FRESH_SECONDS / 2:
            self._store.submit(io)
            return
        submitting = True

        def read(inner: StoreIo) -> None:
            if inner.status is StoreStatus.OK:
                if not submitting:  # or it was answered by whoever stands before the store
                    self._fresh_until = max(self._fresh_until, asked + FRESH_SECONDS)
                io.buffers = inner.buffers
                if keeps:
                    self._keep(io.offset, io.length, io.buffers)
            elif inner.status is StoreStatus.UNAVAILABLE:
                self._pages.clear()
            io.status, io.detail = inner.status, inner.detail
            io.done(io)

        self._store.submit(
            StoreIo(IoKind.READ, io.offset, io.length, read, io.buffers, takes_views=io.takes_views)
        )
        submitting = False

    def _write(self, io: StoreIo) -> None:
        """Rule 1."""
        if not self._drop(io.offset, io.length):
            self._store.submit(io)
        else:

            def written(inner: StoreIo) -> None:
                if inner.status is StoreStatus.OK:
                    self._keep(io.offset, io.length, io.buffers)
                io.status, io.detail = inner.status, inner.detail
                io.done(io)

            inner = StoreIo(IoKind.WRITE, io.offset, io.length, written, io.buffers, fua=io.fua)
            self._store.submit(inner)
        self._trim()

    def _keep(self, offset: int, nbytes: int, buffers: Sequence[memoryview]) -> None:
        """The whole pages of it."""
        pages = self._pages
        first, end = -(-offset >> _SHIFT), offset + nbytes >> _SHIFT
        if first >= end or nbytes > self._room():
            return
        if len(buffers) == end - first and all(len(view) == PAGE_BYTES for view in buffers):
            for number, view in zip(range(first, end), buffers, strict=True):
                pages[number] = bytes(view)
        else:
            data = joined(buffers)
            for number in range(first, end):
                at = number * PAGE_BYTES - offset
                pages[number] = data[at : at + PAGE_BYTES]
        self._trim()

    def _trim(self) -> None:
        """Rule 4."""
        pages, room = self._pages, self._room()
        while pages and len(pages) * PAGE_BYTES > room:
            pages.popitem(last=False)

    def _drop(self, offset: int, nbytes: int) -> int:
        """What is here of that range goes; how many pages that were."""
        pages = self._pages
        if not pages or nbytes <= 0:
            return 0
        numbers = range(offset >> _SHIFT, (offset + nbytes - 1 >> _SHIFT) + 1)
        if len(numbers) > len(pages):
            here = [number for number in pages if number in numbers]
        else:
            here = [number for number in numbers if number in pages]
        for number in here:
            del pages[number]
        return len(here)
