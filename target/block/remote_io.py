"""An I/O on its way to a worker, and what of a volume's share decides where it stands."""

from __future__ import annotations

from typing import Final, Protocol

from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import request_bytes

WRITING: Final = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})


class Share(Protocol):
    """A volume's share on the worker."""

    handle: int  # from Control.OpenVolume; 0: not open, its I/O is held back
    doubts: dict[int, RemoteIo]  # by sequence number (worker_queue.py, rule 2)
    held: list[RemoteIo]
    written: int  # writes that were answered and need a flush, in the life of this node
    flushed: int  # how many of them are known to be on stable storage
    sync_lost: bool  # some that were not may be gone; the next flush has to say so

    @property
    def reason(self) -> str:
        """Why it is not open, for people."""


class RemoteIo:
    """An I/O on its way."""

    __slots__ = (
        "carried",
        "deadline",
        "end",
        "handle",
        "io",
        "kind",
        "mark",
        "sequence",
        "share",
        "start",
    )

    def __init__(self, sequence: int, io: StoreIo, share: Share, deadline: float) -> None:
        self.sequence = sequence
        self.io: StoreIo | None = io  # None: ended for its caller
        self.kind = io.kind
        self.share = share
        self.deadline = deadline
        self.carried = request_bytes(io.kind, io.length)
        self.start = io.offset
        self.end = io.offset + io.length
        self.handle = 0  # with which it was sent last
        self.mark = share.written  # of a flush: what it is of


def conflicts(remote: RemoteIo, doubts: dict[int, RemoteIo]) -> bool:
    """Whether ``remote`` overlaps a write in doubt.  A flush is of what was answered before."""
    if remote.kind is IoKind.FLUSH:
        return False
    return any(d.start < remote.end and remote.start < d.end for d in doubts.values())


def overlaps(io: StoreIo, doubts: dict[int, RemoteIo]) -> bool:
    """The same of an I/O that is on no way yet."""
    end = io.offset + io.length
    return any(d.start < end and io.offset < d.end for d in doubts.values())


def end(io: StoreIo, status: StoreStatus, detail: str) -> None:
    """End an I/O for its caller."""
    io.status, io.detail = status, detail
    io.done(io)
