"""The checker bites: right histories pass it, doctored ones do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.blocks import BLOCK_BYTES, pack, version_of, versions_of
from tests.chaos.checker import LOST_FLUSH, SYNC_LOST, check
from tests.chaos.history import GARBAGE, NEVER_WRITTEN, End, History, Op

BLOCK = 7
ENDS = {")": End.OK, "#": End.DIFFER, "!": End.FAIL, "?": End.INFO}
OPS = {"w": Op.WRITE, "r": Op.RESET}


def history_of(script: str) -> History:
    """Each word is an event: ``w2(`` … ``w2)`` a write of version 2 and its GOOD, ``w2!`` its
    error and ``w2?`` its broken session; ``1s2(`` … ``1s2)`` a COMPARE AND WRITE that replaces
    version 1 by 2, ``1s2#`` its MISCOMPARE; ``r(`` … ``r)`` a LUN RESET; ``a(`` … ``a=1`` a read
    by client a and what it found.
    """
    history, operations = History(), {}
    for word in script.split():
        name, end = word.partition("=")[0], ENDS.get(word[-1])
        if "=" not in word:
            name = word[:-1]
        old, swap, new = name.partition("s")
        op = Op.SWAP if swap else OPS.get(name[0], Op.READ)
        if word.endswith("("):
            versions = {BLOCK: int(new or name[1:])} if op in (Op.WRITE, Op.SWAP) else {}
            expected = {BLOCK: int(old)} if swap else {}
            operations[name] = history.invoke(name, op, versions, expected=expected)
        elif "=" in word:
            history.end(End.OK, operations[name], name, op, {BLOCK: int(word.partition("=")[2])})
        else:
            assert end is not None
            expected = {BLOCK: int(old)} if end is End.DIFFER else {}
            history.end(end, operations[name], name, op, expected=expected)
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
        "w1( w1) w2( w2? a( a=1 b( b=2",  # a broken session: done late
        "w1( w1) w2( w2? a( a=1 w3( b( b=2 w3) c( c=3",  # until it is superseded
        "w1( w1) w3( w2( w2? w3) a( a=3 b( b=2",  # by what was begun after it had broken
        "w1( w1) w2( w2? r( r! a( a=1 b( b=2",  # a reset that was not done supersedes nothing
        "w1( w2( w2) w3( w3) a( a=3 w1? b( b=1",
        "w1( w1) 1s2( 1s2) a( a=2",  # a COMPARE AND WRITE that finds what it expects
        "w1( w1) 1s2( a( a=1 1s2) 2s3( 2s3) b( b=3",
        "w1( w1) 1s2( w3( 1s2) w3) a( a=3",  # another write comes before it or behind it
        "w1( w1) 1s2( 1s3( 1s3) 1s2# a( a=3",  # of two one wins
        "w1( w1) 1s2( 1s3( 1s2? 1s3# a( a=2",
        "w1( w1) 1s2( w3( 1s2# w3) a( a=3",
        "w1( w1) 1s2( 1s2! a( a=1",
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
        "w1( w1) w2( w2? a( a=1 w3( w3) b( b=3 c( c=2",  # done after it was superseded
        "w1( w1) w2( w2? r( r) a( a=1 b( b=2",  # by a reset
        "w1( a( a=1 b( b=0 w1)",  # an old version after a newer one was read
        "a( a=1 w1( w1)",  # from the future
        "a( a=5",  # from nobody
        "a( a=-1",
        "w1( w1) 1s2( 1s2) a( a=1",  # an acknowledged COMPARE AND WRITE is lost
        "w1( w1) 1s2( 1s3( 1s2) 1s3)",  # two replaced the same version
        "w1( w1) 1s2( 1s3( 1s2? 1s3) a( a=3 b( b=2",  # the other one as well
        "w1( w1) w3( w3) 1s2( 1s2)",  # it replaced what was no longer there
        "w1( w1) w3( 1s2( a( a=3 1s2) b( b=2 w3) c( c=1",
        "w1( w1) 1s2( w3( a( a=1 b( b=3 c( c=1 1s2) w3)",
        "w1( w1) 1s2( 1s2)  2s3( 2s3) a( a=2",  # the end of a chain is lost
        "w1( w1) 1s2( 1s2# a( a=2",  # done in spite of MISCOMPARE
        "w1( w1) 1s2( 1s2# a( a=1",  # MISCOMPARE with what was there
        "w1( w1) 1s2( 1s2# w3( w3)",
        "w1( w1) w2( w2) 2s3( 2s3# a( a=2",
        "9s2( 9s2)",  # it replaced what never was
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


def lost_and_then(*ends: End) -> History:
    """One flush while they are lost, others after the worker has restarted."""
    history = flushed_while_losing(End.INFO)
    flushes = [e for e in history.events if e.op is Op.FLUSH and e.end is not End.INVOKE]
    at = history.events.index(flushes[0])
    history.events[at] = replace(flushes[0], end=End.FAIL, detail=f"x, {SYNC_LOST}")
    for end in ends:
        flush = history.invoke("a", Op.FLUSH)
        detail = SYNC_LOST if end is End.FAIL else ""
        history.end(end, flush, "a", Op.FLUSH, detail=detail)
    return history


def test_a_restart_is_no_amnesty() -> None:
    assert check(lost_and_then(End.FAIL, End.OK).events) == []
    assert check(lost_and_then().events) == []
    (violation,) = check(lost_and_then(End.OK, End.FAIL).events)
    assert "nobody has said" in violation.what


def test_a_block_says_who_it_is() -> None:
    data = pack({3: 9, 4: 9})
    assert versions_of(3, data) == {3: 9, 4: 9}
    assert version_of(3, bytes(BLOCK_BYTES)) == NEVER_WRITTEN
    torn = data[:256] + pack({3: 8})[256:512]
    elsewhere = data[BLOCK_BYTES:]
    flipped = bytes([data[0] ^ 1]) + data[1:BLOCK_BYTES]
    assert [version_of(3, each) for each in (torn, elsewhere, flipped)] == [GARBAGE] * 3
