"""outbox.py: what gathers, and what does not any more."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

from workers.buffers import Pool
from workers.limits import DETAIL_CHARS_MAX, SOCKET_PAYLOAD_BYTES
from workers.outbox import Outbox
from workers.store import StoreStatus
from workers.wire import Answer, unpack_answers

SIZE = 64 << 10
DATA = memoryview(bytes(SIZE))


class Timers:
    """An event loop that calls nothing later by itself."""

    def __init__(self) -> None:
        self.later: list[Any] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, call: Any) -> Any:
        self.later.append(call)
        return SimpleNamespace(cancel=lambda: self.later.remove(call))


def test_what_was_let_go_and_did_not_fit_waits_for_nothing_more() -> None:
    timers = Timers()
    woken: list[None] = []
    share = Pool(4 << 20, 1 << 20, 1).open_share()
    loop = cast(asyncio.AbstractEventLoop, timers)
    outbox = Outbox(share, lambda: woken.append(None), True, loop)
    outbox.payload_max = SOCKET_PAYLOAD_BYTES
    for number in range(16):
        share.take(SIZE)
        outbox.add(Answer(1 + number, StoreStatus.OK, (DATA,)), SIZE, "", 15 - number)
    assert not timers.later
    first = unpack_answers(b"".join(outbox.pack(0)))
    assert len(first.answers) == 2
    # One more ends while the message is on its way, and many still run.
    share.take(SIZE)
    outbox.add(Answer(17, StoreStatus.OK, (DATA,)), SIZE, "", 30)
    assert not outbox.gathering
    outbox.sent()
    assert len(unpack_answers(b"".join(outbox.pack(0))).answers) == 2
    outbox.sent()
    outbox.drop()
    assert share.held == 0


def test_a_detail_is_short_and_utf_8_whatever_a_path_is() -> None:
    share = Pool(4 << 20, 1 << 20, 1).open_share()
    loop = cast(asyncio.AbstractEventLoop, Timers())
    outbox = Outbox(share, lambda: None, True, loop)
    detail = os.fsdecode(b"/disks/\xff/" + b"x" * 1000)
    outbox.add(Answer(1, StoreStatus.NO_SPACE), 0, detail, 0)
    found = unpack_answers(b"".join(outbox.pack(0))).detail
    assert found == ("/disks/?/" + "x" * 1000)[:DETAIL_CHARS_MAX]


def test_the_first_of_many_waits_for_others() -> None:
    timers = Timers()
    woken: list[None] = []
    share = Pool(4 << 20, 1 << 20, 1).open_share()
    outbox = Outbox(
        share, lambda: woken.append(None), True, cast(asyncio.AbstractEventLoop, timers)
    )
    outbox.add(Answer(1, StoreStatus.OK), 0, "", 5)
    assert outbox.gathering
    assert not woken
    outbox.add(Answer(2, StoreStatus.OK), 0, "", 4)
    assert outbox.gathering
    (late,) = timers.later
    late()
    assert woken
    assert not outbox.gathering
