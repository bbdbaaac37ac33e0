"""The workers of one volume, where their store is shared: any of them can serve any chunk.

Rules:

1. A chunk's I/O goes to its home, the worker that the placement names, while that one is not *out*
   (failover.py); then to one of the others that are served, evenly spread by chunk.
2. I/O that overlaps a write in doubt (worker_queue.py, rule 2) goes where the doubt is, and is held
   there: the doubt ends there.
3. Workers of different stores never stand in for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Protocol, TypeVar

from target.block.remote_io import RemoteIo, overlaps
from workers.store import IoKind, StoreIo

SCORE_BYTES: Final = 8


class Member(Protocol):
    """A volume's share on one worker."""

    doubts: dict[int, RemoteIo]
    handle: int

    @property
    def key(self) -> str:
        """Of its place."""

    @property
    def store_id(self) -> str:
        """Of the worker's shared store; empty: of none, or not known yet."""

    @property
    def out(self) -> bool:
        """Whether others stand in for the worker."""

    @property
    def served(self) -> bool:
        """Whether the worker serves this node."""


M = TypeVar("M", bound=Member)


def route(home: M, members: Sequence[M], io: StoreIo, chunk_bytes: int) -> M:
    """The member that ``io`` has to go to."""
    if not home.store_id:
        return home
    if io.kind is not IoKind.FLUSH:
        for member in members:
            if member.doubts and overlaps(io, member.doubts) and _akin(member, home):
                return member
    if not home.out:
        return home
    able = [m for m in members if m.served and m.handle and not m.out and _akin(m, home)]
    if not able:
        return home
    chunk = (io.offset // chunk_bytes).to_bytes(SCORE_BYTES, "little")
    return max(able, key=lambda m: blake2b(chunk + m.key.encode(), digest_size=8).digest())


def _akin(member: Member, home: Member) -> bool:
    """Rule 3."""
    return member.store_id == home.store_id
