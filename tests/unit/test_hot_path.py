"""The guard of the hot path: what a READ(10) or WRITE(10) costs, in numbers that stand still.

The ceilings are a little above what there is.  Who needs more raises them, and says in the same
commit what for and what ``make bench`` makes of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.hot_path import DEPTH, hot_path

KIB = 1024
TRIES = 5  # threads that other tests have left make blocks as well, now and then


class Ceiling(NamedTuple):
    """Of one command, ``DEPTH`` of them outstanding."""

    calls: float  # of Python functions of ours
    bytecodes: float  # as Python 3.11 compiles them
    system_calls: float


CEILINGS = {
    ("read", 4 * KIB): Ceiling(12, 705, 1.1),
    ("write", 4 * KIB): Ceiling(15, 775, 1.1),
    ("read", 256 * KIB): Ceiling(17.5, 905, 1.3),
    # An R2T, and a write of its own for what came with the command.
    ("write", 256 * KIB): Ceiling(50, 1925, 2.4),
}
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1] // KIB}KiB") for case in CEILINGS]


@pytest.mark.parametrize(("op", "nbytes"), CASES)
def test_what_a_command_costs(tmp_path: Path, op: str, nbytes: int) -> None:
    ceiling = CEILINGS[op, nbytes]
    with hot_path(tmp_path, write=op == "write", nbytes=nbytes) as path:
        found = path.count()
        assert not path.outstanding, "all of them are answered"
    print({what: number / DEPTH for what, number in found.items()})
    calls, bytecodes = found.pop("calls"), found.pop("bytecodes")
    # A command that is asked for the rest of its data writes twice.
    wakes_once = nbytes == 4 * KIB
    assert found["preadv"] + found["pwritev"] == DEPTH * (1 if op == "read" or wakes_once else 2)
    if wakes_once:
        assert found["recv"] == found["sendmsg"] == 1
    assert calls <= ceiling.calls * DEPTH
    assert found.total() <= ceiling.system_calls * DEPTH, found
    if sys.version_info[:2] == (3, 11):
        assert bytecodes <= ceiling.bytecodes * DEPTH


@pytest.mark.parametrize(("op", "nbytes"), CASES)
def test_the_numbers_stand_still(tmp_path: Path, op: str, nbytes: int) -> None:
    with hot_path(tmp_path, write=op == "write", nbytes=nbytes) as path:
        first = path.count()
        assert [path.count() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize(("op", "nbytes"), CASES)
def test_nothing_is_left_of_it(tmp_path: Path, op: str, nbytes: int) -> None:
    times = 100 if nbytes == 4 * KIB else 10
    with hot_path(tmp_path, write=op == "write", nbytes=nbytes) as path:
        path.run(times)
        for _ in range(TRIES):
            before = sys.getallocatedblocks()
            path.run(times)
            left = sys.getallocatedblocks() - before
            if left < times:
                return
    pytest.fail(f"{left} blocks are left of {times} passes")


def test_every_system_call_counts(tmp_path: Path) -> None:
    with hot_path(tmp_path, write=False) as path:
        wake_up = path.channel._readable
        path.on_wake_up = lambda: (os.fstat(0), wake_up())
        assert path.count()["fstat"] == 1
