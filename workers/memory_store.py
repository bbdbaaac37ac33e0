"""The memory store: a volume's bytes in this process's memory, gone with it.

For tests, for scratch disks (``--store memory:``), and the reference that the other stores are held
against.  Everything is at hand, so every I/O is done on the spot.

Pages that were never written, or were unmapped, take no space and read as zeros; the store never
holds more than ``size`` bytes of data.  A flush has nothing to do: this store promises to survive
nothing, and says so by being called memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import eq
from typing import Final

from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore

PAGE_BYTES: Final = 4096  # what is mapped and unmapped at a time
CHUNK_BYTES: Final = 65536  # what is allocated at a time
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))


class _Chunk:
    """``CHUNK_BYTES`` of data and a bit for each page that is mapped; an unmapped one is zero."""

    __slots__ = ("data", "mapped")

    def __init__(self) -> None:
        self.data = bytearray(CHUNK_BYTES)
        self.mapped = 0


class MemoryStore(VolumeStore):
    """``size`` bytes, all zero at first."""

    def __init__(self, size: int, *, read_only: bool = False) -> None:
        self.size = size
        self.read_only = read_only
        self.closed = False
        self._chunks: dict[int, _Chunk] = {}

    @property
    def mapped_bytes(self) -> int:
        """Bytes of data that are held."""
        return sum(c.mapped.bit_count() for c in self._chunks.values()) * PAGE_BYTES

    # --- on the spot ----------------------------------------------------------------------------

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if self.closed or offset < 0 or offset + nbytes > self.size:
            return False
        for view in buffers:
            self._read(offset, view)
            offset += len(view)
        return True

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if self.read_only or self.closed or offset < 0 or offset + nbytes > self.size:
            return False
        for view in buffers:
            self._write(offset, view)
            offset += len(view)
        return True

    def _read(self, offset: int, view: memoryview) -> None:
        at = 0
        for number, start, stop in _pieces(offset, len(view)):
            chunk = self._chunks.get(number)
            count = stop - start
            view[at : at + count] = (
                memoryview(chunk.data)[start:stop] if chunk is not None else bytes(count)
            )
            at += count

    def _write(self, offset: int, view: memoryview) -> None:
        at = 0
        for number, start, stop in _pieces(offset, len(view)):
            chunk = self._chunks.get(number)
            if chunk is None:
                chunk = self._chunks[number] = _Chunk()
            chunk.data[start:stop] = view[at : at + stop - start]
            chunk.mapped |= _pages(start // PAGE_BYTES, -(-stop // PAGE_BYTES))
            at += stop - start

    # --- submitted ------------------------------------------------------------------------------

    def submit(self, io: StoreIo) -> None:
        io.status = self._perform(io)
        io.done(io)

    def _perform(self, io: StoreIo) -> StoreStatus:
        if self.closed:
            return StoreStatus.UNAVAILABLE
        if io.offset < 0 or io.length < 0 or io.offset + io.length > self.size:
            return StoreStatus.OUT_OF_RANGE
        if self.read_only and io.kind in _CHANGES:
            return StoreStatus.READ_ONLY
        return _PERFORM[io.kind](self, io)

    def _submitted_read(self, io: StoreIo) -> StoreStatus:
        self.read_now(io.offset, io.buffers, io.length)
        return StoreStatus.OK

    def _submitted_write(self, io: StoreIo) -> StoreStatus:
        self.write_now(io.offset, io.buffers, io.length)
        return StoreStatus.OK

    def _zero(self, io: StoreIo) -> StoreStatus:
        """ZERO leaves the range mapped, UNMAP gives back the pages that lie in it as a whole."""
        if io.kind is IoKind.ZERO:
            for number, start, stop in _pieces(io.offset, io.length):
                self._write(number * CHUNK_BYTES + start, _ZEROS[start:stop])
            return StoreStatus.OK
        for number, start, stop in self._present(io.offset, io.length):
            chunk = self._chunks[number]
            chunk.data[start:stop] = _ZEROS[start:stop]
            chunk.mapped &= ~_pages(-(-start // PAGE_BYTES), stop // PAGE_BYTES)
            if not chunk.mapped:
                del self._chunks[number]
        return StoreStatus.OK

    def _present(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Like ``_pieces``, of the chunks that there are: a large empty range costs nothing."""
        end = offset + length
        present = []
        for number in sorted(self._chunks):
            base = number * CHUNK_BYTES
            start, stop = max(offset - base, 0), min(end - base, CHUNK_BYTES)
            if start < stop:
                present.append((number, start, stop))
        return present

    def _compare_and_write(self, io: StoreIo) -> StoreStatus:
        at = 0
        for expected in io.compare:
            found = bytearray(len(expected))
            self._read(io.offset + at, memoryview(found))
            if found != expected:
                io.miscompare_offset = at + list(map(eq, found, expected)).index(False)
                return StoreStatus.MISCOMPARE
            at += len(expected)
        return self._submitted_write(io)

    def _flush(self, io: StoreIo) -> StoreStatus:
        return StoreStatus.OK

    def _block_status(self, io: StoreIo) -> StoreStatus:
        extents: list[StatusExtent] = []
        io.extents = extents
        for offset, length, mapped in self._runs(io.offset, io.length):
            last = extents[-1] if extents else None
            if last is not None and last.mapped == mapped:
                extents[-1] = StatusExtent(last.offset, last.length + length, mapped)
            elif len(extents) == io.extents_max:
                break
            else:
                extents.append(StatusExtent(offset, length, mapped))
        return StoreStatus.OK

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, mapped): page by page, and in one piece where there is no chunk."""
        at = offset
        for number, start, stop in self._present(offset, length):
            base = number * CHUNK_BYTES
            if at < base + start:
                yield at, base + start - at, False
            at = base + stop
            mapped = self._chunks[number].mapped
            while start < stop:
                page = start // PAGE_BYTES
                end = min(stop, (page + 1) * PAGE_BYTES)
                yield base + start, end - start, bool(mapped >> page & 1)
                start = end
        if at < offset + length:
            yield at, offset + length - at, False

    def close(self) -> None:
        self.closed = True
        self._chunks.clear()


_CHANGES: Final = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})
_PERFORM: Final[dict[IoKind, Callable[[MemoryStore, StoreIo], StoreStatus]]] = {
    IoKind.READ: MemoryStore._submitted_read,
    IoKind.WRITE: MemoryStore._submitted_write,
    IoKind.ZERO: MemoryStore._zero,
    IoKind.UNMAP: MemoryStore._zero,
    IoKind.COMPARE_AND_WRITE: MemoryStore._compare_and_write,
    IoKind.FLUSH: MemoryStore._flush,
    IoKind.BLOCK_STATUS: MemoryStore._block_status,
}


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(chunk number, start, stop) of each chunk that a range touches."""
    end = offset + length
    while offset < end:
        number, start = divmod(offset, CHUNK_BYTES)
        stop = min(CHUNK_BYTES, start + end - offset)
        yield number, start, stop
        offset += stop - start


def _pages(first: int, end: int) -> int:
    """The bits of pages [first, end)."""
    return (1 << end) - (1 << first) if end > first else 0
