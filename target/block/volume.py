"""A volume: a range of bytes, cut into chunks that lie in one store or are spread over several.

``read_now``/``write_now`` are the straight pass for data at hand; the other methods return a
``Wait`` for a command that runs as a coroutine.  An I/O that touches several stores is cut into
extents, which run concurrently; scatter lists are handed through in pieces, never joined.
Overlapping I/O is kept in order here (``ranges.py``), so a store need not.  Where the chunks are
says the layout (``layout.py``), which a migration exchanges (``migration.py``).
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from target.block.extents import Extent, cut, cut_buffers
from target.block.layout import Layout, Place
from target.block.ranges import RangeOrder, RangeTicket
from target.block.wait import PENDING, Resume, Wait, _Pending
from workers.store import IoKind, StatusExtent, StoreError, StoreIo, StoreStatus, VolumeStore

CHUNK_BYTES_DEFAULT = 4 << 20
CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_MAX = 64 << 20
EXTENTS_MAX = 256  # runs that one BLOCK_STATUS answers
STATUS_CHUNKS_MAX = 4096  # that one BLOCK_STATUS looks at, where chunks lie in several stores

T = TypeVar("T")
_WRITES = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})

# A worker that cannot be asked now may be there again in a moment.
_AWAY = frozenset({StoreStatus.UNAVAILABLE, StoreStatus.DEADLINE})


class VolumeBusy(StoreError):
    """The initiator is to try again: a store is away (``busy_when_away``), or this node has been
    fenced, and its sessions end.
    """


class Volume:
    """``size`` bytes, in blocks of ``block_bytes``; ``stores[place(n)]`` holds chunk ``n``."""

    def __init__(
        self,
        name: str,
        uuid: uuids.UUID,
        stores: Sequence[VolumeStore],
        *,
        block_bytes: int = 512,
        chunk_bytes: int = CHUNK_BYTES_DEFAULT,
        read_only: bool = False,
        write_cache: bool = True,
        place: Place = lambda chunk: 0,
        busy_when_away: bool = False,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.block_bytes = block_bytes
        self.chunk_bytes = chunk_bytes
        self.size = min(s.size for s in stores) // block_bytes * block_bytes
        self.read_only = read_only or any(s.read_only for s in stores)
        self.write_cache = write_cache  # off: every write is on stable storage before its answer
        self.busy_when_away = busy_when_away
        self.lost = ""  # a loss that a store has said to a migration; the next flush is told
        self._ranges = RangeOrder(chunk_bytes)
        self.relayout(Layout(stores, place))

    @property
    def stores(self) -> tuple[VolumeStore, ...]:
        """All stores that may have something of the volume."""
        return self.layout.stores

    # --- moving ---------------------------------------------------------------------------------

    def relayout(self, layout: Layout) -> None:
        """From now on the chunks are where ``layout`` says.

        For every chunk with I/O in flight that is where it was: only a migration changes it, and
        holds the chunk for that.
        """
        self.layout = layout
        self._at_hand = layout.at_hand
        store = layout.at_hand
        self._writes_at_hand = store if store is not None and store.writes_at_hand else None
        self._some_at_hand = layout.some_at_hand

    def hold(self, chunk: int) -> Wait[RangeTicket]:
        """Wait until no I/O runs on ``chunk``; others wait until ``let_go``.

        All of it is held, past the end of the volume too: that may grow.
        """
        return _Hold(self._ranges, chunk * self.chunk_bytes, (chunk + 1) * self.chunk_bytes)

    def let_go(self, ticket: RangeTicket) -> None:
        """What ``hold`` gave."""
        self._ranges.leave(ticket)

    # --- data at hand ---------------------------------------------------------------------------

    def read_now(self, offset: int, views: Sequence[memoryview], nbytes: int) -> bool:
        """Read without waiting; False if that cannot be done (then ``await read``)."""
        store = self._at_hand
        if store is None:
            if not self._some_at_hand:
                return False
            chunk = offset // self.chunk_bytes
            if (offset + nbytes - 1) // self.chunk_bytes != chunk:
                return False
            store = self.layout.stores[self.layout.place(chunk)]
        ranges = self._ranges
        if not ranges.idle and not ranges.free(offset, offset + nbytes, False):
            return False
        return store.read_now(offset, views, nbytes)

    def write_now(self, offset: int, views: Sequence[memoryview], nbytes: int) -> bool:
        """Write without waiting; False if that cannot be done (then ``await write``)."""
        store = self._writes_at_hand
        if store is None or not self.write_cache:
            return False
        ranges = self._ranges
        if not ranges.idle and not ranges.free(offset, offset + nbytes, True):
            return False
        return store.write_now(offset, views, nbytes)

    # --- all else -------------------------------------------------------------------------------

    def read(self, offset: int, views: Sequence[memoryview], nbytes: int) -> Wait[None]:
        """Fill ``views`` from ``offset``."""
        return _VolumeIo(self, StoreIo(IoKind.READ, offset, nbytes, _unused, views), _nothing)

    def fetch(
        self, offset: int, views: Sequence[memoryview], nbytes: int
    ) -> Wait[Sequence[memoryview]]:
        """Read from ``offset``; where the data are: in ``views``, or in memory of the store's."""
        io = StoreIo(IoKind.READ, offset, nbytes, _unused, views, takes_views=True)
        return _VolumeIo(self, io, lambda parts: parts[0].buffers if len(parts) == 1 else views)

    def write(
        self, offset: int, views: Sequence[memoryview], nbytes: int, fua: bool = False
    ) -> Wait[None]:
        """Write ``views`` at ``offset``; with ``fua`` to stable storage."""
        fua = fua or not self.write_cache
        io = StoreIo(IoKind.WRITE, offset, nbytes, _unused, views, fua=fua)
        return _VolumeIo(self, io, _nothing)

    def zero(self, offset: int, nbytes: int, *, unmap: bool) -> Wait[None]:
        """Make a range read as zeros; with ``unmap`` its space is given back."""
        kind = IoKind.UNMAP if unmap else IoKind.ZERO
        io = StoreIo(kind, offset, nbytes, _unused, fua=not self.write_cache)
        return _VolumeIo(self, io, _nothing)

    def compare_and_write(
        self,
        offset: int,
        compare: Sequence[memoryview],
        views: Sequence[memoryview],
        nbytes: int,
        fua: bool = False,
    ) -> Wait[None]:
        """Write ``views`` if the medium holds ``compare``, as one act.

        Where the range lies in several stores, all of them compare before one of them writes; no
        other I/O on this volume comes in between.  Raises ``StoreError(MISCOMPARE)`` with the
        offset of the first difference.
        """
        fua = fua or not self.write_cache
        kind = IoKind.COMPARE_AND_WRITE
        io = StoreIo(kind, offset, nbytes, _unused, views, compare, fua=fua)
        return _VolumeIo(self, io, _nothing)

    def flush(self) -> Wait[None]:
        """All answered writes to stable storage, in every store."""
        return _VolumeIo(self, StoreIo(IoKind.FLUSH, 0, self.size, _unused), _nothing)

    def when_written(self, done: Callable[[], None]) -> None:
        """``done()`` when what is being written now has been; what begins later does not count."""
        self._ranges.when_written(done)

    def block_status(self, offset: int, nbytes: int) -> Wait[list[StatusExtent]]:
        """Runs of mapped and unmapped bytes from ``offset`` on: some of the range, at least one.

        A snapshot that is out of date as soon as it is taken: it waits for no write, and none for
        it, unless the volume moves.  What it costs does not grow with the volume.
        """
        if self.layout.only is None:
            nbytes = min(nbytes, STATUS_CHUNKS_MAX * self.chunk_bytes)
        io = StoreIo(IoKind.BLOCK_STATUS, offset, nbytes, _unused, extents_max=EXTENTS_MAX)
        return _VolumeIo(self, io, _joined_extents)

    def grow(self, size: int) -> None:
        """Use ``size`` bytes from now on, which all stores have."""
        assert size >= self.size, "a volume does not shrink"
        for store in self.stores:
            store.size = size
        self.size = size // self.block_bytes * self.block_bytes

    def close(self) -> None:
        """Close the stores.  Nothing may be in flight."""
        assert self._ranges.idle, "volume closed with I/O in flight"
        for store in self.stores:
            store.close()

    def _extents(self, io: StoreIo) -> list[Extent]:
        layout = self.layout
        if io.kind is IoKind.FLUSH:
            return [Extent(i, 0, self.size) for i in range(len(layout.stores))]
        return cut(io.offset, io.length, self.chunk_bytes, layout.place)


class _Hold(Wait[RangeTicket]):
    """A chunk that is held as by a writer."""

    __slots__ = ("_end", "_granted", "_ranges", "_resume", "_start", "_ticket")

    def __init__(self, ranges: RangeOrder, start: int, end: int) -> None:
        self._ranges = ranges
        self._start = start
        self._end = end
        self._granted = False
        self._ticket: RangeTicket | None = None
        self._resume: Resume | None = None

    def begin(self, resume: Resume) -> RangeTicket | BaseException | _Pending:
        self._ticket = self._ranges.enter(self._start, self._end, True, self._go)
        self._ticket.holds = True
        if self._granted:
            return self._ticket
        self._resume = resume
        return PENDING

    def _go(self) -> None:
        self._granted = True
        if self._resume is not None:
            self._resume(self._ticket)


def _unused(io: StoreIo) -> None:
    raise AssertionError("the whole I/O is never submitted, its extents are")


def _nothing(parts: list[StoreIo]) -> None:
    return None


def _joined_extents(parts: list[StoreIo]) -> list[StatusExtent]:
    joined: list[StatusExtent] = []
    for part in parts:
        for extent in part.extents:
            last = joined[-1] if joined else None
            if last is not None and last.offset + last.length != extent.offset:
                return joined  # an earlier part was cut short: what follows is not contiguous
            if last is not None and last.mapped == extent.mapped:
                joined[-1] = StatusExtent(last.offset, last.length + extent.length, last.mapped)
            elif len(joined) == EXTENTS_MAX:
                return joined
            else:
                joined.append(extent)
    return joined


class _VolumeIo(Wait[T], Generic[T]):
    """One I/O on a volume: its turn among overlapping ones, its extents, its outcome."""

    __slots__ = (
        "_comparing",
        "_io",
        "_layout",
        "_parts",
        "_remaining",
        "_result",
        "_resume",
        "_started",
        "_ticket",
        "_v",
        "_where",
    )

    def __init__(self, volume: Volume, io: StoreIo, result: Callable[[list[StoreIo]], T]) -> None:
        self._v = volume
        self._io = io
        self._result = result
        self._parts: list[StoreIo] = []
        self._where: list[VolumeStore] = []  # of each part
        self._remaining = 0
        self._ticket: RangeTicket | None = None
        self._layout: Layout | None = None  # of an I/O that has no ticket
        self._resume: Resume | None = None
        self._started = False
        self._comparing = False  # the first half of a COMPARE_AND_WRITE in several stores

    @property
    def what(self) -> str:  # type: ignore[override]  # of this I/O
        return f"store {self._io.kind.name.lower()}"

    def begin(self, resume: Resume) -> T | BaseException | _Pending:
        io = self._io
        if io.offset < 0 or io.offset + io.length > self._v.size:
            return StoreError(StoreStatus.OUT_OF_RANGE)
        if not io.length:
            self._started = True
        elif io.kind is IoKind.FLUSH or (
            io.kind is IoKind.BLOCK_STATUS and not self._v.layout.moving
        ):
            self._layout = self._v.layout
            self._layout.unordered += 1
            self._go()
        else:
            # The status of a chunk that is moving away is none: its old place is emptied.
            self._ticket = self._v._ranges.enter(
                io.offset, io.offset + io.length, io.kind in _WRITES, self._go
            )
        if self._started and self._remaining == 0:
            return self._outcome()
        self._resume = resume
        return PENDING

    def _go(self) -> None:
        self._started = True
        io, layout = self._io, self._v.layout
        if layout.only is not None:
            self._submit_whole(layout.only)
            return
        extents = self._v._extents(io)
        if len(extents) == 1:  # which is the rule for small ones
            self._submit_whole(layout.stores[extents[0].store])
        elif io.kind is IoKind.COMPARE_AND_WRITE:
            # What equals the comparison is written over itself: a comparison without a buffer.
            self._comparing = True
            self._submit(extents, io.kind, io.compare, io.compare, False)
        else:
            self._submit(extents, io.kind, io.buffers, io.compare, io.fua)

    def _submit_whole(self, store: VolumeStore) -> None:
        """The I/O as it is, to the store that has all of it."""
        io = self._io
        io.done = self._part_done
        self._remaining = 1
        self._parts = [io]
        self._where = [store]
        store.submit(io)

    def _submit(
        self,
        extents: list[Extent],
        kind: IoKind,
        buffers: Sequence[memoryview],
        compare: Sequence[memoryview],
        fua: bool,
    ) -> None:
        """An I/O for each extent."""
        io = self._io
        self._remaining = len(extents)
        self._parts = [
            StoreIo(
                kind,
                extent.offset,
                extent.length,
                self._part_done,
                cut_buffers(buffers, extent.offset - io.offset, extent.length),
                cut_buffers(compare, extent.offset - io.offset, extent.length),
                fua,
                io.extents_max,
            )
            for extent in extents
        ]
        self._where = [self._v.stores[extent.store] for extent in extents]
        for store, part in zip(self._where, self._parts, strict=True):
            store.submit(part)

    def hurry(self) -> None:
        for store, part in list(zip(self._where, self._parts, strict=False)):
            store.cancel(part)

    def _part_done(self, part: StoreIo) -> None:
        self._remaining -= 1
        if self._remaining:
            return
        if self._comparing and all(p.status is StoreStatus.OK for p in self._parts):
            self._comparing = False
            io = self._io
            self._submit(self._v._extents(io), IoKind.WRITE, io.buffers, (), io.fua)
        elif self._resume is not None:
            resume, self._resume = self._resume, None
            if self._io.kind is IoKind.BLOCK_STATUS and self._outdated():
                outcome = self.begin(resume)
                if outcome is not PENDING:
                    resume(outcome)
            else:
                resume(self._outcome())

    def _outdated(self) -> bool:
        """Whether a migration has begun meanwhile: what it has emptied is not unmapped."""
        if self._layout is None or self._layout is self._v.layout:
            return False
        self._layout.unordered -= 1
        self._layout = None
        self._started = False
        self._io.extents = ()
        self._io.status = StoreStatus.OK
        return True

    def _outcome(self) -> T | BaseException:
        if self._ticket is not None:
            ticket, self._ticket = self._ticket, None
            self._v._ranges.leave(ticket)
        if self._layout is not None:
            self._layout.unordered -= 1
            self._layout = None
        # No cycles: what an I/O leaves behind goes at once, not when the collector comes by.
        parts, self._parts = self._parts, []
        self._where = []
        self._io.done = _unused
        for part in parts:
            if part.status is not StoreStatus.OK:
                away = part.status in _AWAY and self._v.busy_when_away
                if away or part.status is StoreStatus.STALE_EPOCH:
                    return VolumeBusy(part.status, part.detail)
                error = part.error()
                error.miscompare_offset += part.offset - self._io.offset
                return error
        if self._v.lost and (self._io.kind is IoKind.FLUSH or self._io.fua):
            lost, self._v.lost = self._v.lost, ""
            return StoreError(StoreStatus.SYNC_LOST, lost)
        return self._result(parts)
