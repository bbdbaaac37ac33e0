"""One logical unit that several nodes serve: its commands in the registry, events for all nodes.

Rules:

1. A command that changes blocks runs when the registry has it and every overlapping one of another
   node that came before it has ended.  Others are registered, and wait for nobody.
2. What has gathered while the last call was under way goes in the next one: one call at a time for
   a unit, however many commands.  A command that came and went meanwhile is in none.  The
   end of one waits ``SETTLE_SECONDS`` for more to go with, a
   read ``READ_SECONDS``.
3. Nothing runs without a lease.  A command waits ``wait_seconds`` at most, for the lease, for the
   registry and for others together; then it is turned away, and its initiator tries again.
4. A command that has ended is told until the registry has heard it.
5. Events are done in the order of their numbers, and acknowledged when they have been.
6. A node that is in the way (something waits for it) and is not a member any more is fenced: first
   at the workers of the volume, then here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from target.cluster.registry import (
    Attachment,
    Event,
    Member,
    Registry,
    RegistryAway,
    StaleNode,
    TaskEntry,
)
from target.scsi.command import CHANGING, Kind
from target.scsi.gate import Gate
from target.scsi.unit_events import UnitEvent, decode_event, encode_event

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest

ENTRIES_MAX: Final = 1000  # in one call
RETRY_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 0.001
READ_SECONDS: Final = 0.01
EXPIRY_SECONDS: Final = 0.25  # how late the end of a wait may be noticed
LBA_MAX: Final = 1 << 53  # what Lua can tell apart


class Log(Protocol):
    """Where this package says what happens."""

    def info(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def warning(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def error(self, event: str, **fields: object) -> object:
        """As structlog has it."""


class Unit(Protocol):
    """What commands and events are for: a ``LogicalUnit``, as a rule."""

    def admit(self, req: SCSIRequest) -> None:
        """A command may run."""

    def turn_away(self, req: SCSIRequest) -> None:
        """A command may not run, and its initiator is to try again."""

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        """Do what another node says; ``done()`` when that is over."""


class Host(Protocol):
    """The node that serves the unit (``node.py``)."""

    id: str
    epoch: int
    registry: Registry
    log: Log
    suspects: Mapping[str, int]  # lives of other nodes to be fenced before anything is served
    clock: Callable[[], float]
    wall: Callable[[], float]
    wait_seconds: float
    tell_seconds: float

    @property
    def leased(self) -> bool:
        """Whether it has a lease now."""

    async def until_leased(self) -> None:
        """Wait for one."""

    def fenced(self) -> None:
        """It has none, and will have none in this life."""


class _Passage:
    """A command that has come to the gate and not ended."""

    __slots__ = (
        "blocked",
        "deadline",
        "exclusive",
        "granted",
        "registered",
        "req",
        "sequence",
        "waits",
    )

    def __init__(self, sequence: int, req: SCSIRequest, exclusive: bool, deadline: float) -> None:
        self.sequence = sequence
        self.req = req
        self.exclusive = exclusive
        self.deadline = deadline
        self.waits = True
        self.registered = False  # the registry may have it
        self.blocked = False  # the registry has said that it has to wait
        self.granted = False  # it has to wait no more


class LunTracker(Gate):
    """The unit ``lun`` (the UUID of its volume) as ``host`` serves it.

    ``fence_workers(node, epoch)`` returns when every worker of the volume refuses that epoch and
    nothing of it runs there; it may take as long as a worker is away.  ``gone(node, fenced)``: a
    node serves the unit no more, because it has been fenced or by itself.
    """

    def __init__(
        self,
        host: Host,
        lun: str,
        unit: Unit,
        fence_workers: Callable[[str, int], Awaitable[None]],
        *,
        load: Callable[[], Awaitable[None]] | None = None,
        gone: Callable[[str, bool], Awaitable[None]] | None = None,
    ) -> None:
        self.lun = lun
        self.unit = unit
        self.attached: dict[str, Attachment] = {}  # as far as is known
        self.opened = False
        self._open = asyncio.Event()
        self._host = host
        self._fence_workers = fence_workers
        self._load = load
        self._gone = gone
        self._sequences = itertools.count(1)
        self._passages: dict[SCSIRequest, _Passage] = {}
        self._by_sequence: dict[int, _Passage] = {}  # those that the registry may have
        self._new: deque[_Passage] = deque()
        self._settled: deque[int] = deque()
        self._dirty = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._heard = 0  # the last event that has been taken up
        self._events: deque[Event] = deque()
        self._event_came = asyncio.Event()
        self._missed = asyncio.Event()  # notices may have been
        self._moved = asyncio.Event()  # somebody has acknowledged, or departed
        self._telling = 0
        self._fencing: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to serve it; commands wait until that is possible."""
        self._spawn(self._run())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_open(self) -> None:
        """Wait until it can be served."""
        await self._open.wait()

    async def stop(self) -> None:
        """Serve it no more.  Raises RegistryAway.

        If commands are in flight still, it counts as served until this life of the node is fenced.
        """
        in_flight = bool(self._passages)
        await self.abandon()
        if not in_flight:
            await self._host.registry.detach(self.lun, self._host.id, self._host.epoch)

    async def abandon(self) -> None:
        """Serve it no more, without a word."""
        for timer in (self._expiry, self._linger):
            if timer is not None:
                timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the gate ---------------------------------------------------------------------------------

    def enter(self, req: SCSIRequest) -> bool:
        host, kind = self._host, req.command.kind
        exclusive = kind in CHANGING
        passage = _Passage(next(self._sequences), req, exclusive, 0.0)
        self._passages[req] = passage
        self._new.append(passage)
        if not exclusive and (kind is Kind.INFORM or (self.opened and host.leased)):
            passage.waits = False
            if self._linger is None:
                self._soon(READ_SECONDS)
            return True
        self._dirty.set()
        passage.deadline = host.clock() + host.wait_seconds
        if self._expiry is None:
            self._expire_later()
        return False

    def left(self, req: SCSIRequest) -> None:
        passage = self._passages.pop(req)
        passage.waits = False
        if passage.registered:
            del self._by_sequence[passage.sequence]
            self._settled.append(passage.sequence)
            if len(self._settled) == 1:
                self._soon(SETTLE_SECONDS if passage.exclusive else READ_SECONDS)

    def _soon(self, seconds: float) -> None:
        """There is something to tell, in so long at the latest."""
        loop = asyncio.get_running_loop()
        if self._linger is not None:
            if self._linger.when() <= loop.time() + seconds:
                return
            self._linger.cancel()
        self._linger = loop.call_later(seconds, self._lingered)

    def _lingered(self) -> None:
        self._linger = None
        self._dirty.set()

    def _pass(self, passage: _Passage) -> None:
        passage.waits = False
        self.unit.admit(passage.req)

    def _expire_later(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        now = self._host.clock()
        for passage in [p for p in self._passages.values() if p.waits and p.deadline <= now]:
            if passage.waits:  # the end of one may be that of another
                self.unit.turn_away(passage.req)
        if any(passage.waits for passage in self._passages.values()):
            self._expire_later()

    @property
    def busy(self) -> bool:
        """Whether commands are in flight."""
        return bool(self._passages)

    @property
    def blocked(self) -> bool:
        """Whether something waits for another node."""
        return self._telling > 0 or any(p.waits and p.registered for p in self._passages.values())

    # --- the registry -----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._attach()
            self._spawn(self._do_events())
            self._spawn(self._catch_up())
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                if not self._host.leased:
                    await self._host.until_leased()
                while self._settled or self._new:
                    await self._submit()
        except StaleNode:
            self._host.fenced()

    async def _attach(self) -> None:
        host = self._host
        while True:
            try:
                await host.until_leased()
                it = await host.registry.attach(self.lun, host.id, host.epoch)
                if not it.behind:
                    break
                await self._fence_workers(host.id, it.behind)
                await host.registry.fence(self.lun, host.id, host.epoch, host.id, it.behind)
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        for node, epoch in host.suspects.items():
            await self._fence_workers(node, epoch)
        self._heard = it.event
        if self._load is not None:
            await self._load()
        self.opened = True
        self._open.set()

    async def _submit(self) -> None:
        """One call: what has ended, and what has come."""
        host = self._host
        settled = [self._settled.popleft() for _ in range(min(len(self._settled), ENTRIES_MAX))]
        passages: list[_Passage] = []
        while self._new and len(passages) < ENTRIES_MAX:
            passage = self._new.popleft()
            if passage.req in self._passages:
                passage.registered = True
                self._by_sequence[passage.sequence] = passage
                passages.append(passage)
        if not settled and not passages:
            return
        entries = [self._entry(passage) for passage in passages]
        try:
            waits = await host.registry.submit(self.lun, host.id, host.epoch, settled, entries)
        except RegistryAway:
            self._settled.extendleft(reversed(settled))
            for passage in reversed(passages):
                if passage.req in self._passages:
                    # Told again, and settled in any case: perhaps the registry has it.
                    self._new.appendleft(passage)
            await asyncio.sleep(RETRY_SECONDS)
            await host.until_leased()
            return
        blocked = set(waits)
        for passage in passages:
            if passage.waits:
                passage.blocked = passage.sequence in blocked and not passage.granted
                if not passage.blocked:
                    self._go(passage)

    def _go(self, passage: _Passage) -> None:
        """Nobody is in its way any more."""
        if self._host.leased:
            self._pass(passage)
        else:
            self._spawn(self._go_when_leased(passage))

    async def _go_when_leased(self, passage: _Passage) -> None:
        await self._host.until_leased()
        if passage.waits:
            self._pass(passage)

    def _entry(self, passage: _Passage) -> TaskEntry:
        req = passage.req
        start, end = min(req.lba, LBA_MAX), min(req.lba + req.blocks, LBA_MAX)
        if passage.exclusive and not req.blocks:
            start, end = 0, LBA_MAX  # what it changes is in its parameters (UNMAP)
        nexus = req.attachment.nexus
        host = self._host
        began = host.wall() - (host.clock() - req.started_at)
        info = (
            f"{nexus.initiator} {nexus.isid.hex()} {req.attachment.unit.number} {req.tag:x}"
            f" {began:.3f} {req.cdb.hex()}"
        )
        return TaskEntry(passage.sequence, passage.exclusive, start, end, info)

    # --- notices ----------------------------------------------------------------------------------

    def granted(self, sequence: int) -> None:
        """The registry has let a command go on."""
        passage = self._by_sequence.get(sequence)
        if passage is not None and passage.waits:
            passage.granted = True
            self._go(passage)

    def happened(self, event: Event) -> None:
        """An event; one that does not follow the last one shows that some were missed."""
        if event.number == self._heard + 1:
            self._heard = event.number
            self._events.append(event)
            self._event_came.set()
        elif event.number > self._heard:
            self._missed.set()

    def acknowledged(self, node: str, number: int) -> None:
        """A node has done what events say."""
        it = self.attached.get(node)
        if it is not None:
            self.attached[node] = it._replace(acknowledged=number)
            self._moved.set()

    def departed(self, node: str) -> None:
        """A node serves the unit no more."""
        self.attached.pop(node, None)
        self._moved.set()
        if self._gone is not None and node != self._host.id:
            self._spawn(self._gone(node, False))

    def renewed(self) -> None:
        """Notices may have been missed."""
        self._missed.set()

    async def _catch_up(self) -> None:
        host = self._host
        try:
            while True:
                await self._missed.wait()
                self._missed.clear()
                try:
                    await self._ask_again()
                except RegistryAway:
                    await asyncio.sleep(RETRY_SECONDS)
                    self._missed.set()
        except StaleNode:
            host.fenced()

    async def _ask_again(self) -> None:
        host = self._host
        for event in await host.registry.events(self.lun, host.id, host.epoch, self._heard):
            self.happened(event)
        # What is asked for by a call that is under way has that call's answer.
        waiting = [p for p in self._by_sequence.values() if p.waits and p.blocked]
        if waiting:
            blocked = set(await host.registry.waiting(self.lun, host.id, host.epoch))
            for passage in waiting:
                if passage.waits and passage.sequence not in blocked:
                    self._go(passage)
        await self.look_around()

    async def look_around(self) -> None:
        """Who else serves the unit.  Raises RegistryAway."""
        self.attached = await self._host.registry.attached(self.lun)
        self._moved.set()

    # --- events -----------------------------------------------------------------------------------

    def tell(self, event: UnitEvent, done: Callable[[bool], None]) -> None:
        self._spawn(self._tell(event, done))

    async def announce(self, event: UnitEvent) -> bool:
        """Whether all other nodes have done ``event``, or are none any more."""
        host = self._host
        self._telling += 1
        try:
            async with asyncio.timeout(host.tell_seconds):
                await host.until_leased()
                number = await host.registry.post(
                    self.lun, host.id, host.epoch, encode_event(event)
                )
                await self.look_around()
                while any(
                    it.acknowledged < number
                    for name, it in self.attached.items()
                    if name != host.id
                ):
                    self._moved.clear()
                    await self._moved.wait()
            return True
        except (RegistryAway, TimeoutError):
            return False
        except StaleNode:
            host.fenced()
            return False
        finally:
            self._telling -= 1

    async def _tell(self, event: UnitEvent, done: Callable[[bool], None]) -> None:
        done(await self.announce(event))

    async def _do_events(self) -> None:
        host = self._host
        try:
            while True:
                while not self._events:
                    self._event_came.clear()
                    await self._event_came.wait()
                event = self._events[0]
                if event.node != host.id:
                    await self._do(event)
                try:
                    await host.registry.acknowledge(self.lun, host.id, host.epoch, event.number)
                except RegistryAway:
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    self._events.popleft()
        except StaleNode:
            host.fenced()

    async def _do(self, event: Event) -> None:
        try:
            what = decode_event(event.payload)
        except ValueError:
            self._host.log.warning("event not understood", node=event.node, lun=self.lun)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def over() -> None:
            if not done.done():
                done.set_result(None)

        self.unit.happened(what, over)
        await done

    # --- fencing ----------------------------------------------------------------------------------

    def consider(self, members: dict[str, Member]) -> None:
        """Rule 6; ``members`` was asked for after ``look_around``."""
        for node, it in self.attached.items():
            member = members.get(node)
            over = member is None or member.epoch > it.epoch or bool(member.reaper)
            if node != self._host.id and over:
                self.shut_out(node, it.epoch)

    def shut_out(self, node: str, epoch: int) -> None:
        """Begin to fence a life of a node that cannot renew its lease any more."""
        if (node, epoch) not in self._fencing:
            self._fencing.add((node, epoch))
            self._spawn(self._fence(node, epoch))

    async def _fence(self, node: str, epoch: int) -> None:
        try:
            await self.fence(node, epoch)
        except StaleNode:
            self._host.fenced()
        finally:
            self._fencing.discard((node, epoch))

    async def fence(self, node: str, epoch: int) -> None:
        """Fence it; returns when that is done.  Raises StaleNode."""
        host = self._host
        await self._fence_workers(node, epoch)
        while True:
            try:
                await host.registry.fence(self.lun, host.id, host.epoch, node, epoch)
                break
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        self.attached.pop(node, None)
        self._moved.set()
        if self._gone is not None:
            await self._gone(node, True)
