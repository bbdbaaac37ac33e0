"""Writes that are answered from memory and put where they belong later, as librbd's cache does.

For a store that only this process writes to, and whose write cache the initiator knows of (WCE):
what has been answered and not flushed is lost with the process, and nothing else.

Rules:

1. Until the first flush has come every write is written through: an initiator that never flushes
   does not know that it would have to (``rbd_cache_writethrough_until_flush``).
2. At most ``bytes_max`` are kept.  A write that would be more waits, and the oldest chunks go
   first.  Nothing is kept longer than ``age_seconds`` if the store takes it.
3. A read sees what was written.  What of it is here is put over what the store has, as both were
   when the read came.
4. One write of a chunk is under way at a time, with everything of the chunk that had gathered: that
   is where the speed comes from.  What comes meanwhile goes with the next.
5. A flush ends when all that was answered before it is in the store.  FUA writes, and what is no
   plain write, wait for what is kept of their chunks and then go to the store themselves.
6. What the store refuses stays here, and is tried again.  Flushes that wait for it fail, and so do
   writes for which there is no room: nothing is lost while the process lives.  A store that is not
   to be reached any more (UNAVAILABLE) takes all of it along, and no flush succeeds after that.

As in the store below, the volume above orders overlapping I/O (workers/store.py, rule 4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from workers.dirty_extents import DirtyExtents
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore, joined, scatter

AGE_SECONDS: Final = 1.0
TARGET: Final = 2 / 3  # of the bound: from there on chunks go before they have to
RUNNING_MAX: Final = 16  # chunks that are being written

Written = Callable[[StoreStatus, str], None]


class ChunkStore(Protocol):
    """What is written to: a ``VolumeStore`` that takes several extents of a chunk at once."""

    size: int
    read_only: bool
    shared: bool
    chunk_bytes: int

    def submit(self, io: StoreIo) -> None:
        """As ``VolumeStore.submit``."""

    def close(self) -> None:
        """As ``VolumeStore.close``."""

    def write_extents(
        self, chunk: int, extents: Sequence[tuple[int, bytes]], written: Written
    ) -> None:
        """Write (start in the chunk, data) of one chunk; ``written`` comes later.

        Where that is not OK, some of them may have been written.
        """


class _Chunk:
    """What is kept of one chunk."""

    __slots__ = ("come", "dirty", "flying", "gone", "leaving")

    def __init__(self) -> None:
        self.dirty = DirtyExtents()
        self.flying: DirtyExtents | None = None  # on its way to the store; older than ``dirty``
        # Writes are counted: those that have come, that are on their way, that are in the store.
        self.come = self.leaving = self.gone = 0


class _Waiter:
    """Someone who waits until, of each chunk, so many writes are in the store."""

    def __init__(self, writes: dict[int, int], done: Written) -> None:
        self.writes = writes
        self.done = done


class WriteBehind(VolumeStore):
    """``store``, written behind.  ``bytes_max`` bounds what is kept."""

    at_hand = False

    def __init__(
        self, store: ChunkStore, bytes_max: int, *, age_seconds: float = AGE_SECONDS
    ) -> None:
        self.read_only = store.read_only
        self.shared = store.shared
        self.kept_bytes = 0
        self.lost_bytes = 0  # that were answered, and will never be in the store
        self._store = store
        self._bytes_max = bytes_max
        self._age_seconds = age_seconds
        self._behind = False  # rule 1
        self._chunks: dict[int, _Chunk] = {}  # that something is kept of, the oldest first
        self._running = 0
        self._waiting: deque[StoreIo] = deque()  # writes, for room
        self._waiters: list[_Waiter] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False

    @property
    def size(self) -> int:
        """Of the store, which may grow."""
        return self._store.size

    @size.setter
    def size(self, size: int) -> None:
        self._store.size = size

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        if io.kind is IoKind.FLUSH:
            self._flush(io)
        elif io.offset < 0 or io.length <= 0 or io.offset + io.length > self.size or self._lost:
            self._store.submit(io)
        elif io.kind is IoKind.READ:
            self._read(io)
        elif io.kind is IoKind.WRITE and self._behind and not io.fua and not self.read_only:
            self._waiting.append(io)
            self._take()
        else:
            self._when_gone(self._of_range(io), io)

    def close(self) -> None:
        """Forget what is left; who wants it flushes first."""
        if self._timer is not None:
            self._timer.cancel()
        self._chunks.clear()
        self._store.close()

    # --- reads (rule 3) ---------------------------------------------------------------------------

    def _read(self, io: StoreIo) -> None:
        over = DirtyExtents()
        for chunk, start, stop, at in self._pieces(io.offset, io.length):
            kept = self._chunks.get(chunk)
            if kept is not None:
                for extents in (kept.flying, kept.dirty):
                    for found, data in extents.within(start, stop) if extents is not None else ():
                        over.put(found - start + at, data)
        if not over.nbytes:
            self._store.submit(io)
        elif over.nbytes == io.length:
            _put_over(io.buffers, over)
            io.done(io)
        else:

            def read(inner: StoreIo) -> None:
                if inner.status is StoreStatus.OK:
                    _put_over(io.buffers, over)
                _end(io, inner.status, inner.detail)

            self._store.submit(StoreIo(IoKind.READ, io.offset, io.length, read, io.buffers))

    # --- writes (rule 2) --------------------------------------------------------------------------

    def _take(self) -> None:
        """Answer writes as long as there is room."""
        while self._waiting and self._has_room(self._waiting[0].length):
            io = self._waiting.popleft()
            data = joined(io.buffers)
            for number, start, stop, at in self._pieces(io.offset, io.length):
                chunk = self._chunks.get(number)
                if chunk is None:
                    chunk = self._chunks[number] = _Chunk()
                before = chunk.dirty.nbytes
                chunk.dirty.put(start, data[at : at + stop - start])
                self.kept_bytes += chunk.dirty.nbytes - before
                chunk.come += 1
            io.done(io)
        if self._waiting or self.kept_bytes > self._bytes_max * TARGET:
            self._write_oldest()
        if self._chunks and self._timer is None:
            self._timer = self._loop.call_later(self._age_seconds, self._aged)

    def _has_room(self, nbytes: int) -> bool:
        return self.kept_bytes + nbytes <= self._bytes_max or not self.kept_bytes

    def _aged(self) -> None:
        self._timer = None
        self._write_oldest(everything=True)
        if self._chunks:
            self._timer = self._loop.call_later(self._age_seconds, self._aged)

    def _write_oldest(self, *, everything: bool = False) -> None:
        leaving = sum(c.flying.nbytes for c in self._chunks.values() if c.flying is not None)
        enough = 0.0 if everything else self._bytes_max * TARGET
        for number, chunk in list(self._chunks.items()):
            if self._running >= RUNNING_MAX or (
                self.kept_bytes - leaving <= enough and not self._waiting
            ):
                break
            if chunk.flying is None and chunk.dirty.nbytes:
                leaving += chunk.dirty.nbytes
                self._write(number, chunk)

    # --- to the store (rule 4) --------------------------------------------------------------------

    def _write(self, number: int, chunk: _Chunk) -> None:
        flying = chunk.flying = chunk.dirty
        chunk.dirty = DirtyExtents()
        chunk.leaving = chunk.come
        self._running += 1

        def written(status: StoreStatus, detail: str) -> None:
            self._running -= 1
            chunk.flying = None
            if self._chunks.get(number) is not chunk:
                return  # all of it is lost, or forgotten
            if status is StoreStatus.OK:
                chunk.gone = chunk.leaving
                self.kept_bytes -= flying.nbytes
                # What it has now has come later than what others have.
                del self._chunks[number]
                if chunk.dirty.nbytes:
                    self._chunks[number] = chunk
            elif status is StoreStatus.UNAVAILABLE:
                self._lose(detail)
                return
            else:
                self._refused(number, chunk, flying, status, detail)
                return
            self._gone(number, chunk)
            self._take()
            self._go_on()

        self._store.write_extents(number, list(flying), written)

    def _go_on(self) -> None:
        """Write what somebody waits for, and no room was for it before."""
        wanted = {number: None for waiter in self._waiters for number in waiter.writes}
        for number in wanted:
            chunk = self._chunks.get(number)
            if self._running >= RUNNING_MAX:
                break
            if chunk is not None and chunk.flying is None and chunk.dirty.nbytes:
                self._write(number, chunk)

    def _gone(self, number: int, chunk: _Chunk) -> None:
        for waiter in list(self._waiters):
            if waiter.writes.get(number, chunk.gone + 1) <= chunk.gone:
                del waiter.writes[number]
                if not waiter.writes:
                    self._waiters.remove(waiter)
                    waiter.done(StoreStatus.OK, "")

    def _refused(
        self,
        number: int,
        chunk: _Chunk,
        flying: DirtyExtents,
        status: StoreStatus,
        detail: str,
    ) -> None:
        """Rule 6."""
        before = flying.nbytes + chunk.dirty.nbytes
        flying.put_all(chunk.dirty)
        chunk.dirty = flying
        self.kept_bytes += flying.nbytes - before
        for waiter in [w for w in self._waiters if number in w.writes]:
            self._waiters.remove(waiter)
            waiter.done(status, detail)
        waiting, self._waiting = self._waiting, deque()
        for io in waiting:
            _end(io, status, detail)
        self._go_on()

    def _lose(self, detail: str) -> None:
        self._lost = True
        self.lost_bytes, self.kept_bytes = self.kept_bytes, 0
        self._chunks.clear()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done(StoreStatus.UNAVAILABLE, detail)
        waiting, self._waiting = self._waiting, deque()
        for io in waiting:
            _end(io, StoreStatus.UNAVAILABLE, detail)

    # --- whoever waits for it (rule 5) ------------------------------------------------------------

    def _flush(self, io: StoreIo) -> None:
        if self.lost_bytes:
            _end(io, StoreStatus.SYNC_LOST, "what had been answered is lost")
            return
        self._behind = True
        self._when_gone(list(self._chunks), io)

    def _of_range(self, io: StoreIo) -> list[int]:
        """The chunks of it that something is kept of."""
        ends = io.offset, io.offset + io.length - 1
        first, last = (at // self._store.chunk_bytes for at in ends)
        if last - first < len(self._chunks):
            return [number for number in range(first, last + 1) if number in self._chunks]
        return [number for number in self._chunks if first <= number <= last]

    def _when_gone(self, numbers: list[int], io: StoreIo) -> None:
        """Hand ``io`` on when what has come of these chunks is in the store."""
        if not numbers:
            self._store.submit(io)
            return

        def gone(status: StoreStatus, detail: str) -> None:
            if status is StoreStatus.OK:
                self._store.submit(io)
            else:
                _end(io, status, detail)

        writes = {number: self._chunks[number].come for number in numbers}
        self._waiters.append(_Waiter(writes, gone))
        self._go_on()

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(chunk, start and stop in it, place in the I/O)"""
        at = 0
        while at < length:
            chunk, start = divmod(offset + at, self._store.chunk_bytes)
            stop = min(self._store.chunk_bytes, start + length - at)
            yield chunk, start, stop, at
            at += stop - start


def _put_over(buffers: Sequence[memoryview], over: DirtyExtents) -> None:
    """Put pieces into a scatter list, each where it lies."""
    for start, data in over:
        scatter(buffers, memoryview(data), start)


def _end(io: StoreIo, status: StoreStatus, detail: str) -> None:
    io.status, io.detail = status, detail
    io.done(io)
