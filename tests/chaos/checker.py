"""Does a history hold what a disk promises?  Pure: a history in, violations out.

Rules:

1. Each block is one atomic register for all clients: every operation takes effect at one moment
   between its invocation and its end (zones.py).
2. A write that was not acknowledged and that nobody has read may be left out.  One that was
   answered with an error, or aborted, takes effect by then or never (decision 0010).
3. One that ended with ``info`` takes effect before it is superseded, or never: before the end of
   any acknowledged write of the same block, or LUN RESET, that was begun after that end.  Until
   then it may take effect at any time.
4. No read finds bytes that nobody wrote, or a version that was not yet being written.
5. A COMPARE AND WRITE that was answered with MISCOMPARE was not done, and the block did differ at
   some moment of it.
6. While a worker loses flushes (a ``lost-flush`` fault), none is acknowledged.  If one was lost,
   the end of that process is no amnesty: the next flush that is asked for is not acknowledged
   before one, then or since the fault's end, has been answered with SYNC_LOST.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.history import GARBAGE, NEVER_WRITTEN, End, Event, Op
from tests.chaos.zones import BEFORE, Cluster, Violation, check_block

LOST_FLUSH = "lost-flush"
SYNC_LOST = f"sense {(0x3, 0x0C, 0x02)}"  # of a Client's detail
_WRITES = (Op.WRITE, Op.SWAP)
_Blocks = dict[int, dict[int, Cluster]]  # by number, then by version


def check(events: Sequence[Event]) -> list[Violation]:
    """All violations, in the order of the history."""
    never = len(events)
    invoked = {event.operation: at for at, event in enumerate(events) if event.end is End.INVOKE}
    blocks: _Blocks = defaultdict(_never_written)
    for at, event in enumerate(events):
        if event.op in _WRITES and event.end is End.INVOKE:
            for block, version in event.versions.items():
                blocks[block][version] = Cluster(
                    version, at, never, at, replaces=event.expected.get(block)
                )
    found: list[Violation] = []
    broken: list[tuple[int, Event]] = []  # when, and what had been invoked
    barriers = _Barriers()
    for at, event in enumerate(events):
        if event.end is End.INVOKE:
            continue
        begun = invoked[event.operation]
        if event.op in _WRITES:
            asked = events[begun]
            if event.end is End.INFO:
                broken.append((at, asked))
                continue
            if event.end is End.OK:
                barriers.add(asked.versions, begun, at)
            _end_write(blocks, asked, event.end, at)
        elif event.op is Op.READ and event.end is End.OK:
            found += _take_read(blocks, event, begun, at)
        elif event.op is Op.RESET and event.end is End.OK:
            barriers.add_reset(begun, at)
    for at, asked in broken:
        for block, version in asked.versions.items():
            cluster = blocks[block][version]
            cluster.first_end = min(cluster.first_end, barriers.after(block, at, never))
    for block, versions in blocks.items():
        found += check_block(block, versions)
        for each in versions.values():
            if each.refused and each.needed:
                what = f"block {block}: version {each.version} was read in spite of MISCOMPARE"
                found.append(Violation(each.first_end, what))
    found += _check_miscompares(events, invoked, blocks)
    found += _check_flushes(events, invoked)
    return sorted(found, key=lambda violation: violation.at)


def _never_written() -> dict[int, Cluster]:
    return {NEVER_WRITTEN: Cluster(NEVER_WRITTEN, BEFORE, BEFORE, BEFORE, needed=True)}


def _end_write(blocks: _Blocks, asked: Event, end: End, at: int) -> None:
    """Rule 2; the first half of rule 5."""
    for block, version in asked.versions.items():
        cluster = blocks[block][version]
        cluster.first_end = min(cluster.first_end, at)
        cluster.needed |= end is End.OK
        cluster.refused = end is End.DIFFER


def _take_read(blocks: _Blocks, event: Event, begun: int, at: int) -> list[Violation]:
    """Rule 4, and what rule 1 needs."""
    found = []
    for block, version in event.versions.items():
        cluster = blocks[block].get(version)
        if version == GARBAGE or cluster is None:
            found.append(Violation(at, f"block {block}: read bytes that nobody wrote"))
        elif cluster.written > at:
            found.append(Violation(at, f"block {block}: read version {version} before its write"))
        else:
            cluster.first_end = min(cluster.first_end, at)
            cluster.last_start = max(cluster.last_start, begun)
            cluster.needed = True
    return found


class _Barriers:
    """What supersedes the writes of broken sessions (rule 3)."""

    def __init__(self) -> None:
        self._writes: dict[int, _Ends] = defaultdict(_Ends)
        self._resets = _Ends()

    def add(self, blocks: Iterable[int], begun: int, at: int) -> None:
        """An acknowledged write of these blocks."""
        for block in blocks:
            self._writes[block].add(begun, at)

    def add_reset(self, begun: int, at: int) -> None:
        """An acknowledged LUN RESET."""
        self._resets.add(begun, at)

    def after(self, block: int, at: int, never: int) -> int:
        """The first end of one that was begun later than ``at``."""
        ends = self._writes.get(block)
        return min(
            self._resets.first_after(at, never), ends.first_after(at, never) if ends else never
        )


class _Ends:
    """Operations, by when they were begun."""

    def __init__(self) -> None:
        self._added: list[tuple[int, int]] = []
        self._begun: list[int] = []
        self._first_end: list[int] = []  # of this one and of those begun later

    def add(self, begun: int, at: int) -> None:
        """An operation from ``begun`` to ``at``."""
        self._added.append((begun, at))

    def first_after(self, at: int, never: int) -> int:
        """The first end of one that was begun later than ``at``."""
        if len(self._begun) != len(self._added):
            self._added.sort()
            self._begun = [begun for begun, _ in self._added]
            ends = itertools.accumulate((end for _, end in reversed(self._added)), min)
            self._first_end = list(ends)[::-1]
        place = bisect_right(self._begun, at)
        return self._first_end[place] if place < len(self._first_end) else never


@dataclass(slots=True)
class _Others:
    """The clusters of a block in the order of their writes, to find those that end late."""

    written: list[int]
    latest: list[tuple[int, int]]  # first_end and version of the latest-ending one so far
    second: list[int]  # first_end of the next to it

    @classmethod
    def of(cls, clusters: dict[int, Cluster]) -> _Others:
        others = cls([], [], [])
        best, second = (BEFORE, NEVER_WRITTEN), BEFORE
        for each in sorted(clusters.values(), key=lambda each: each.written):
            if each.refused:
                continue
            if each.first_end >= best[0]:
                best, second = (each.first_end, each.version), best[0]
            else:
                second = max(second, each.first_end)
            others.written.append(each.written)
            others.latest.append(best)
            others.second.append(second)
        return others

    def may_follow(self, cluster: Cluster, before: int) -> bool:
        """Whether another version, its write begun by then, can have come after this one."""
        place = bisect_left(self.written, before) - 1
        latest, version = self.latest[place]
        end = self.second[place] if version == cluster.version else latest
        return end >= cluster.last_start


def _check_miscompares(
    events: Sequence[Event], invoked: dict[int, int], blocks: _Blocks
) -> list[Violation]:
    """The second half of rule 5: a violation where the block was certainly what was expected."""
    found = []
    others: dict[int, _Others] = {}
    for at, event in enumerate(events):
        if event.end is not End.DIFFER:
            continue
        begun = invoked[event.operation]
        for block, version in event.expected.items():
            cluster = blocks[block].get(version)
            if cluster is None or not cluster.needed or cluster.first_end >= begun:
                continue
            if block not in others:
                others[block] = _Others.of(blocks[block])
            if not others[block].may_follow(cluster, at):
                what = f"block {block}: MISCOMPARE, but it was version {version} all the time"
                found.append(Violation(at, what))
    return found


def _check_flushes(events: Sequence[Event], invoked: dict[int, int]) -> list[Violation]:
    """Rule 6."""
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
    flushes = [
        (invoked[event.operation], at, event)
        for at, event in enumerate(events)
        if event.op is Op.FLUSH and event.end is not End.INVOKE
    ]
    lost = [(begun, at) for begun, at, event in flushes if event.detail.endswith(SYNC_LOST)]
    good = [(begun, at) for begun, at, event in flushes if event.end is End.OK]
    faults = [at for at, event in enumerate(events) if event.op is Op.FAULT]
    for start, end in losing:
        later = next((at for at in faults if at > end), len(events))  # a node may forget by then
        first = next((at for begun, at in good if end < begun and at < later), None)
        if first is None or not any(start < begun and at < end for begun, at in lost):
            continue
        if not any(end < at and begun < first for begun, at in lost):
            found.append(Violation(first, "nobody has said that a flush was lost"))
    return found
