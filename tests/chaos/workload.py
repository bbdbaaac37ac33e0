"""What a client of a chaos run does next: reads, writes, COMPARE AND WRITEs, flushes of blocks.

What it has read it often tries to replace, by a COMPARE AND WRITE that expects what was read, as
those do who keep locks on a shared disk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos import blocks
from tests.chaos.history import GARBAGE, History, Op
from tests.support import cdb

FUA = 0x08
_LENGTHS = (1, 1, 2, 8, 8, 8, 32, 130)  # blocks
_SWAP_BLOCKS = (1, 1, 1, 4)
_SWAPS_WAITING_MAX = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Which blocks are used: a few again and again by everybody, and the others to need space."""

    hot: int
    total: int


@dataclass(frozen=True, slots=True)
class Command:
    """A SCSI command, and what it means for the history."""

    op: Op
    cdb: bytes
    first: int = 0
    read_length: int = 0
    data_out: bytes = b""
    versions: Mapping[int, int] = field(default_factory=dict)
    expected: Mapping[int, int] = field(default_factory=dict)


class Workload:
    """The commands of one client."""

    def __init__(self, history: History, layout: Layout, seed: str) -> None:
        self._history = history
        self._layout = layout
        self._random = random.Random(seed)
        self._swaps: deque[dict[int, int]] = deque(maxlen=_SWAPS_WAITING_MAX)

    def next(self) -> Command:
        """What to do now."""
        if self._swaps:
            return self._swap(self._swaps.popleft())
        choice = self._random.random()
        count = self._random.choice(_LENGTHS)
        hot = choice < 0.9
        low, high = (0, self._layout.hot) if hot else (self._layout.hot, self._layout.total)
        first = self._random.randrange(low, high - count)
        if choice < 0.45:
            length = count * blocks.BLOCK_BYTES
            return Command(Op.READ, cdb.read16(first, count), first, read_length=length)
        if choice < 0.48:
            return Command(Op.FLUSH, cdb.synchronize_cache10())
        versions = dict.fromkeys(range(first, first + count), self._history.new_version())
        return Command(
            Op.WRITE,
            cdb.write16(first, count, FUA if choice < 0.5 else 0),
            first,
            data_out=blocks.pack(versions),
            versions=versions,
        )

    def found(self, first: int, versions: Mapping[int, int]) -> None:
        """What a read from block ``first`` on found."""
        count = self._random.choice(_SWAP_BLOCKS)
        if first < self._layout.hot and count <= len(versions) and self._random.random() < 0.2:
            chosen = {block: versions[block] for block in range(first, first + count)}
            if GARBAGE not in chosen.values():
                self._swaps.append(chosen)

    def _swap(self, expected: dict[int, int]) -> Command:
        versions = dict.fromkeys(expected, self._history.new_version())
        first = min(expected)
        return Command(
            Op.SWAP,
            cdb.compare_and_write(first, len(expected)),
            first,
            data_out=blocks.pack(expected) + blocks.pack(versions),
            versions=versions,
            expected=expected,
        )
