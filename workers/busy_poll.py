"""Staying awake for what is due soon.

Where one thing at a time is asked for, hardly anything is computed: most of a round trip is that
the kernel wakes who sleeps, at each of its ends.  On a virtual machine that is 20 to 40 us each
time.  So an event loop that expects something does not sleep at once: it goes round.

Rules:

1. Something is expected of a peer only if what came last, and before that, was of the same peer:
   whoever serves many has no need of it.
2. Whatever else is ready is served in every round, as ever.  In between, who expects something may
   look for it itself, ``LOOKS`` times: that is quicker than the loop's way to it.
3. After it was in vain, the next 1, 3, 7 … up to ``IN_VAIN_MAX`` times are left out, or until
   something comes in time without it.
4. Before each round, whoever waits for the CPU has it.
5. ``seconds`` of 0 is never; so is one CPU, on which nobody else would get anything done.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

IN_VAIN_MAX: Final = 64
LOOKS: Final = 16


class BusyPoll:
    """Of one event loop; None: the running one."""

    def __init__(
        self,
        seconds: float,
        busy: int = 1,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``busy`` such processes share the CPUs: they all poll, or none (rule 5)."""
        self._seconds = seconds if busy < len(os.sched_getaffinity(0)) else 0.0
        self._loop = loop or asyncio.get_running_loop()
        self._clock = clock  # the loop's own knows milliseconds only
        self._peer: object = None  # that came last
        self._alone = False
        self._until = 0.0  # what is expected is in time until then; 0: nothing is
        self._look: Callable[[], bool] | None = None
        self._going_round = False
        self._in_vain = 0
        self._left_out = 0  # how often rule 3 still applies

    def came(self, peer: object) -> None:
        """Something of ``peer`` has come."""
        self._alone = peer is self._peer
        self._peer = peer
        if self._until:
            if self._alone and (self._going_round or self._clock() < self._until):
                self._in_vain = self._left_out = 0
            self._until = 0.0

    def expect(self, times: int = 1, look: Callable[[], bool] | None = None) -> None:
        """More is due of the peer that came last, within so many times the seconds.

        ``look`` says whether something has come, and has served it then.
        """
        if not self._alone or not self._seconds:
            return
        self._until = self._clock() + times * self._seconds
        self._look = look
        if self._left_out:
            self._left_out -= 1
        elif not self._going_round:
            self._going_round = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        if self._until > self._clock():
            self._loop.call_soon(self._round)
            os.sched_yield()
            look = self._look
            if look is not None:
                for _ in range(LOOKS):
                    if look():
                        break
            return
        self._going_round = False
        if self._until:
            self._until = 0.0
            self._in_vain = self._left_out = min(2 * self._in_vain + 1, IN_VAIN_MAX)

    def forget(self, peer: object) -> None:
        """It has gone."""
        if self._peer is peer:
            self._peer = self._look = None
            self._until = 0.0
