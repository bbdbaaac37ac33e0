"""The buffer pool: exact, fair, never exceeded, whole again at the end."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import pytest

from target.block.pool import (
    POOL_BYTES_MIN,
    SEGMENT_BYTES,
    SHARE_SEGMENTS_MIN,
    BufferPool,
    Buffers,
    Share,
    Waiter,
    segments_for,
    views_of,
)
from tests.support.waits import Waiting

TOTAL = POOL_BYTES_MIN // SEGMENT_BYTES


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    it = BufferPool(POOL_BYTES_MIN)
    yield it
    for share in list(it.shares):
        share.close()
    assert it.used == it.reserved == it.waiting == 0
    assert it.spare == it.unreserved_total
    assert len(it.free) == it.segments_total


class Hoard:
    """Everything that cannot be reserved, taken by as many sessions as it needs."""

    def __init__(self, pool: BufferPool) -> None:
        self.shares = [pool.open_share() for _ in range(4)]
        self.held: list[tuple[Share, list[memoryview]]] = []
        for share in self.shares:
            while (segments := share.take(1)) is not None:
                self.held.append((share, segments))
        assert pool.spare == 0

    def give(self, count: int = 1) -> None:
        """Give some of it back."""
        for _ in range(count):
            share, segments = self.held.pop()
            share.give(segments)

    def give_all(self) -> None:
        """Give all of it back."""
        self.give(len(self.held))


def drain(share: Share) -> list[memoryview]:
    """Everything that a share may take."""
    taken = share.take(share.limit)
    assert taken is not None
    return taken


def test_a_pool_below_the_least_is_refused() -> None:
    with pytest.raises(ValueError, match="below"):
        BufferPool(POOL_BYTES_MIN - 1)


def test_segments_are_distinct_memory_of_one_size(pool: BufferPool) -> None:
    share = pool.open_share()
    segments = share.take(100)
    assert segments is not None
    for number, segment in enumerate(segments):
        assert len(segment) == SEGMENT_BYTES
        segment[:] = bytes([number]) * SEGMENT_BYTES
    for number, segment in enumerate(segments):
        assert segment == bytes([number]) * SEGMENT_BYTES
    share.give(segments)


@pytest.mark.parametrize(
    ("nbytes", "count"),
    [(0, 0), (1, 1), (SEGMENT_BYTES, 1), (SEGMENT_BYTES + 1, 2), (10 * SEGMENT_BYTES, 10)],
)
def test_a_scatter_list_has_exactly_the_bytes(pool: BufferPool, nbytes: int, count: int) -> None:
    assert segments_for(nbytes) == count
    share = pool.open_share()
    segments = share.take(11)
    assert segments is not None
    views = views_of(segments, nbytes)
    assert len(views) == count
    assert sum(map(len, views)) == nbytes
    share.give(segments)


def test_a_share_has_a_limit_that_follows_the_number_of_shares(pool: BufferPool) -> None:
    first = pool.open_share()
    assert first.limit == TOTAL - pool.reserve_limit
    second = pool.open_share()
    assert first.limit == second.limit == max(SHARE_SEGMENTS_MIN, first.limit)
    assert first.take(first.limit + 1) is None
    taken = drain(first)
    assert first.take(1) is None
    first.give(taken)
    second.close()
    assert first.limit == TOTAL - pool.reserve_limit


def test_the_pool_is_never_exceeded(pool: BufferPool) -> None:
    hoard = Hoard(pool)
    assert pool.used == pool.unreserved_total
    assert pool.open_share().take(1) is None
    hoard.give_all()


def test_a_waiter_gets_what_comes_back(pool: BufferPool) -> None:
    share = pool.open_share()
    taken = drain(share)
    waiting = Waiting(Buffers(share, 4, 4))
    assert not waiting.over()
    assert pool.waiting == 1
    share.give([taken.pop() for _ in range(3)])
    assert not waiting.over()
    share.give([taken.pop()])
    assert len(waiting.outcome) == 4
    share.give(waiting.outcome)
    share.give(taken)


def test_a_waiter_takes_less_when_segments_are_scarce(pool: BufferPool) -> None:
    share = pool.open_share()
    taken = drain(share)
    waiting = Waiting(Buffers(share, 64))
    share.give([taken.pop(), taken.pop()])
    assert len(waiting.outcome) == 2
    share.give(waiting.outcome)
    share.give(taken)


def test_waiters_of_one_share_are_served_in_order(pool: BufferPool) -> None:
    share = pool.open_share()
    taken = drain(share)
    waits = [Waiting(Buffers(share, 1)) for _ in range(5)]
    for number in range(5):
        share.give([taken.pop()])
        assert [w.over() for w in waits] == [True] * (number + 1) + [False] * (4 - number)
    for waiting in waits:
        share.give(waiting.outcome)
    share.give(taken)


def test_a_large_wait_is_not_starved_by_small_ones(pool: BufferPool) -> None:
    """What comes back is kept for the one whose turn it is."""
    hoard = Hoard(pool)
    large_share, small_share = pool.open_share(), pool.open_share()
    large = Waiting(Buffers(large_share, 64, 64))
    small = Waiting(Buffers(small_share, 1))
    hoard.give(63)
    assert pool.spare == 63
    assert small_share.take(1) is None
    assert not small.over()
    hoard.give()
    assert len(large.outcome) == 64
    assert not small.over()
    hoard.give()
    assert small.over()
    large_share.give(large.outcome)
    small_share.give(small.outcome)
    hoard.give_all()


def test_a_session_at_its_limit_does_not_hold_up_the_others(pool: BufferPool) -> None:
    greedy, modest = pool.open_share(), pool.open_share()
    taken = drain(greedy)
    waiting = Waiting(Buffers(greedy, 8, 8))
    assert not waiting.over()
    other = modest.take(8)
    assert other is not None
    modest.give(other)
    greedy.give(taken)
    assert waiting.over()
    greedy.give(waiting.outcome)


def test_a_cancelled_wait_is_forgotten_and_lets_others_pass(pool: BufferPool) -> None:
    hoard = Hoard(pool)
    share = pool.open_share()
    large, small = Waiting(Buffers(share, 64, 64)), Waiting(Buffers(share, 1))
    hoard.give()
    assert not small.over()
    assert large.cancel()
    assert small.over()
    assert not large.over()
    assert pool.waiting == 0
    share.give(small.outcome)
    hoard.give_all()


class Turned(deque[Waiter]):
    """Counts how often who waits was looked at in vain."""

    turns = 0

    def rotate(self, n: int = 1) -> None:
        self.turns += 1
        super().rotate(n)


def test_to_give_up_waiting_costs_no_look_at_all_who_wait(pool: BufferPool) -> None:
    share, other = pool.open_share(), pool.open_share()
    held = drain(share)
    assert pool.spare, "it is at its own limit"
    pool._waiting = queue = Turned()
    waits = [Waiting(Buffers(share, 1)) for _ in range(500)]
    for wait in waits:
        assert wait.cancel()
    assert not queue
    assert queue.turns == 0
    one = other.take(1)
    assert one is not None
    other.give(one)
    share.give(held)


def test_reserved_segments_are_there_when_everything_else_is_gone(pool: BufferPool) -> None:
    share = pool.open_share()
    hoard = Hoard(pool)
    assert share.reserve(pool.reserve_limit)
    early = share.take_reserved(pool.reserve_limit)
    assert len(early) == pool.reserve_limit
    assert pool.used == pool.segments_total
    share.give_reserved(early)
    hoard.give_all()


def test_more_than_was_reserved_is_a_bug_of_ours(pool: BufferPool) -> None:
    share = pool.open_share()
    assert share.reserve(1)
    early = share.take_reserved(1)
    with pytest.raises(AssertionError, match="past the reservation"):
        share.take_reserved(1)
    share.reserved_out = 1
    share.give_reserved(early)


def test_reservations_are_bounded_and_given_up(pool: BufferPool) -> None:
    share, other = pool.open_share(), pool.open_share()
    assert share.reserve(pool.reserve_limit)
    assert not other.reserve(1)
    share.unreserve(pool.reserve_limit)
    assert other.reserve(1)
    early = other.take_reserved(1)
    with pytest.raises(AssertionError, match="in use"):
        other.unreserve(1)
    other.give_reserved(early)


def test_what_can_be_reserved_is_for_nothing_else(pool: BufferPool) -> None:
    hoard = Hoard(pool)
    other = pool.open_share()
    assert other.take(1) is None
    waiting = Waiting(Buffers(other, 1))
    assert other.reserve(1)
    other.unreserve(1)
    assert not waiting.over()
    hoard.give()
    assert waiting.over()
    other.give(waiting.outcome)
    hoard.give_all()


def test_a_leak_is_found_when_the_share_closes(pool: BufferPool) -> None:
    share = pool.open_share()
    segments = share.take(1)
    assert segments is not None
    with pytest.raises(AssertionError, match="leaked"):
        share.close()
    share.give(segments)


def test_giving_back_twice_is_found(pool: BufferPool) -> None:
    lost = BufferPool(POOL_BYTES_MIN).open_share()
    segments = lost.take(1)
    assert segments is not None
    lost.give(list(segments))
    with pytest.raises(AssertionError, match="twice"):
        lost.give(segments)


def test_asking_for_no_segments_is_a_bug_of_ours(pool: BufferPool) -> None:
    share = pool.open_share()
    for take in (share.grab, share.take_reserved):
        with pytest.raises(AssertionError, match="no segments"):
            take(0)


def test_a_long_random_history_keeps_the_accounts(pool: BufferPool) -> None:
    rng = random.Random(5)
    shares = [pool.open_share() for _ in range(5)]
    held: list[tuple[Share, list[memoryview]]] = []
    waits: list[tuple[Share, Waiting]] = []
    for _ in range(3000):
        share = rng.choice(shares)
        act = rng.random()
        if act < 0.3:
            segments = share.take(rng.randint(1, 40))
            if segments is not None:
                held.append((share, segments))
        elif act < 0.55:
            wanted = rng.randint(1, 64)
            waits.append((share, Waiting(Buffers(share, wanted, rng.randint(1, wanted)))))
        elif act < 0.6 and waits:
            _, waiting = waits[rng.randrange(len(waits))]
            if not waiting.over():
                waiting.cancel()
                waits = [w for w in waits if w[1] is not waiting]
        elif held:
            owner, segments = held.pop(rng.randrange(len(held)))
            owner.give(segments)
        held += [(s, w.outcome) for s, w in waits if w.over()]
        waits = [w for w in waits if not w[1].over()]
        assert pool.spare + pool.used == pool.unreserved_total
        assert pool.used == sum(len(segments) for _, segments in held)
        assert pool.waiting == len(waits)
        assert all(s.held <= s.limit for s in shares)
    while held or waits:
        owner, segments = held.pop()
        owner.give(segments)
        held += [(s, w.outcome) for s, w in waits if w.over()]
        waits = [w for w in waits if not w[1].over()]
