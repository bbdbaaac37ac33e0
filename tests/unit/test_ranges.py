"""The order of overlapping I/O."""

from __future__ import annotations

import random
from functools import partial

import pytest

from target.block.ranges import RangeOrder, RangeTicket

CHUNK = 64 << 10


class Order:
    """Range order that notes who goes when."""

    def __init__(self) -> None:
        self.ranges = RangeOrder(CHUNK)
        self.going: list[str] = []

    def enter(self, name: str, start: int, end: int, writes: bool) -> RangeTicket:
        return self.ranges.enter(start, end, writes, lambda: self.going.append(name))


def test_io_elsewhere_goes_at_once() -> None:
    order = Order()
    assert order.ranges.idle
    order.enter("a", 0, 100, True)
    order.enter("b", 100, 200, True)
    assert order.going == ["a", "b"]
    assert len(order.ranges) == 2


def test_reads_of_one_range_go_together() -> None:
    order = Order()
    order.enter("a", 0, 100, False)
    order.enter("b", 0, 100, False)
    assert order.going == ["a", "b"]


def test_a_write_waits_for_every_earlier_reader() -> None:
    order = Order()
    first = order.enter("read 1", 0, 100, False)
    second = order.enter("read 2", 50, 150, False)
    order.enter("write", 60, 70, True)
    order.ranges.leave(first)
    assert "write" not in order.going
    order.ranges.leave(second)
    assert order.going[-1] == "write"


def test_a_reader_does_not_overtake_a_waiting_write() -> None:
    order = Order()
    first = order.enter("read 1", 0, 100, False)
    write = order.enter("write", 0, 100, True)
    order.enter("read 2", 0, 100, False)
    assert order.going == ["read 1"]
    order.ranges.leave(first)
    assert order.going == ["read 1", "write"]
    order.ranges.leave(write)
    assert order.going == ["read 1", "write", "read 2"]


def test_a_range_over_several_chunks_is_one_io() -> None:
    order = Order()
    first = order.enter("a", 0, 3 * CHUNK, True)
    order.enter("b", 2 * CHUNK, 2 * CHUNK + 1, False)
    assert len(order.ranges) == 2
    order.ranges.leave(first)
    assert order.going == ["a", "b"]


def test_free_says_whether_an_io_may_be_done_on_the_spot() -> None:
    order = Order()
    reading = order.enter("a", 100, 200, False)
    assert order.ranges.free(150, 160, False)
    assert not order.ranges.free(150, 160, True)
    assert order.ranges.free(200, 300, True)
    order.ranges.leave(reading)
    writing = order.enter("b", 100, 200, True)
    assert not order.ranges.free(199, 201, False)
    order.ranges.leave(writing)
    assert order.ranges.idle


def test_whoever_waits_for_writes_waits_for_those_that_are_there() -> None:
    order = Order()
    order.ranges.when_written(lambda: order.going.append("idle"))
    order.enter("read", 0, 100, False)
    order.ranges.when_written(lambda: order.going.append("no write"))
    wide = order.enter("wide", 2 * CHUNK, 5 * CHUNK, True)
    behind = order.enter("behind", 3 * CHUNK, 4 * CHUNK, True)
    order.ranges.when_written(lambda: order.going.append("written"))
    later = order.enter("later", 0, 10, True)
    order.ranges.leave(wide)
    assert order.going == ["idle", "read", "no write", "wide", "behind"]
    order.ranges.leave(behind)
    assert order.going[5:] == ["written"]
    assert not later.dependents


def test_a_queue_of_any_length_takes_no_stack() -> None:
    """Each ends where it starts, as what a cache takes does, and lets the next one go."""
    order = Order()
    first = order.enter("first", 0, 2, True)
    tickets: list[RangeTicket] = []

    def end(number: int) -> None:
        order.going.append(str(number))
        order.ranges.leave(tickets[number])

    for number in range(5000):
        tickets.append(order.ranges.enter(number, number + 2, True, partial(end, number)))
    order.ranges.leave(first)
    assert order.going == ["first", *map(str, range(5000))]
    assert order.ranges.idle


def test_what_goes_wrong_in_one_holds_up_no_other() -> None:
    order = Order()
    first = order.enter("first", 0, 2, True)

    def fail() -> None:
        raise RuntimeError("by the test")

    order.ranges.enter(0, 1, True, fail)
    order.enter("second", 1, 2, True)
    with pytest.raises(RuntimeError):
        order.ranges.leave(first)
    order.ranges.leave(order.enter("third", 8, 9, True))
    assert order.going == ["first", "third", "second"]


def conflict(a: RangeTicket, b: RangeTicket) -> bool:
    return a.start < b.end and b.start < a.end and (a.writes or b.writes)


def test_conflicting_io_never_runs_together_and_keeps_its_order() -> None:
    """Random I/O that ends in random order."""
    rng = random.Random(11)
    ranges = RangeOrder(CHUNK)
    running: dict[int, RangeTicket] = {}
    tickets: dict[int, RangeTicket] = {}
    started: set[int] = set()
    for number in range(2000):
        start = rng.randrange(4 * CHUNK)
        end = start + rng.choice([1, 4096, CHUNK, 2 * CHUNK])

        def proceed(number: int = number) -> None:
            started.add(number)

        ticket = tickets[number] = ranges.enter(start, end, rng.random() < 0.4, proceed)
        while rng.random() < 0.55 or len(tickets) > 60:
            running = {n: t for n, t in tickets.items() if n in started}
            for n, t in running.items():
                for m, other in tickets.items():
                    if m < n and conflict(other, t):
                        raise AssertionError(f"{n} overtook {m}")
            leaving = rng.choice(list(running))
            ranges.leave(tickets.pop(leaving))
            if not tickets:
                break
        assert ticket.blockers >= 0
    while tickets:
        leaving = next(n for n in tickets if n in started)
        ranges.leave(tickets.pop(leaving))
    assert ranges.idle
