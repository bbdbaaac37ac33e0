"""The store interface: what a volume asks of the thing that keeps its bytes.

A :class:`VolumeStore` is the part of one volume that one store holds.  Offsets and lengths are
bytes in the *volume* (chunk ``n`` begins at byte ``n * chunk_bytes``), so nothing above has to
translate.  The embedded mode and a gRPC worker run the same stores behind this interface.

Rules:

1. ``read_now`` and ``write_now`` either do the whole I/O at once, without waiting for a device, and
   return True, or return False having promised nothing.  They never raise for an I/O failure: the
   caller then goes through ``submit``, which says what is wrong.
2. ``submit`` never blocks.  ``io.done(io)`` is called exactly once, on the event loop's thread,
   possibly before ``submit`` returns.
3. Buffers belong to the caller and stay untouched by it until ``done``.  A READ may end with other
   ``buffers`` than it was given, if it ``takes_views``: memory that nobody writes to any more.
4. The store does not order overlapping I/O: the volume above does (``target/block/ranges.py``).
5. A flush that failed has lost data that was acknowledged.  The store remembers it and fails every
   later flush and FUA write until it is opened anew (what is called "fsync-gate").

This module imports nothing else of ``workers``, and it alone may be imported by ``target/block``.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class IoKind(enum.Enum):
    """What a store can be asked to do with a byte range."""

    # enum's own is a function of Python's, and hashes the name: too much for each look-up.
    __hash__ = object.__hash__

    READ = "read"
    WRITE = "write"
    ZERO = "zero"  # reads as zeros afterwards; the space stays allocated
    UNMAP = "unmap"  # reads as zeros afterwards; the space is given back
    COMPARE_AND_WRITE = "compare-and-write"
    FLUSH = "flush"
    BLOCK_STATUS = "block-status"


class StoreStatus(enum.Enum):
    """How an I/O ended.  Exhaustive: one table in the target maps each to sense data."""

    __hash__ = object.__hash__

    OK = "ok"
    MISCOMPARE = "miscompare"  # COMPARE_AND_WRITE found other bytes; nothing was written
    OUT_OF_RANGE = "out of range"
    NO_SPACE = "no space left"
    READ_ONLY = "read-only"
    READ_FAILED = "read failed"
    WRITE_FAILED = "write failed"
    SYNC_LOST = "a flush failed, acknowledged data may be lost"
    UNAVAILABLE = "unavailable"  # the store cannot be reached or is closing
    STALE_EPOCH = "stale epoch"  # the issuing node has been fenced
    DEADLINE = "deadline exceeded"


class StoreError(Exception):
    """An I/O that ended with anything but OK."""

    def __init__(self, status: StoreStatus, detail: str = "", miscompare_offset: int = 0) -> None:
        super().__init__(detail or status.value)
        self.status = status
        self.miscompare_offset = miscompare_offset  # bytes from the start of the compared range


@dataclass(frozen=True, slots=True)
class StatusExtent:
    """A run of bytes that is wholly mapped (allocated) or wholly unmapped."""

    offset: int
    length: int
    mapped: bool


@dataclass(slots=True, eq=False)
class StoreIo:
    """One I/O in flight.  The caller fills the upper part, the store the lower one.

    ``buffers`` is the scatter list: filled by READ, written by WRITE and COMPARE_AND_WRITE.
    ``compare`` is what COMPARE_AND_WRITE expects to find.  ``fua``: on stable storage before
    ``done``.  BLOCK_STATUS answers in ``extents``, contiguous from ``offset``, at most
    ``extents_max`` of them.  ``takes_views``: rule 3.
    """

    kind: IoKind
    offset: int
    length: int
    done: Callable[[StoreIo], None]
    buffers: Sequence[memoryview] = ()
    compare: Sequence[memoryview] = ()
    fua: bool = False
    extents_max: int = 256
    takes_views: bool = False

    status: StoreStatus = StoreStatus.OK
    detail: str = ""
    miscompare_offset: int = 0
    extents: Sequence[StatusExtent] = ()

    def error(self) -> StoreError:
        """What to raise for a status that is not OK."""
        return StoreError(self.status, self.detail, self.miscompare_offset)


class VolumeStore(ABC):
    """The part of one volume that one store holds."""

    size: int  # bytes
    read_only: bool = False
    at_hand: bool = True  # False: read_now and write_now are not worth a call, they always fail
    writes_at_hand: bool = True  # False: write_now is not
    has_file: bool = False  # its bytes are those of one file: ``open_for_reading``
    has_views: bool = False  # True: a READ that ``takes_views`` needs no buffers (rule 3)
    shared: bool = False  # True: any worker can serve any chunk (RADOS); False: only its own can

    @abstractmethod
    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        """Fill ``buffers`` (``nbytes`` in all) if that needs no waiting (rule 1)."""

    @abstractmethod
    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        """Write ``buffers`` if that needs no waiting and no durability (rule 1)."""

    def open_for_reading(self) -> int:
        """A new descriptor of the file, whose byte n is the store's.  Raises OSError."""
        raise NotImplementedError("only where has_file says so")

    @abstractmethod
    def submit(self, io: StoreIo) -> None:
        """Start ``io``; ``io.done`` is called when it has ended (rule 2)."""

    def cancel(self, io: StoreIo) -> None:  # noqa: B027  # a store need not
        """Nobody wants ``io`` any more: if it has not begun, it may end at once, or soon."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds.  Nothing may be in flight."""


def joined(buffers: Sequence[memoryview]) -> bytes:
    """All bytes of a scatter list; not copied where they are ``bytes`` already."""
    if len(buffers) == 1:
        whole = buffers[0].obj
        if type(whole) is bytes and len(whole) == len(buffers[0]):
            return whole
    return b"".join(buffers)


def scatter(buffers: Sequence[memoryview], data: memoryview, at: int = 0) -> None:
    """Copy ``data`` to byte ``at`` of a scatter list, which has room for it."""
    done, end = 0, len(data)
    for view in buffers:
        size = len(view)
        if at >= size:
            at -= size
            continue
        count = min(size - at, end - done)
        view[at : at + count] = data[done : done + count]
        done += count
        if done == end:
            return
        at = 0
