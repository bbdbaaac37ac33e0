"""The rados store: a volume's chunks as objects of a Ceph pool, one object for each chunk.

    lunmesh.<UUID, 32 hex digits>.<chunk number, 16 hex digits>

Any worker of the pool can serve any chunk; replicas and repair are Ceph's.

Rules:

1. A chunk that was never written has no object.  What is missing, the end of a short object
   included, reads as zeros, and compares as zeros.
2. An I/O is cut at the chunks' edges.  At most ``PIECES_RUNNING`` pieces of it run at once, and the
   worst of their outcomes is the I/O's.
3. RADOS answers a write when it is durable on all replicas: FUA is free, and a flush has nothing to
   wait for.
4. UNMAP removes an object that lies in the range as a whole, and cuts one off whose end does.
   A hole in the middle becomes real zeros, and keeps its space.
5. COMPARE_AND_WRITE within a chunk is one atomic operation at the OSD.  Over an edge it is a read,
   a comparison and a write: the volume above holds the range meanwhile (workers/store.py, rule 4).
6. A store belongs to one client.  When that has been shut out, all I/O here ends with UNAVAILABLE,
   and none of it goes anywhere else (workers/rados_client.py, rule 3).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

from workers.rados_client import Done, RadosClient
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore, joined, scatter
from workers.write_behind import Written

PREFIX: Final = "lunmesh."
PIECES_RUNNING: Final = 16
STATUS_CHUNKS: Final = 256  # objects that one BLOCK_STATUS asks for; it may tell of less than asked
# Of one operation: its time at the OSD grows with their square, and beyond 65535 the rest is lost.
EXTENTS_MAX: Final = 512
MISCOMPARE: Final = -4095  # -MAX_ERRNO; an offset is subtracted
STATUS_BY_ERRNO: Final = {
    errno.ENOSPC: StoreStatus.NO_SPACE,
    errno.EDQUOT: StoreStatus.NO_SPACE,
    errno.EROFS: StoreStatus.READ_ONLY,
    errno.EPERM: StoreStatus.READ_ONLY,
    errno.EACCES: StoreStatus.READ_ONLY,
    errno.ESHUTDOWN: StoreStatus.UNAVAILABLE,
}

Piece = tuple[int, int, int, int]  # chunk, start and stop in it, place in the I/O
StartPiece = Callable[[Piece, Done], None]


def object_prefix(uuid: bytes) -> str:
    """What the names of all chunks of a volume begin with."""
    return f"{PREFIX}{uuid.hex()}."


class RadosStore(VolumeStore):
    """A volume of ``size`` bytes."""

    at_hand = False
    has_views = True
    shared = True

    def __init__(
        self,
        client: RadosClient,
        uuid: bytes,
        size: int,
        chunk_bytes: int,
        *,
        read_only: bool = False,
    ) -> None:
        self.size = size
        self.read_only = read_only
        self.client = client
        self.chunk_bytes = chunk_bytes
        self._prefix = object_prefix(uuid)
        self._closed = False

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        if io.kind is IoKind.FLUSH:  # rule 3
            io.done(io)
        elif io.offset < 0 or io.length < 0 or io.offset + io.length > self.size:
            _end(io, StoreStatus.OUT_OF_RANGE)
        elif self.read_only and io.kind in _CHANGES:
            _end(io, StoreStatus.READ_ONLY)
        elif io.kind is IoKind.COMPARE_AND_WRITE:
            self._compare_and_write(io)
        elif io.kind is IoKind.BLOCK_STATUS:
            _BlockStatus(self, io)
        elif io.kind is IoKind.READ:
            if not self._read_one(io):
                if not io.buffers:
                    io.buffers = (memoryview(bytearray(io.length)),)
                _Pieces(self, io, partial(self._read, io))
        elif io.kind is IoKind.WRITE and self._write_one(io):
            pass
        else:
            data = joined(io.buffers) if io.kind is IoKind.WRITE else b""
            _Pieces(self, io, partial(_CHANGE[io.kind], self, data))

    def write_extents(
        self, chunk: int, extents: Sequence[tuple[int, bytes]], written: Written
    ) -> None:
        """As of ``write_behind.ChunkStore``: ``EXTENTS_MAX`` of them at a time."""
        name, rest = self.name(chunk), iter(extents)

        def ended(result: int, _: bytes) -> None:
            some = list(islice(rest, EXTENTS_MAX)) if result >= 0 and not self._closed else []
            if some:
                self.client.write_extents(name, some, ended)
            else:
                written(*_outcome(result, reads=False))

        self.client.write_extents(name, list(islice(rest, EXTENTS_MAX)), ended)

    def close(self) -> None:
        """Nothing more of what goes in several steps: the volume may be deleted now.

        There is nothing of its own to give back: the client is the shares'.
        """
        self._closed = True

    def name(self, chunk: int) -> str:
        """Of the chunk's object."""
        return f"{self._prefix}{chunk:016x}"

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Rule 2."""
        at = 0
        while at < length:
            chunk, start = divmod(offset + at, self.chunk_bytes)
            stop = min(self.chunk_bytes, start + length - at)
            yield chunk, start, stop, at
            at += stop - start

    # --- an I/O within a chunk, as most are -------------------------------------------------------

    def _read_one(self, io: StoreIo) -> bool:
        length = io.length
        chunk, start = divmod(io.offset, self.chunk_bytes)
        if not 0 < length <= self.chunk_bytes - start:
            return False

        def ended(result: int, data: bytes) -> None:
            if result >= 0 or result == -errno.ENOENT:  # rule 1
                found = memoryview(data if result == length else data.ljust(length, b"\0"))
                if io.takes_views:
                    io.buffers = (found,)
                else:
                    scatter(io.buffers, found)
                result = 0
            _finish(io, result)

        self.client.read(self.name(chunk), length, start, ended)
        return True

    def _write_one(self, io: StoreIo) -> bool:
        chunk, start = divmod(io.offset, self.chunk_bytes)
        if not 0 < io.length <= self.chunk_bytes - start:
            return False
        self.client.write(
            self.name(chunk), joined(io.buffers), start, lambda result, _: _finish(io, result)
        )
        return True

    # --- one piece of an I/O ----------------------------------------------------------------------

    def _read(self, io: StoreIo, piece: Piece, done: Done) -> None:
        chunk, start, stop, at = piece

        def read(result: int, data: bytes) -> None:
            if result >= 0 or result == -errno.ENOENT:  # rule 1
                missing = stop - start - len(data)
                found = memoryview(data + bytes(missing) if missing else data)
                scatter(io.buffers, found, at)
                result = 0
            done(result, b"")

        self.client.read(self.name(chunk), stop - start, start, read)

    def _write(self, data: bytes, piece: Piece, done: Done) -> None:
        chunk, start, stop, at = piece
        part = data if len(data) == stop - start else data[at : at + stop - start]
        self.client.write(self.name(chunk), part, start, done)

    def _zero(self, _: bytes, piece: Piece, done: Done) -> None:
        chunk, start, stop, _at = piece
        self.client.write_zeros(self.name(chunk), start, stop - start, done)

    def _unmap(self, _: bytes, piece: Piece, done: Done) -> None:
        """Rule 4.

        The end of the volume is not taken for the end of its last chunk: the volume may be growing.
        """
        chunk, start, stop, _at = piece
        name = self.name(chunk)

        def known(size: int, _: bytes) -> None:
            if size > start:
                self.client.write_zeros(name, start, min(stop, size) - start, done)
            else:
                done(size if size < 0 else 0, b"")

        if stop < self.chunk_bytes:
            self.client.stat(name, _missing_is_well(known))
        elif start:
            self.client.truncate(name, start, _missing_is_well(done))
        else:
            self.client.remove(name, _missing_is_well(done))

    # --- compare and write ------------------------------------------------------------------------

    def _compare_and_write(self, io: StoreIo) -> None:
        """Rule 5."""
        chunk, start = divmod(io.offset, self.chunk_bytes)
        compare, data = joined(io.compare), joined(io.buffers)
        if start + io.length > self.chunk_bytes:
            self._compare_then_write(io, compare, data)
            return

        def done(result: int, _: bytes) -> None:
            if result <= MISCOMPARE:
                io.miscompare_offset = MISCOMPARE - result
                _end(io, StoreStatus.MISCOMPARE)
            else:
                _finish(io, result)

        self.client.compare_and_write(self.name(chunk), compare, data, start, done)

    def _compare_then_write(self, io: StoreIo, compare: bytes, data: bytes) -> None:
        found = bytearray(io.length)

        def read(inner: StoreIo) -> None:
            if inner.status is not StoreStatus.OK:
                io.detail = inner.detail
                _end(io, inner.status)
            elif found != compare:
                io.miscompare_offset = next(i for i, x in enumerate(compare) if x != found[i])
                _end(io, StoreStatus.MISCOMPARE)
            else:
                _Pieces(self, io, partial(self._write, data))

        self.submit(StoreIo(IoKind.READ, io.offset, io.length, read, [memoryview(found)]))


class _Pieces:
    """The pieces of an I/O on their way (rule 2)."""

    __slots__ = ("_io", "_pieces", "_result", "_running", "_start", "_starting")

    def __init__(self, store: RadosStore, io: StoreIo, start: StartPiece) -> None:
        self._io = io
        self._pieces = store.pieces(io.offset, io.length)
        self._start = start
        self._running = 0
        self._result = 0
        self._go_on()

    def _go_on(self) -> None:
        """Completions come from the loop, so none comes while this runs."""
        while self._running < PIECES_RUNNING and self._result >= 0:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._running += 1
            self._start(piece, self._ended)
        if not self._running:
            _finish(self._io, self._result)

    def _ended(self, result: int, _: bytes) -> None:
        self._running -= 1
        self._result = min(self._result, result)
        self._go_on()


class _BlockStatus:
    """Which chunks of a range have objects."""

    def __init__(self, store: RadosStore, io: StoreIo) -> None:
        self._io = io
        self._client = store.client
        self._pieces = list(islice(store.pieces(io.offset, io.length), STATUS_CHUNKS))
        self._names = [store.name(piece[0]) for piece in self._pieces]
        self._mapped = [False] * len(self._pieces)
        self._next = self._ended = 0
        self._result = 0
        for _ in range(min(PIECES_RUNNING, len(self._pieces))):
            self._ask()
        if not self._pieces:
            io.done(io)

    def _ask(self) -> None:
        number = self._next
        self._next += 1
        self._client.stat(self._names[number], partial(self._known, number))

    def _known(self, number: int, size: int, _: bytes) -> None:
        self._ended += 1
        self._mapped[number] = size >= 0
        if size < 0 and size != -errno.ENOENT:
            self._result = size
        if self._next < len(self._pieces):
            self._ask()
        elif self._ended == len(self._pieces):
            self._tell()

    def _tell(self) -> None:
        extents: list[StatusExtent] = []
        self._io.extents = extents
        for (_, start, stop, at), mapped in zip(self._pieces, self._mapped, strict=True):
            last = extents[-1] if extents else None
            if last is not None and last.mapped == mapped:
                extents[-1] = StatusExtent(last.offset, last.length + stop - start, mapped)
            elif len(extents) == self._io.extents_max:
                break
            else:
                extents.append(StatusExtent(self._io.offset + at, stop - start, mapped))
        _finish(self._io, self._result)


def _missing_is_well(done: Done) -> Done:
    def ended(result: int, data: bytes) -> None:
        done(0 if result == -errno.ENOENT else result, data)

    return ended


def _finish(io: StoreIo, result: int) -> None:
    if result < 0:
        reads = io.kind in (IoKind.READ, IoKind.BLOCK_STATUS)
        io.status, io.detail = _outcome(result, reads=reads)
    io.done(io)


def _outcome(result: int, *, reads: bool) -> tuple[StoreStatus, str]:
    """What librados has returned, as a status and a text."""
    if result >= 0:
        return StoreStatus.OK, ""
    failed = StoreStatus.READ_FAILED if reads else StoreStatus.WRITE_FAILED
    status = STATUS_BY_ERRNO.get(-result, failed)
    if reads and status is not StoreStatus.UNAVAILABLE:
        status = failed
    return status, f"rados: {os.strerror(-result)}"


def _end(io: StoreIo, status: StoreStatus) -> None:
    io.status = status
    io.done(io)


_CHANGES: Final = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})
_CHANGE: Final[dict[IoKind, Callable[[RadosStore, bytes, Piece, Done], None]]] = {
    IoKind.WRITE: RadosStore._write,
    IoKind.ZERO: RadosStore._zero,
    IoKind.UNMAP: RadosStore._unmap,
}
