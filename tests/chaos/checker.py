"""Does a history hold what a disk promises?  Pure: a history in, violations out.

Rules:

1. Each block is one atomic register for all clients: every operation takes effect at one moment
   between its invocation and its end.  A version is written once, so this is decided exactly, by
   zones (Gibbons and Korach, Testing Shared Memories, 1997): the write of a version and its reads
   are a cluster; ``first_end`` is the earliest end in it and ``last_start`` the latest beginning.
   From the one to the other the block must have had this version (a forward zone), so no two
   forward zones of a block may overlap; a cluster that has no such time (a backward zone) needs
   one moment, and must not lie wholly inside a forward zone.
2. A write that was not acknowledged and that nobody has read may be left out.  One that was
   answered with an error takes effect by then or never (decision 0010); one whose session broke
   may do so at any later time.
3. No read finds bytes that nobody wrote, or a version that was not yet being written.
4. While a worker loses flushes (a ``lost-flush`` fault), none is acknowledged.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.history import GARBAGE, NEVER_WRITTEN, End, Event, Op

LOST_FLUSH = "lost-flush"
_BEFORE = -1  # all blocks are zeros before the first event


@dataclass(frozen=True, slots=True)
class Violation:
    """``at`` is the place of an event in the history."""

    at: int
    what: str


@dataclass(slots=True)
class _Cluster:
    """One version of one block: places in the history."""

    version: int
    written: int  # invocation of the write
    first_end: int
    last_start: int
    needed: bool  # acknowledged or read

    @property
    def forward(self) -> bool:
        return self.first_end < self.last_start

    @property
    def zone(self) -> tuple[int, int]:
        return min(self.first_end, self.last_start), max(self.first_end, self.last_start)


def check(events: Sequence[Event]) -> list[Violation]:
    """All violations, in the order of the history."""
    never = len(events)
    invoked = {event.operation: at for at, event in enumerate(events) if event.end is End.INVOKE}
    clusters: dict[int, dict[int, _Cluster]] = defaultdict(
        lambda: {NEVER_WRITTEN: _Cluster(NEVER_WRITTEN, _BEFORE, _BEFORE, _BEFORE, True)}
    )
    for at, event in enumerate(events):
        if event.op is Op.WRITE and event.end is End.INVOKE:
            for block, version in event.versions.items():
                clusters[block][version] = _Cluster(version, at, never, at, False)
    found: list[Violation] = []
    for at, event in enumerate(events):
        if event.end is End.INVOKE:
            continue
        begun = invoked[event.operation]
        if event.op is Op.WRITE and event.end is not End.INFO:
            for block, version in events[begun].versions.items():
                cluster = clusters[block][version]
                cluster.first_end = min(cluster.first_end, at)
                cluster.needed |= event.end is End.OK
        elif event.op is Op.READ and event.end is End.OK:
            found += _take_read(clusters, event, begun, at)
    for block, versions in clusters.items():
        found += _check_block(block, [each for each in versions.values() if each.needed])
    found += _check_flushes(events, invoked)
    return sorted(found, key=lambda violation: violation.at)


def _take_read(
    clusters: dict[int, dict[int, _Cluster]], event: Event, begun: int, at: int
) -> list[Violation]:
    """Rule 3, and what rule 1 needs."""
    found = []
    for block, version in event.versions.items():
        cluster = clusters[block].get(version)
        if version == GARBAGE or cluster is None:
            found.append(Violation(at, f"block {block}: read bytes that nobody wrote"))
        elif cluster.written > at:
            found.append(Violation(at, f"block {block}: read version {version} before its write"))
        else:
            cluster.first_end = min(cluster.first_end, at)
            cluster.last_start = max(cluster.last_start, begun)
            cluster.needed = True
    return found


def _check_block(block: int, clusters: list[_Cluster]) -> list[Violation]:
    """Rule 1 for one block."""
    found = []
    forward = sorted((each for each in clusters if each.forward), key=lambda each: each.zone)
    for one, next_one in itertools.pairwise(forward):
        if next_one.zone[0] < one.zone[1]:
            found.append(
                Violation(
                    one.zone[1],
                    f"block {block}: version {one.version} was read after version "
                    f"{next_one.version} had replaced it, or the other way round",
                )
            )
    starts = [each.zone[0] for each in forward]
    for each in clusters:
        start, end = each.zone
        around = bisect_left(starts, start) - 1  # the last forward zone that begins before
        if not each.forward and around >= 0 and end < forward[around].zone[1]:
            found.append(
                Violation(end, f"block {block}: acknowledged version {each.version} was lost")
            )
    return found


def _check_flushes(events: Sequence[Event], invoked: dict[int, int]) -> list[Violation]:
    """Rule 4."""
    found = []
    losing: list[tuple[int, int]] = []
    ends = {event.operation: at for at, event in enumerate(events) if event.end is not End.INVOKE}
    for at, event in enumerate(events):
        if event.op is Op.FAULT and event.end is End.INVOKE and event.detail == LOST_FLUSH:
            losing.append((at, ends.get(event.operation, len(events))))
    for at, event in enumerate(events):
        if event.op is Op.FLUSH and event.end is End.OK:
            begun = invoked[event.operation]
            if any(start < begun and at < end for start, end in losing):
                found.append(Violation(at, "a flush that was lost was acknowledged"))
    return found
