"""Answers on their way to a node: they gather while the last message goes out, then leave together.

An answer that carries data holds buffers until the message that it leaves in has gone out.
"""

from __future__ import annotations

import asyncio
from collections import deque

from workers.buffers import PoolShare
from workers.limits import DETAIL_CHARS_MAX, MESSAGE_IOS_MAX, PAYLOAD_BYTES_MAX
from workers.wire import Answer, pack_answers


class Outbox:
    """The answers of one stream; ``share`` holds their data, ``wake`` tells that there are some."""

    def __init__(self, share: PoolShare, wake: asyncio.Event, checksum: bool) -> None:
        self._share = share
        self._wake = wake
        self._checksum = checksum
        self._answers: deque[Answer] = deque()
        self._held: deque[int] = deque()  # bytes of ``share``, of each
        self._detail = ""
        self.messages = 0
        self.going_out = 0  # bytes of ``share`` in the message that left last

    @property
    def empty(self) -> bool:
        """Whether nothing waits to leave."""
        return not self._answers

    def add(self, answer: Answer, held: int, detail: str) -> None:
        """An answer whose payload holds ``held`` bytes of the share."""
        if detail and not self._detail:
            self._detail = detail[:DETAIL_CHARS_MAX]
        self._answers.append(answer)
        self._held.append(held)
        self._wake.set()

    def pack(self, credit: int) -> bytes:
        """The next message: as many answers as it may have, with ``credit`` for the node."""
        assert self.going_out == 0, "the message before has not gone out"
        answers: list[Answer] = []
        while self._answers and len(answers) < MESSAGE_IOS_MAX:
            if self.going_out + self._held[0] > PAYLOAD_BYTES_MAX:
                break
            self.going_out += self._held.popleft()
            answers.append(self._answers.popleft())
        self.messages += 1
        detail, self._detail = self._detail, ""
        return pack_answers(
            self.messages, answers, request_credit=credit, detail=detail, checksum=self._checksum
        )

    def sent(self) -> bool:
        """The message has gone out; True if that gave buffers back."""
        nbytes, self.going_out = self.going_out, 0
        self._share.give(nbytes)
        return nbytes > 0

    def drop(self) -> None:
        """What waits is wanted no more."""
        self._share.give(sum(self._held))
        self._answers.clear()
        self._held.clear()
