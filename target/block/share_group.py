"""The shares of one volume on its workers, and which of them an I/O goes to.

Rules:

1. A chunk's I/O goes to its home, the worker that the placement names.  While that one is out
   (``failover.py``) it goes to one of the others that serve the same shared store, by rendezvous
   hashing again: what one leaves is spread over all.
2. A write in doubt (``worker_queue.py``, rule 2) holds back what overlaps it at every worker.
3. Nothing is sent before each worker that may have I/O of this node's previous life has served this
   life, or is out.  A chunk's last I/O need not have been at its home.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from typing import Protocol

from target.block.placement import Placement
from target.block.remote_io import RemoteIo, Share
from target.block.worker_channel import ShareInfo
from target.block.worker_link import WorkerLink
from workers.store import IoKind, StoreIo


class Member(Share, Protocol):
    """A volume's share on one worker."""

    info: ShareInfo
    link: WorkerLink
    store_id: str  # of the shared store that it is in; empty: in a local one, or not known yet


def _always() -> bool:
    return True


class ShareGroup:
    """The shares of one volume."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.doubts: dict[int, RemoteIo] = {}  # rule 2
        self.settled = False  # rule 3
        # Whether no other node serves the volume now (direct_reads.py, rule 3).
        self.sole: Callable[[], bool] = _always
        self._standing_in: Placement | None = None
        self._waits: list[tuple[set[int], Callable[[], None]]] = []

    def settle(self) -> None:
        """Some worker has served, or is out (rule 3)."""
        if not self.settled and all(member.link.settled for member in self.members):
            self.settled = True
            self.release()

    def after_doubts(self, start: int, end: int, done: Callable[[], None]) -> bool:
        """Whether writes to bytes [start, end) are in doubt; then ``done()`` when that is over."""
        doubts = {number for number, it in self.doubts.items() if it.start < end and start < it.end}
        if doubts:
            self._waits.append((doubts, done))
        return bool(doubts)

    def doubt_over(self) -> None:
        """A write is in doubt no more."""
        self.release()
        for wait in list(self._waits):
            doubts, done = wait
            doubts &= self.doubts.keys()
            if not doubts:
                self._waits.remove(wait)
                done()

    def release(self) -> None:
        """What was held back may go, unless something else holds it."""
        for member in self.members:
            if member.held:
                member.link.queue.released(member)

    def member_for(self, home: Member, io: StoreIo) -> Member:
        """Where ``io`` goes whose home cannot take it now (rule 1); ``home`` if nobody can."""
        if not home.store_id:
            return home
        live = {
            member.info.place: member
            for member in self.members
            if member.store_id == home.store_id and member.link.serving and member.handle
        }
        if not live:
            return home
        keys = tuple(live)
        if io.kind is IoKind.FLUSH:  # any will do: what one has answered is durable
            return live[keys[0]]
        placement = self._standing_in
        if placement is None or placement.keys != keys:
            uuid = uuids.UUID(bytes=home.info.uuid)
            placement = self._standing_in = Placement(uuid, keys)
        return live[keys[placement(io.offset // home.info.chunk_bytes)]]
