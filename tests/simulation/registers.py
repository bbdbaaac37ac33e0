"""Whether a history of reads and writes could have come from one register (linearizability).

Every written value is written once, so it is enough to look at the zones of values (Gibbons and
Korach, "Testing shared memories", 1997): of a value, from the end of the first operation on it that
ended to the begin of the last one.  A write whose end nobody knows may have happened at any time
after it began (until ``latest``), or never.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = math.inf


@dataclass
class Operation:
    """On one block.  ``end`` is ``UNKNOWN`` while, and if, nobody was told how it ended."""

    kind: str  # "write", "read" or "swap" (compare and write)
    begin: float
    end: float = UNKNOWN
    value: int = 0  # written, or read
    compared: int | None = None  # what a swap found, and replaced
    latest: float = UNKNOWN  # of one without an end: if it has happened, then before this
    where: str = ""  # for people

    def __str__(self) -> str:
        what = f"{self.compared}->{self.value}" if self.kind == "swap" else self.value
        return f"{self.kind} {what} [{self.begin:.4f}, {self.end:.4f}] {self.where}"


def violation(history: Iterable[Operation], initial: int = 0) -> str:
    """Why it could not; empty if it could.  ``initial`` is what was there before."""
    writes = {initial: Operation("write", -1.0, -1.0, initial)}
    reads: dict[int, list[Operation]] = {}
    successor: dict[int, Operation] = {}
    for operation in history:
        if operation.kind == "read":
            if operation.end != UNKNOWN:
                reads.setdefault(operation.value, []).append(operation)
            continue
        assert operation.value not in writes, "a value is written once"
        writes[operation.value] = operation
        if operation.kind == "swap" and operation.compared is not None and operation.end != UNKNOWN:
            other = successor.setdefault(operation.compared, operation)
            if other is not operation:
                return f"both replaced the same: {other}; {operation}"
            found = Operation("read", operation.begin, operation.end, operation.compared)
            reads.setdefault(operation.compared, []).append(found)
    zones = []
    for value, of_value in reads.items():
        if value not in writes:
            return f"never written: {of_value[0]}"
        for read in of_value:
            if read.end < writes[value].begin:
                return f"read before it was written: {read}; {writes[value]}"
    for value, write in writes.items():
        every = [write, *reads.get(value, [])]
        first_end = min(operation.end for operation in every)
        if first_end != UNKNOWN:
            first_end = min(first_end, write.latest)
        if first_end == UNKNOWN:
            continue  # nobody has seen it
        last_begin = max(operation.begin for operation in every)
        zones.append((first_end, last_begin, value))
    # A value whose zone runs forward was there for all of it, and no other one was.
    forward = sorted(zone for zone in zones if zone[0] < zone[1])
    for (_, last, value), (first, _, next_value) in itertools.pairwise(forward):
        if first < last:
            return _both(writes, reads, value, next_value)
    for end, begin, value in zones:
        if end < begin:
            continue
        for first, last, around in forward:
            if first < begin and end < last:
                return _both(writes, reads, around, value)
    return ""


def _both(
    writes: dict[int, Operation], reads: dict[int, list[Operation]], one: int, other: int
) -> str:
    def said(value: int) -> str:
        return "; ".join(str(op) for op in [writes[value], *reads.get(value, [])])

    return f"came back: {said(one)} || {said(other)}"
