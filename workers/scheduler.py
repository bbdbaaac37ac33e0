"""Which I/O goes to a store next: turns for clients and volumes, and a bound on what runs.

What a store can do on the spot never comes here (workers/stream.py).

Rules:

1. At most ``slots`` I/Os run, each with a thread of its own where a store needs one.  What has not
   begun can still be cancelled, miss its deadline, or be dropped.
2. A flow is one client's I/O on one volume.  Flows take turns; one flow has at most its part of the
   slots, and one part always stays free, so that a newcomer is served at once, however slow the
   volumes of the others are, as long as they are fewer than the slots.  A flush takes no slot: a
   store has one at a time, and flushes have threads of their own.
3. An I/O that brings data back begins only when its client can take the data: buffers and credit
   are its own before it begins, so nothing that runs ever waits for a client.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Protocol

from workers.nodes import Node, OpenShare
from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import WireIo

log = logging.getLogger(__name__)

# How often what waits is looked over for missed deadlines, when nothing else happens.
SWEEP_SECONDS: Final = 0.05
NO_DEADLINE: Final = math.inf


class Hold:
    """The payload of one message, held until the last of its I/Os has ended."""

    __slots__ = ("nbytes", "users")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.users = 0


class Client(Protocol):
    """Who an I/O is for."""

    node: Node

    def reserve_answer(self, io: ServedIo) -> bool:
        """Take buffers and credit for what ``io`` brings back, or False (rule 3)."""

    def ended(self, io: ServedIo) -> None:
        """It has ended, in a store or before it began."""


class ServedIo(StoreIo):
    """An I/O of a client, from the message it came in to the one that answers it."""

    __slots__ = (
        "arrived",
        "client",
        "deadline",
        "ended",
        "hold",
        "opened",
        "reserved",
        "sequence",
        "started",
    )

    def __init__(
        self, wire: WireIo, client: Client, opened: OpenShare, hold: Hold | None, deadline: float
    ) -> None:
        super().__init__(wire.kind, wire.offset, wire.length, _done, fua=wire.fua)
        if wire.kind is IoKind.WRITE:
            self.buffers = (wire.payload,)
        elif wire.kind is IoKind.COMPARE_AND_WRITE:
            self.compare = (wire.payload[: wire.length],)
            self.buffers = (wire.payload[wire.length :],)
        self.sequence = wire.sequence
        self.client = client
        self.opened = opened
        self.hold = hold
        self.deadline = deadline  # of the loop's clock
        self.arrived = 0.0  # of the loop's clock
        self.reserved = -1  # bytes taken by reserve_answer; -1: not yet
        self.started = False  # given to a store
        self.ended = False  # the client knows

    def fail(self, status: StoreStatus, detail: str = "") -> None:
        """End it: it has not begun, or could not."""
        self.status, self.detail = status, detail
        _done(self)


def _done(io: StoreIo) -> None:
    assert isinstance(io, ServedIo)
    assert not io.ended, "an I/O that has ended twice"
    io.ended = True
    io.client.ended(io)


class _Flow:
    __slots__ = ("queue", "running")

    def __init__(self) -> None:
        self.queue: deque[ServedIo] = deque()
        self.running = 0


_Key = tuple[Client, OpenShare]


class Scheduler:
    """The I/Os that wait for a store."""

    def __init__(self, slots: int, loop: asyncio.AbstractEventLoop) -> None:
        self._slots = slots
        self._free = slots
        self._loop = loop
        self._flows: dict[_Key, _Flow] = {}
        self._turns: OrderedDict[_Key, None] = OrderedDict()  # flows that have something waiting
        self._pumping = False
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """I/Os that have not begun."""
        return sum(len(flow.queue) for flow in self._flows.values())

    def waits(self, client: Client, opened: OpenShare) -> bool:
        """Whether something of this flow waits: then nothing may overtake it."""
        flow = self._flows.get((client, opened))
        return flow is not None and bool(flow.queue)

    def add(self, io: ServedIo) -> None:
        """Queue ``io``; begins it at once if there is room."""
        key = (io.client, io.opened)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow()
        if not flow.queue:
            self._turns[key] = None
        flow.queue.append(io)
        self.pump()

    def came_back(self, io: ServedIo) -> None:
        """The store has ended what :meth:`add` brought it."""
        key = (io.client, io.opened)
        flow = self._flows[key]
        flow.running -= 1
        self._free += 1
        if not flow.running and not flow.queue:
            del self._flows[key]

    def pump(self) -> None:
        """Begin what can begin."""
        if self._pumping:
            return  # a store that ends things on the spot: the outer call goes on
        self._pumping = True
        try:
            now = self._loop.time()
            passed = 0
            while self._turns and passed < len(self._turns):
                key, _ = self._turns.popitem(last=False)
                passed = 0 if self._take_turn(key, now) else passed + 1
        finally:
            self._pumping = False
            if self._turns and self._sweep is None:
                self._sweep = self._loop.call_later(SWEEP_SECONDS, self._swept)

    def _take_turn(self, key: _Key, now: float) -> bool:
        flow = self._flows[key]
        try:
            return self._serve(flow, now)
        finally:  # whatever goes wrong with one I/O, the others have their turns
            if flow.queue:
                self._turns[key] = None
            elif not flow.running:
                self._flows.pop(key, None)

    def _serve(self, flow: _Flow, now: float) -> bool:
        """One I/O of a flow has its turn; False if it has to wait."""
        io = flow.queue[0]
        if io.deadline <= now:
            flow.queue.popleft()
            io.fail(StoreStatus.DEADLINE)
            return True
        part = max(1, self._slots // (len(self._flows) + 1))
        if not self._free or flow.running >= part:
            return False
        if io.reserved < 0 and not io.client.reserve_answer(io):
            return False
        flow.queue.popleft()
        flow.running += 1
        self._free -= 1
        start(io)
        return True

    def _swept(self) -> None:
        self._sweep = None
        now = self._loop.time()
        self._fail_where(lambda io: io.deadline <= now, StoreStatus.DEADLINE)
        self.pump()

    def cancel(self, client: Client, sequences: set[int]) -> None:
        """End those of a client's I/Os that have not begun."""
        self._fail_where(
            lambda io: io.client is client and io.sequence in sequences, StoreStatus.DEADLINE
        )

    def drop(self, client: Client) -> None:
        """The client is going: nothing of it that waits begins."""
        self._fail_where(lambda io: io.client is client, StoreStatus.UNAVAILABLE)

    def _fail_where(self, condition: Callable[[ServedIo], bool], status: StoreStatus) -> None:
        failed: list[ServedIo] = []
        for key in list(self._turns):
            flow = self._flows[key]
            chosen = [io for io in flow.queue if condition(io)]
            if not chosen:
                continue
            failed += chosen
            flow.queue = deque(io for io in flow.queue if not condition(io))
            if not flow.queue:
                del self._turns[key]
                if not flow.running:
                    del self._flows[key]
        for io in failed:
            io.fail(status)

    def close(self) -> None:
        """Nothing waits any more."""
        if self._sweep is not None:
            self._sweep.cancel()


def start(io: ServedIo) -> None:
    """Give an I/O to its store.  A store that fails to take it has a bug, and others to serve."""
    io.started = True
    io.client.node.begin()
    if io.kind is IoKind.READ:
        io.takes_views = True
        if not io.opened.store.has_views:
            io.buffers = (memoryview(bytearray(io.length)),)
    try:
        if io.kind is IoKind.FLUSH:
            io.opened.flushes.submit(io)
        else:
            io.opened.store.submit(io)
    except Exception as bug:
        log.exception("internal error at the beginning of an I/O")
        if not io.ended:
            io.fail(StoreStatus.WRITE_FAILED, repr(bug))
