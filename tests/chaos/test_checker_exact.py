"""The checker against the definition: small histories, every order of their operations tried.

A history is wrong if no order of its operations keeps to their times and to what was read (Wing and
Gong, Testing and Verifying Concurrent Objects, 1993).  The checker has to say the same of each; of
a MISCOMPARE it may only say less.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.chaos.checker import check
from tests.chaos.history import NEVER_WRITTEN, End, Event, History, Op

BLOCK = 0
OPERATIONS = 6
AT_ONCE = 3
HISTORIES = 6000  # in 2 seconds


@dataclass(frozen=True, slots=True)
class _Done:
    """One operation: places in the history between which it takes effect, if it does."""

    op: Op
    end_kind: End
    start: int
    end: int
    reads: int | None  # the version that must be there
    writes: int | None

    @property
    def required(self) -> bool:
        return self.end_kind in (End.OK, End.DIFFER)


def random_history(seed: int, *, differ: bool) -> Sequence[Event]:
    """Some operations of one block, whose reads find anything that was ever written."""
    chance = random.Random(seed)
    history = History()
    running: list[tuple[int, Op, int]] = []
    versions = [NEVER_WRITTEN]
    started = 0
    while started < OPERATIONS or running:
        if started < OPERATIONS and len(running) < AT_ONCE and chance.random() < 0.5:
            started += 1
            op = chance.choices((Op.READ, Op.WRITE, Op.SWAP, Op.RESET), (5, 3, 3, 0.5))[0]
            written, expected = {}, {}
            if op in (Op.WRITE, Op.SWAP):
                versions.append(version := history.new_version())
                written = {BLOCK: version}
                if op is Op.SWAP:
                    expected = {BLOCK: chance.choice(versions[:-1][-3:])}
            number = history.invoke("client", op, written, expected=expected)
            running.append((number, op, expected.get(BLOCK, 0)))
        elif running:
            number, op, old = running.pop(chance.randrange(len(running)))
            ends = [End.OK, End.OK, End.OK, End.FAIL, End.INFO]
            if op is Op.SWAP and differ:
                ends += [End.DIFFER] * 3
            end = chance.choice(ends)
            found = {BLOCK: chance.choice(versions[-3:])} if (op, end) == (Op.READ, End.OK) else {}
            history.end(
                end, number, "client", op, found, expected={BLOCK: old} if end is End.DIFFER else {}
            )
    return history.events


def operations(events: Sequence[Event]) -> list[_Done]:
    """Those that count: not a read that failed."""
    invoked = {e.operation: (at, e) for at, e in enumerate(events) if e.end is End.INVOKE}
    found = []
    for at, event in enumerate(events):
        if event.end is End.INVOKE or event.op is Op.RESET:
            continue
        start, asked = invoked[event.operation]
        if event.op is Op.READ:
            if event.end is End.OK:
                read = event.versions[BLOCK]
                found.append(_Done(event.op, event.end, start, at, read, None))
            continue
        end = at
        if event.end is End.INFO:  # until it is superseded
            ends = [
                done
                for done, each in enumerate(events)
                if each.end is End.OK and each.op is not Op.READ and invoked[each.operation][0] > at
            ]
            end = min(ends, default=len(events))
        found.append(
            _Done(
                event.op,
                event.end,
                start,
                end,
                asked.expected.get(BLOCK),
                asked.versions[BLOCK],
            )
        )
    return found


def explained(left: frozenset[_Done], value: int, dead: set[tuple[frozenset[_Done], int]]) -> bool:
    """Whether what is left can have been done in some order, beginning with this version."""
    if not any(each.required for each in left):
        return True
    if (left, value) in dead:
        return False
    for each in left:
        rest = left - {each}
        if any(other.required and other.end < each.start for other in rest):
            continue  # that one comes first
        in_time = frozenset(other for other in rest if other.end > each.start)
        if each.end_kind is End.DIFFER:
            fits, after = value != each.reads, value
        else:
            fits = each.reads is None or value == each.reads
            after = value if each.writes is None else each.writes
        if fits and explained(in_time, after, dead):
            return True
    dead.add((left, value))
    return False


@pytest.mark.parametrize("differ", [False, True])
def test_it_says_what_the_definition_says(differ: bool) -> None:
    verdicts: Counter[tuple[bool, bool]] = Counter()
    for seed in range(HISTORIES):
        events = random_history(seed, differ=differ)
        right = explained(frozenset(operations(events)), NEVER_WRITTEN, set())
        passed = not check(events)
        verdicts[right, passed] += 1
        assert passed or not right, f"seed {seed}: a right history is refused"
        assert right or not passed or differ, f"seed {seed}: a wrong history passes"
    # Both kinds come often, and most of what is wrong about a MISCOMPARE is found.
    assert verdicts[True, True] > HISTORIES // 20
    assert verdicts[False, False] > HISTORIES // 20
    assert verdicts[False, True] < HISTORIES // 20
