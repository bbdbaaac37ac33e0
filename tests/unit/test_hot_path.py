"""The guard of the hot path: what a 4 KiB READ(10) or WRITE(10) costs, in numbers that stand still.

The ceilings are a little above what there is.  Who needs more raises them, and says in the same
commit what for and what ``make bench`` makes of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.hot_path import DEPTH, hot_path

# Of one command: Python functions called, bytecodes executed (as Python 3.11 compiles them).
CEILINGS = {"read": (18.5, 940), "write": (16.5, 820)}


@pytest.mark.parametrize("op", CEILINGS)
def test_what_a_command_costs(tmp_path: Path, op: str) -> None:
    calls, bytecodes = CEILINGS[op]
    with hot_path(tmp_path, write=op == "write") as path:
        found = path.count()
    print({what: number / DEPTH for what, number in found.items()})
    assert found["recv"] == found["sendmsg"] == 1
    assert found["preadv"] + found["pwritev"] == DEPTH, "one system call for each command"
    assert found["calls"] <= calls * DEPTH
    if sys.version_info[:2] == (3, 11):
        assert found["bytecodes"] <= bytecodes * DEPTH


@pytest.mark.parametrize("op", CEILINGS)
def test_nothing_is_left_of_it(tmp_path: Path, op: str) -> None:
    with hot_path(tmp_path, write=op == "write") as path:
        path.run(100)
        before = sys.getallocatedblocks()
        path.run(100)
        assert sys.getallocatedblocks() - before < 100
