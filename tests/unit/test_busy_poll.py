"""Portal rule 6: the next command of an initiator that has one at a time is looked for at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from target.iscsi.portal import POLLED_PASSES_MAX, UNPOLLED_PASSES_MAX
from tests.support.hot_path import HotPath, hot_path

POLL_SECONDS = 50e-6
STEP = 1e-6  # what looking at the clock takes


class Polled:
    """A connection of a portal that polls, on a clock that goes on when it is looked at."""

    def __init__(self, path: HotPath) -> None:
        self.path = path
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.portal = cast(SimpleNamespace, path.channel._portal)
        self.portal.poll_seconds = POLL_SECONDS
        self.portal.latest = None
        self.portal.clock = self._clock
        self.portal.loop.call_soon = self.soon.append

    def _clock(self) -> float:
        self.now += STEP
        return self.now

    def command(self, count: int = 1) -> Counter[str]:
        """The system calls of a wake-up that finds so many commands."""
        self.path.socket.calls = Counter()
        self.path.arrive(count)
        self.path.wake_up()
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
def polled(tmp_path: Path) -> Iterator[Polled]:
    with hot_path(tmp_path, write=False) as path:
        it = Polled(path)
        it.command()  # the first pass of a connection is that of one among others
        yield it


def test_the_next_command_is_answered_in_the_same_wake_up(polled: Polled) -> None:
    polled.comes_after(tries=10, times=3)
    assert polled.command()["sendmsg"] == 1 + 3


def test_it_is_looked_for_as_long_as_told(polled: Polled) -> None:
    before = polled.now
    calls = polled.command()
    assert calls["sendmsg"] == 1
    assert calls["recv"] > 10
    assert polled.now - before < 2 * POLL_SECONDS


def test_what_was_in_vain_is_not_tried_again_soon(polled: Polled) -> None:
    polls = [polled.command()["recv"] > 1 for _ in range(300)]
    gaps = [len(gap) for gap in "".join(".X"[it] for it in polls).split("X")]
    assert gaps[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert max(gaps) == UNPOLLED_PASSES_MAX
    # Once it was not in vain, all that is forgotten.
    polled.comes_after(tries=3, times=1)
    while polled.command()["recv"] == 1:
        pass
    assert [polled.command()["recv"] > 1 for _ in range(2)] == [False, True]


def test_several_commands_at_a_time_are_waited_for(polled: Polled) -> None:
    assert polled.command(2)["recv"] == 1


def test_connections_that_take_turns_are_waited_for(polled: Polled) -> None:
    polled.portal.latest = None  # another one's
    assert polled.command()["recv"] == 1
    assert polled.command()["recv"] > 1


def test_others_have_their_turn(polled: Polled) -> None:
    polled.comes_after(tries=2, times=10 * POLLED_PASSES_MAX)
    assert polled.command()["sendmsg"] == 1 + POLLED_PASSES_MAX
    (again,) = polled.soon
    again()
    assert polled.path.socket.calls["sendmsg"] == 1 + 2 * POLLED_PASSES_MAX
    # Who has had it takes the place.
    polled.portal.latest = None
    polled.soon[-1]()
    assert polled.path.socket.calls["sendmsg"] == 1 + 2 * POLLED_PASSES_MAX


def test_without_it_the_socket_is_asked_once(polled: Polled) -> None:
    polled.portal.poll_seconds = 0.0
    assert polled.command()["recv"] == 1
