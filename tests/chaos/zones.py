"""Is one block's history that of one atomic register?  Decided exactly, in n log n.

Each version of a block is written once, so what was done to it falls into clusters: the write of a
version and its reads (Gibbons and Korach, Testing Shared Memories, 1997).  ``first_end`` is the
earliest end in a cluster and ``last_start`` the latest beginning.

1. In any order that explains the history a cluster is one run: the write, then its reads.  A
   COMPARE AND WRITE comes directly after the run of the version that it replaced, so clusters that
   are joined in this way are one run too, a *chain*, in this order.
2. Inside a chain nothing of a later cluster may have ended before something of an earlier one
   began.
3. Of two chains the one comes first of which something ended before something of the other began.
   Chains contradict each other only in pairs, so this is decided by zones: if ``first_end`` is
   before ``last_start``, the block must have been the chain's from the one to the other (a forward
   zone), and no two of these may overlap; if not (a backward zone), it needs one moment between the
   two, and must not lie wholly inside a forward zone.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

BEFORE: Final = -1  # all blocks are zeros before the first event


@dataclass(frozen=True, slots=True)
class Violation:
    """``at`` is the place of an event in the history."""

    at: int
    what: str


@dataclass(slots=True)
class Cluster:
    """One version of one block: places in the history."""

    version: int
    written: int  # invocation of the write
    first_end: int
    last_start: int
    needed: bool = False  # acknowledged, read or replaced by one that was
    replaces: int | None = None  # the version that a COMPARE AND WRITE expected
    refused: bool = False  # a COMPARE AND WRITE that was answered with MISCOMPARE


@dataclass(frozen=True, slots=True)
class _Chain:
    versions: str
    first_end: int
    last_start: int

    @property
    def forward(self) -> bool:
        return self.first_end < self.last_start

    @property
    def zone(self) -> tuple[int, int]:
        return min(self.first_end, self.last_start), max(self.first_end, self.last_start)


def check_block(block: int, clusters: Mapping[int, Cluster]) -> list[Violation]:
    """The violations in the versions of one block; marks those that are needed by others."""
    found: list[Violation] = []
    follower = _followers(block, clusters, found)
    chains = list(_chains(block, clusters, follower, found))
    forward = sorted((each for each in chains if each.forward), key=lambda each: each.zone)
    for one, next_one in itertools.pairwise(forward):
        if next_one.zone[0] < one.zone[1]:
            found.append(
                Violation(
                    one.zone[1],
                    f"block {block}: {one.versions} was read after {next_one.versions} had "
                    "replaced it, or the other way round",
                )
            )
    starts = [each.zone[0] for each in forward]
    for each in chains:
        start, end = each.zone
        around = bisect_left(starts, start) - 1  # the last forward zone that begins before
        if not each.forward and around >= 0 and end < forward[around].zone[1]:
            found.append(Violation(end, f"block {block}: acknowledged {each.versions} was lost"))
    return found


def _followers(
    block: int, clusters: Mapping[int, Cluster], found: list[Violation]
) -> dict[int, Cluster]:
    """By version, the one that replaced it in a COMPARE AND WRITE."""
    follower: dict[int, Cluster] = {}
    needed = [each for each in clusters.values() if each.needed]
    while needed:
        each = needed.pop()
        if each.replaces is None:
            continue
        before = clusters.get(each.replaces)
        if before is None or before.written > each.first_end:
            found.append(
                Violation(each.first_end, f"block {block}: {each.version} replaced what never was")
            )
            each.replaces = None
        elif each.replaces in follower:
            other = follower[each.replaces].version
            found.append(
                Violation(
                    each.first_end,
                    f"block {block}: versions {other} and {each.version} both replaced version "
                    f"{each.replaces}",
                )
            )
            each.replaces = None
        else:
            follower[each.replaces] = each
            if not before.needed:
                before.needed = True
                needed.append(before)
    return follower


def _chains(
    block: int,
    clusters: Mapping[int, Cluster],
    follower: Mapping[int, Cluster],
    found: list[Violation],
) -> Iterable[_Chain]:
    """Rules 1 and 2."""
    seen = 0
    for head in clusters.values():
        if not head.needed or head.replaces is not None:
            continue
        first_end, last_start, last = head.first_end, head.last_start, head
        seen += 1
        while (each := follower.get(last.version)) is not None:
            seen += 1
            if each.first_end < last_start:
                found.append(
                    Violation(
                        last_start,
                        f"block {block}: version {last.version} was read after version "
                        f"{each.version} had replaced it",
                    )
                )
            first_end = min(first_end, each.first_end)
            last_start = max(last_start, each.last_start)
            last = each
        names = f"version {head.version}"
        if last is not head:
            names = f"versions {head.version} to {last.version}"
        yield _Chain(names, first_end, last_start)
    if seen != sum(each.needed for each in clusters.values()):
        found.append(Violation(BEFORE, f"block {block}: versions replaced each other in a circle"))
