"""The checker bites: right histories pass it, doctored ones do not."""

from __future__ import annotations

import pytest

from tests.chaos.blocks import BLOCK_BYTES, pack, version_of, versions_of
from tests.chaos.checker import LOST_FLUSH, check
from tests.chaos.history import GARBAGE, NEVER_WRITTEN, End, History, Op

BLOCK = 7


def history_of(script: str) -> History:
    """Each word is an event: ``w1(`` … ``w1)`` a write of version 1 and its GOOD, ``w1!`` its error
    and ``w1?`` its broken session; ``a(`` … ``a=1`` a read by client a and what it found.
    """
    history, operations = History(), {}
    for word in script.split():
        name = word[:-1] if word[-1] in "()!?" else word.partition("=")[0]
        write = name[0] == "w"
        op = Op.WRITE if write else Op.READ
        if word.endswith("("):
            versions = {BLOCK: int(name[1:])} if write else {}
            operations[name] = history.invoke(name, op, versions)
        elif write:
            end = {")": End.OK, "!": End.FAIL, "?": End.INFO}[word[-1]]
            history.end(end, operations[name], name, op)
        else:
            history.end(End.OK, operations[name], name, op, {BLOCK: int(word.partition("=")[2])})
    return history


@pytest.mark.parametrize(
    "script",
    [
        "a( a=0 w1( w1) a( a=1 w2( w2) a( a=2",
        "w1( a( a=0 b( b=1 w1) a( a=1",  # a read beside a write finds either
        "w1( w2( w1) w2) a( a=1 b( b=1",  # of two writes at once either is the last
        "w1( w2( w2) a( a=2 b( b=1 w1)",  # the first may still come
        "w1( w1) w2( w2! a( a=1 b( b=1",  # an error: not done
        "w1( w1) w2( w2! a( a=2 b( b=2",  # or done
        "w1( w1) w2( w2? a( a=1 w3( w3) b( b=3 c( c=2",  # a broken session: done late
        "w1( w2( w2) w3( w3) a( a=3 w1? b( b=1",
    ],
)
def test_right_histories(script: str) -> None:
    assert check(history_of(script).events) == []


@pytest.mark.parametrize(
    "script",
    [
        "w1( w1) a( a=0",  # an acknowledged write is lost
        "w1( w1) w2( w2) a( a=1",  # and the one before it comes back
        "w1( w1) w2( w2! a( a=2 b( b=1",  # seen, and gone
        "w1( w1) w2( w2! w3( w3) a( a=2",  # an error that surfaces after a newer write
        "w1( w1) w2( w2! a( a=1 b( b=2",  # or after the older version was read
        "w1( w2( a( a=1 b( b=2 c( c=1 w1) w2)",  # to and fro
        "w1( w1) w2( w2? a( a=2 b( b=1",  # a broken session: done, then undone
        "w1( a( a=1 b( b=0 w1)",  # an old version after a newer one was read
        "a( a=1 w1( w1)",  # from the future
        "a( a=5",  # from nobody
        "a( a=-1",
    ],
)
def test_wrong_histories(script: str) -> None:
    assert check(history_of(script).events)


def flushed_while_losing(end: End) -> History:
    history = History()
    fault = history.invoke("nemesis", Op.FAULT, detail=LOST_FLUSH)
    flush = history.invoke("a", Op.FLUSH)
    history.end(end, flush, "a", Op.FLUSH)
    history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=LOST_FLUSH)
    return history


def test_a_lost_flush_must_not_be_acknowledged() -> None:
    assert check(flushed_while_losing(End.FAIL).events) == []
    (violation,) = check(flushed_while_losing(End.OK).events)
    assert "flush" in violation.what


def test_a_block_says_who_it_is() -> None:
    data = pack([3, 4], 9)
    assert versions_of(3, data) == {3: 9, 4: 9}
    assert version_of(3, bytes(BLOCK_BYTES)) == NEVER_WRITTEN
    torn = data[:256] + pack([3], 8)[256:512]
    elsewhere = data[BLOCK_BYTES:]
    flipped = bytes([data[0] ^ 1]) + data[1:BLOCK_BYTES]
    assert [version_of(3, each) for each in (torn, elsewhere, flipped)] == [GARBAGE] * 3
