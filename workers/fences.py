"""The epochs that a worker refuses, and remembers to refuse.

A fence says: of this node, every epoch up to and including this one is over.  It is in force from
the moment it arrives, and on stable storage before it is answered, so that a worker that crashed
and came back still refuses what it promised to refuse.  A disk that is full by then must not keep a
dead node's place from being taken: room is made at the start, while there is some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from workers.format import format_of
from workers.limits import NODE_CHARS_MAX

FORMAT: Final = 1
NODES_MAX: Final = 65536


class FenceError(Exception):
    """The fences that were kept cannot be read, or there are too many; one line."""


class _Kept(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """fences.json"""

    format: int = FORMAT
    fences: dict[str, int]  # by node: the highest epoch that is over


class Fences:
    """``save`` puts bytes on stable storage."""

    def __init__(self, save: Callable[[bytes], Awaitable[None]]) -> None:
        self._save = save
        self._fences: dict[str, int] = {}
        self._lock = asyncio.Lock()
        self._unsaved = False

    def load(self, data: bytes | None) -> None:
        """Take over what was kept.  What cannot be read must not be served over: FenceError."""
        for node, epoch in _decode(data).items():
            self._fences[node] = max(epoch, self._fences.get(node, -1))

    async def make_room(self) -> None:
        """Keep what there is, before anything is to be added.  Raises OSError."""
        async with self._lock:
            await self._save(_encode(self._fences))

    def refuses(self, node: str, epoch: int) -> bool:
        """Whether this epoch of this node is over."""
        return epoch <= self._fences.get(node, -1)

    def some(self, most: int) -> list[tuple[str, int]]:
        """(node, epoch) in order of nodes, no more than ``most``: they go into one message."""
        return sorted(self._fences.items())[:most]

    async def add(self, node: str, epoch: int) -> None:
        """Put a fence in force at once, and on stable storage before this returns.

        Raises OSError when it could not be kept: it is in force all the same, and the next call
        tries again.
        """
        assert 1 <= len(node) <= NODE_CHARS_MAX, "checked by the service"
        if not self.refuses(node, epoch):
            if node not in self._fences and len(self._fences) >= NODES_MAX:
                raise FenceError(f"there are fences of {NODES_MAX} nodes already")
            self._fences[node] = epoch
            self._unsaved = True
        async with self._lock:
            if self._unsaved:
                self._unsaved = False
                try:
                    await self._save(_encode(self._fences))
                except BaseException:
                    self._unsaved = True
                    raise


def merge_fences(kept: bytes | None, data: bytes) -> bytes:
    """Of each node the higher epoch, in the form in which they are kept; raises FenceError."""
    fences = _decode(kept)
    for node, epoch in _decode(data).items():
        fences[node] = max(epoch, fences.get(node, -1))
    return _encode(fences)


def _encode(fences: dict[str, int]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_Kept(fences=fences)))


def _decode(data: bytes | None) -> dict[str, int]:
    if data is None:
        return {}
    try:
        found = format_of(data)
        if found != FORMAT:
            raise FenceError(f"the fences have format {found}, this version knows {FORMAT}")
        return msgspec.json.decode(data, type=_Kept).fences
    except ValueError as exc:
        raise FenceError(f"the fences cannot be read: {exc}") from exc
