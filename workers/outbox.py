"""Answers on their way to a node: they gather, then leave together.

A message costs the same whatever is in it.  So answers gather while the last message goes out, and
while more of them are to come: until there are as many as I/Os still run, or ``GATHER_ANSWERS``.
Where that is not so within ``GATHER_SECONDS``, the store is slow, and nothing is held up for a
while.

An answer that carries data holds buffers until the message that it leaves in has gone out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from workers.buffers import PoolShare
from workers.limits import MESSAGE_IOS_MAX, PAYLOAD_BYTES_MAX, sendable
from workers.wire import NO_OFFERS, Answer, Offers, Parts, pack_answers

GATHER_ANSWERS: Final = 32
GATHER_SECONDS: Final = 0.005
# Nothing gathers for so long after a store was found to be slow; doubled while it is, up to the
# second.
IMPATIENT_SECONDS: Final = 0.1
IMPATIENT_SECONDS_MAX: Final = 6.4


class Outbox:
    """The answers of one stream; ``share`` holds their data, ``wake`` tells that some may leave."""

    def __init__(
        self,
        share: PoolShare,
        wake: Callable[[], None],
        checksum: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._share = share
        self._wake = wake
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._impatient_until = 0.0
        self._impatient_seconds = IMPATIENT_SECONDS
        self._checksum = checksum
        self._answers: deque[Answer] = deque()
        self._held: deque[int] = deque()  # bytes of ``share``, of each
        self._detail = ""
        self.payload_max = PAYLOAD_BYTES_MAX  # of a message, if it has more than one answer
        self.messages = 0
        self.going_out = 0  # bytes of ``share`` in the message that left last

    @property
    def waiting(self) -> int:
        """Answers that have not left."""
        return len(self._answers)

    def add(self, answer: Answer, held: int, detail: str, running: int) -> None:
        """An answer whose payload holds ``held`` bytes of the share; ``running`` I/Os still run."""
        if detail and not self._detail:
            self._detail = sendable(detail)
        self._answers.append(answer)
        self._held.append(held)
        if len(self._answers) >= min(running, GATHER_ANSWERS):
            self._leave()
        elif self._timer is None:  # then what has been here before may leave already
            if len(self._answers) > 1 or self._loop.time() < self._impatient_until:
                self._wake()
            else:
                self._timer = self._loop.call_later(GATHER_SECONDS, self._late)

    def _leave(self) -> None:
        """All that has gathered may leave, in good time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._impatient_seconds = IMPATIENT_SECONDS
        self._wake()

    def _late(self) -> None:
        self._timer = None
        self._impatient_until = self._loop.time() + self._impatient_seconds
        self._impatient_seconds = min(2 * self._impatient_seconds, IMPATIENT_SECONDS_MAX)
        self._wake()

    @property
    def gathering(self) -> bool:
        """Whether what there is waits for more."""
        return self._timer is not None

    def pack(self, credit: int, offers: Offers = NO_OFFERS) -> Parts:
        """The next message: as many answers as it may have, with ``credit`` for the node."""
        assert self.going_out == 0, "the message before has not gone out"
        answers: list[Answer] = []
        while self._answers and len(answers) < MESSAGE_IOS_MAX:
            if answers and self.going_out + self._held[0] > self.payload_max:
                break
            self.going_out += self._held.popleft()
            answers.append(self._answers.popleft())
        self.messages += 1
        detail, self._detail = self._detail, ""
        return pack_answers(
            self.messages,
            answers,
            request_credit=credit,
            detail=detail,
            offers=offers,
            checksum=self._checksum,
        )

    def sent(self) -> bool:
        """The message has gone out; True if that gave buffers back."""
        nbytes, self.going_out = self.going_out, 0
        self._share.give(nbytes)
        return nbytes > 0

    def drop(self) -> None:
        """What waits is wanted no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._share.give(sum(self._held))
        self._answers.clear()
        self._held.clear()
