"""An I/O on its way to a worker, and what of a volume's share decides where it stands."""

from __future__ import annotations

from typing import Final, Protocol

from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import request_bytes

WRITING: Final = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})


class Share(Protocol):
    """A volume's share on the worker."""

    doubts: dict[int, RemoteIo]  # of the volume, by sequence number (worker_queue.py, rule 2)
    held: list[RemoteIo]
    written: int  # writes that were answered and need a flush, in the life of this node

    @property
    def handle(self) -> int:
        """From Control.OpenVolume; 0: not open, its I/O is held back."""

    @property
    def reason(self) -> str:
        """Why it is not open, for people."""

    def answered(self, remote: RemoteIo, io: StoreIo) -> None:
        """Something else than a read was answered; before ``io`` ends."""

    def doubt_over(self) -> None:
        """A write that was in doubt has been answered, or never will be."""

    def move(self, remote: RemoteIo) -> None:
        """Submit ``remote`` again: others stand in for the worker."""


class RemoteIo:
    """An I/O on its way."""

    __slots__ = (
        "carried",
        "deadline",
        "end",
        "handle",
        "io",
        "kind",
        "lent",
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
        self.handle = 0  # with which it was sent last; 0: never sent
        self.mark = share.written  # of a flush: the writes that it is of
        self.lent: int | None = None  # where its payload is in the memory of the present stream


def conflicts(remote: RemoteIo, doubts: dict[int, RemoteIo]) -> bool:
    """Whether ``remote`` overlaps a write in doubt.  A flush is of what was answered before."""
    if remote.kind is IoKind.FLUSH:
        return False
    return any(d.start < remote.end and remote.start < d.end for d in doubts.values())


def end(io: StoreIo, status: StoreStatus, detail: str) -> None:
    """End an I/O for its caller."""
    io.status, io.detail = status, detail
    io.done(io)
