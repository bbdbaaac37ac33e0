"""busy_poll.py, and portal rule 6: what is due soon is looked for before the loop sleeps."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from target.iscsi.portal import ELSEWHERE_TIMES
from tests.support.hot_path import HotPath, hot_path
from workers.busy_poll import IN_VAIN_MAX, LOOKS, BusyPoll

SECONDS = 100e-6
STEP = 1e-6  # what looking at the clock takes


class Loop:
    """An event loop that goes round when it is told to, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque[Callable[[], None]] = deque()

    def clock(self) -> float:
        self.now += STEP
        return self.now

    def poll(self, seconds: float = SECONDS, busy: int = 0) -> BusyPoll:
        loop: Any = SimpleNamespace(call_soon=self.soon.append)
        return BusyPoll(seconds, busy, loop=loop, clock=self.clock)

    def go_round(self, most: int = 1000) -> int:
        """Until it would sleep; how often that was."""
        for times in range(most):
            if not self.soon:
                return times
            self.soon.popleft()()
        return most


@pytest.fixture
def loop() -> Loop:
    return Loop()


def expecting(poll: BusyPoll, peer: str = "peer", **more: Any) -> None:
    poll.came(peer)
    poll.expect(**more)


def test_the_loop_goes_round_as_long_as_told(loop: Loop) -> None:
    poll = loop.poll()
    poll.came("peer")
    for times in (1, ELSEWHERE_TIMES):
        expecting(poll, times=times)
        before = loop.now
        assert loop.go_round() > 10
        assert times * SECONDS < loop.now - before < times * SECONDS + 10 * STEP
        loop.now += 1
        poll.came("peer")
        poll.expect()  # the one that is left out
        loop.now += 1


def test_it_sleeps_as_soon_as_something_has_come(loop: Loop) -> None:
    poll = loop.poll()
    expecting(poll)
    expecting(poll)
    loop.go_round(5)
    poll.came("peer")
    assert loop.go_round() <= 1
    assert not loop.soon


def test_what_was_in_vain_is_not_tried_again_soon(loop: Loop) -> None:
    poll = loop.poll()
    poll.came("peer")
    went_round: list[bool] = []
    for _ in range(300):
        expecting(poll)
        went_round.append(loop.go_round() > 1)
        loop.now += SECONDS  # too late
    gaps = [len(gap) for gap in "".join(".X"[it] for it in went_round).split("X")]
    assert gaps[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert max(gaps) == IN_VAIN_MAX
    # It comes in time, though nobody stays awake for it.
    while True:
        expecting(poll)
        if not loop.soon:
            break
        loop.go_round()
    expecting(poll)
    assert loop.go_round() > 1


def test_what_comes_while_it_is_looked_for_was_not_in_vain(loop: Loop) -> None:
    poll = loop.poll()
    poll.came("peer")
    for _ in range(300):
        expecting(poll)
        assert loop.go_round(5) == 5


def test_nothing_is_expected_of_peers_that_take_turns(loop: Loop) -> None:
    poll = loop.poll()
    for peer in ("one", "other") * 5:
        expecting(poll, peer)
        assert not loop.soon
    expecting(poll, "other")
    assert loop.soon
    expecting(poll, "one")
    assert loop.go_round() == 1, "another one has come"


def test_nothing_is_expected_of_one_that_has_gone(loop: Loop) -> None:
    poll = loop.poll()
    poll.came("peer")
    expecting(poll)
    poll.forget("another")
    assert loop.go_round(5) == 5
    poll.forget("peer")
    assert loop.go_round() == 1
    expecting(poll)
    assert not loop.soon


@pytest.mark.parametrize(("seconds", "busy"), [(0.0, 1), (SECONDS, 1 << 20)])
def test_it_may_be_switched_off_and_is_where_no_cpu_is_to_spare(
    loop: Loop, seconds: float, busy: int
) -> None:
    poll = loop.poll(seconds, busy)
    for _ in range(3):
        expecting(poll)
    assert not loop.soon


def test_who_expects_something_may_look_for_it(loop: Loop) -> None:
    poll = loop.poll()
    looks = [False] * LOOKS + [False, True]
    poll.came("peer")
    expecting(poll, look=lambda: looks.pop(0))
    loop.go_round(1)
    assert len(looks) == 2, "others have their turn"
    loop.go_round(1)
    assert not looks


# --- the portal ----------------------------------------------------------------------------------


class Polled:
    """A connection of a portal that polls."""

    def __init__(self, path: HotPath, loop: Loop) -> None:
        self.path = path
        self.loop = loop
        cast(SimpleNamespace, path.channel._portal).poll = loop.poll()

    def command(self, count: int = 1) -> Counter[str]:
        """The system calls of a wake-up that finds so many commands, until the loop sleeps."""
        self.path.socket.calls = Counter()
        self.path.arrive(count)
        self.path.wake_up()
        self.loop.go_round()
        return self.path.socket.calls

    def comes_after(self, tries: int, times: int) -> None:
        """The next command comes when the socket has been asked for it so often."""
        left = [times, tries]

        def on_empty() -> bool:
            left[1] -= 1
            if left[0] and not left[1]:
                left[:] = left[0] - 1, tries
                self.path.arrive(1)
                return True
            return False

        self.path.socket.on_empty = on_empty


@pytest.fixture
def polled(tmp_path: Path, loop: Loop) -> Iterator[Polled]:
    with hot_path(tmp_path, write=False) as path:
        it = Polled(path, loop)
        it.command()  # the first pass of a connection is that of one among others
        yield it


def test_the_next_command_is_answered_before_the_loop_sleeps(polled: Polled) -> None:
    polled.comes_after(tries=10, times=3)
    assert polled.command()["sendmsg"] == 1 + 3


def test_the_socket_is_asked_in_vain_for_a_while_only(polled: Polled) -> None:
    calls = polled.command()
    assert calls["sendmsg"] == 1
    assert calls["recv"] > 10
    assert polled.command()["recv"] == 1
    assert not polled.loop.soon


def test_several_commands_at_a_time_are_waited_for(polled: Polled) -> None:
    assert polled.command(2)["recv"] == 1


def test_the_answer_of_one_that_is_elsewhere_is_expected(polled: Polled) -> None:
    channel = polled.path.channel
    session = channel.channel.session
    assert session is not None
    tasks: dict[int, Any] = session.tasks
    tasks[7] = None
    channel._portal.poll.came(channel)
    channel._expect(0)
    before = polled.loop.now
    polled.loop.go_round()
    assert polled.loop.now - before > ELSEWHERE_TIMES * SECONDS
    tasks[8] = None
    for _ in range(3):
        channel._portal.poll.came(channel)
        channel._expect(0)
        assert not polled.loop.soon, "two are"
    tasks.clear()


def test_the_command_that_follows_an_answer_from_elsewhere_is_expected(polled: Polled) -> None:
    channel = polled.path.channel
    channel.channel.ended.append(cast(Any, None))
    channel.flush = lambda: None  # type: ignore[method-assign]
    channel.answer()
    assert polled.loop.go_round() > 1
    channel.channel.ended.clear()
    channel.answer()
    assert not polled.loop.soon
