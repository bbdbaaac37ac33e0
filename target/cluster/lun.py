"""One logical unit that several nodes serve: its commands in the registry, events for all nodes.

Rules:

1. A command that changes blocks runs when the registry has it and every overlapping one of another
   node that came before it has ended.  Others are registered, and wait for nobody.
2. What has gathered while the last call was under way goes in the next one: one call at a time for
   a unit, however many commands.  The end of one makes no call of its own before it has waited for
   another: that of a change for ``SETTLE_SECONDS``, that of a read for ``READ_SECONDS``.  A command
   that may run at once is registered when it has run for ``READ_SECONDS``, for people to see.
3. Nothing runs without a lease.  A command waits ``wait_seconds`` at most, for the lease, for the
   registry and for others together; then it is turned away, and its initiator tries again.
4. A command that has ended is told until the registry has heard it.
   One whose write is in doubt (it may still happen: ``target/block/worker_queue.py``) counts as
   running until that is over.
5. What all nodes have to do is told as an event (``telling.py``).
6. What has come before the registry counted this node is turned away: it may be among what an event
   ended of which the node does not hear.
7. A node that is in the way (something waits for it) and is not a member any more is fenced: first
   at the workers of the volume, then here.  While a worker is away, those of its commands are over
   that none of the others would do (``fenced_part``), and nobody waits for them.
8. A node that serves the unit alone asks nobody (``alone.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from target.cluster.alone import Alone
from target.cluster.ending import ended
from target.cluster.host import RETRY_SECONDS, AfterDoubts, FencedPart, Host, Unit
from target.cluster.peers import Peers
from target.cluster.registry import (
    Attachment,
    Event,
    Member,
    RegistryAway,
    StaleNode,
    TaskEntry,
)
from target.cluster.telling import Telling
from target.scsi.command import CHANGING, Kind
from target.scsi.gate import Gate
from target.scsi.unit_events import UnitEvent

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest

ENTRIES_MAX: Final = 1000  # in one call
SETTLE_SECONDS: Final = 0.001
READ_SECONDS: Final = 0.1
EXPIRY_SECONDS: Final = 0.25  # how late the end of a wait may be noticed
PART_SECONDS: Final = 1.0  # how long all workers have to be fenced before parts are looked at
LBA_MAX: Final = 1 << 53  # what Lua can tell apart


class _Passage:
    """A command that has come to the gate and not ended."""

    __slots__ = (
        "blocked",
        "deadline",
        "exclusive",
        "granted",
        "live",
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
        self.live = True  # it may happen: it has not ended, or is in doubt
        self.registered = False  # the registry may have it
        self.blocked = False  # the registry has said that it has to wait
        self.granted = False  # it has to wait no more


class LunTracker(Gate):
    """The unit ``lun`` (the UUID of its volume) as ``host`` serves it.

    ``fence_workers(node, epoch)`` returns when every worker of the volume refuses that epoch and
    nothing of it runs there; it may take as long as a worker is away.  ``fenced_part(node, epoch,
    LBA, blocks)``: whether nothing of it can happen to those blocks any more, meanwhile.
    ``gone(node, fenced)``: a life of a node serves the unit no more, because it has been fenced and
    no next one is there, or by itself.
    ``look()``: it may have happened while this one did not hear of it.
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
        look: Callable[[], Awaitable[None]] | None = None,
        after_doubts: AfterDoubts | None = None,
        fenced_part: FencedPart | None = None,
    ) -> None:
        self.lun = lun
        self.unit = unit
        self.opened = False
        self._open = asyncio.Event()
        self._host = host
        self._fence_workers = fence_workers
        self._load = load
        self._gone = gone
        self._look = look
        self._after_doubts = after_doubts
        self._fenced_part = fenced_part
        self._in_doubt = 0  # commands that have ended, and may still happen
        self._sequences = itertools.count(1)
        self._passages: dict[SCSIRequest, _Passage] = {}
        self._by_sequence: dict[int, _Passage] = {}  # those that the registry may have
        self._new: deque[_Passage] = deque()  # to be registered
        self._quiet: dict[_Passage, None] = {}  # those that run, and the registry does not know
        self._settled: deque[int] = deque()
        self._dirty = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None  # looks whether it is time, and when
        self._linger_at = math.inf
        self._tell_by = math.inf  # when what nobody waits for has to be told, by the loop's clock
        self._expiry: asyncio.TimerHandle | None = None
        self._missed = asyncio.Event()  # notices may have been
        self._peers = Peers(host, lun)
        self._alone = Alone(host, lun, self._peers, self._register_all)
        self._telling = Telling(host, lun, unit, self._peers, after_doubts, self._alone.end)
        self._calling = False
        self._called = asyncio.Event()
        self._fencing: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned = False

    @property
    def alone(self) -> bool:
        """Whether no other node serves it, and whoever comes waits until this one knows."""
        return self._alone.now

    @property
    def attached(self) -> dict[str, Attachment]:
        """Who serves it, as far as is known."""
        return self._peers.attached

    def start(self) -> None:
        """Begin to serve it; commands wait until that is possible."""
        self._spawn(self._run())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug of ours must not leave a unit that nobody serves: the node starts anew.

        One is that a task has been cancelled, and not by ``abandon``.
        """
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None or (task.cancelled() and not self._abandoned):
            self._host.log.error("internal error", lun=self.lun, reason=repr(exc or "cancelled"))
            self._host.fenced()

    async def wait_open(self) -> None:
        """Wait until it can be served."""
        await self._open.wait()

    async def stop(self) -> None:
        """Serve it no more.  Raises RegistryAway.

        If commands are in flight still, it counts as served until this life of the node is fenced.
        """
        in_flight = self.busy
        await self.abandon()
        if not in_flight:
            await self._host.registry.detach(self.lun, self._host.id, self._host.epoch)

    async def abandon(self) -> None:
        """Serve it no more, without a word."""
        self._abandoned = True
        for timer in (self._expiry, self._linger):
            if timer is not None:
                timer.cancel()
        await ended(*self._tasks)

    # --- the gate ---------------------------------------------------------------------------------

    def enter(self, req: SCSIRequest) -> bool:
        host, kind = self._host, req.command.kind
        exclusive = kind in CHANGING
        passage = _Passage(next(self._sequences), req, exclusive, 0.0)
        self._passages[req] = passage
        alone = self._alone
        if alone.worth_asking and self.opened and kind is not Kind.INFORM:
            alone.worth_asking = False
            self._spawn(alone.ask())
        if kind is Kind.INFORM or ((alone.now if exclusive else self.opened) and host.leased):
            passage.waits = False
            self._quiet[passage] = None
            if self._tell_by == math.inf:
                self._soon(READ_SECONDS)
            return True
        self._new.append(passage)
        self._dirty.set()
        passage.deadline = host.clock() + host.wait_seconds
        if self._expiry is None:
            self._expire_later()
        return False

    def left(self, req: SCSIRequest) -> None:
        passage = self._passages.pop(req)
        passage.waits = False
        doubted = (
            passage.exclusive
            and self._after_doubts is not None
            and self._after_doubts(req.lba, req.blocks, partial(self._certain, passage))
        )
        if doubted:
            self._in_doubt += 1
        else:
            self._over(passage)

    def _certain(self, passage: _Passage) -> None:
        self._in_doubt -= 1
        self._over(passage)

    def _over(self, passage: _Passage) -> None:
        passage.live = False
        if not passage.registered:
            self._quiet.pop(passage, None)
            return
        del self._by_sequence[passage.sequence]
        self._settled.append(passage.sequence)
        if passage.exclusive or len(self._settled) == 1:
            self._soon(SETTLE_SECONDS if passage.exclusive else READ_SECONDS)

    def _soon(self, seconds: float) -> None:
        """There is something to tell, in so long at the latest."""
        when = asyncio.get_running_loop().time() + seconds
        if when < self._tell_by:
            self._tell_by = when
            if when < self._linger_at:
                self._look_at(when)

    def _look_at(self, when: float) -> None:
        if self._linger is not None:
            self._linger.cancel()
        # Not asked of the handle: uvloop's has no time if that is over already.
        self._linger_at = when
        self._linger = asyncio.get_running_loop().call_at(when, self._lingered)

    def _lingered(self) -> None:
        """What the timer was for may have gone with a call, and more have come since."""
        self._linger = None
        self._linger_at = math.inf
        if self._tell_by <= asyncio.get_running_loop().time():
            self._dirty.set()
        elif self._tell_by < math.inf:
            self._look_at(self._tell_by)

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
        return bool(self._passages) or self._in_doubt > 0

    @property
    def blocked(self) -> bool:
        """Whether something waits for another node."""
        return (
            self._alone.arriving
            or self._telling.under_way > 0
            or any(p.waits and p.registered for p in self._passages.values())
        )

    # --- the registry -----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._attach()
            self._spawn(self._telling.run())
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                if not self._host.leased:
                    await self._host.until_leased()
                await self._submit()
                self._called.set()
        except StaleNode:
            self._host.fenced()

    async def _attach(self) -> None:
        host = self._host
        # Before it counts: others wait for what it does of events, and a worker may be away.
        for node, epoch in host.suspects.items():
            await self._fence_workers(node, epoch)
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
        for passage in list(self._passages.values()):  # rule 6
            if passage.waits:  # the end of one may be that of another
                self.unit.turn_away(passage.req)
        self._telling.begin_after(it.event)
        # It counts from now on: a registry that comes back has to hear it (registry.py, rule 5).
        self._spawn(self._catch_up())
        if it.alone:
            await self._alone.wait_for(it)
        if self._load is not None:
            await self._load()
        self.opened = True
        self._open.set()

    async def _submit(self) -> None:
        """One call: what has ended, and what has come."""
        host = self._host
        self._tell_by = math.inf
        self._take_old()
        settled = [self._settled.popleft() for _ in range(min(len(self._settled), ENTRIES_MAX))]
        passages: list[_Passage] = []
        while self._new and len(passages) < ENTRIES_MAX:
            passage = self._new.popleft()
            if passage.live:
                passage.registered = True
                self._by_sequence[passage.sequence] = passage
                passages.append(passage)
        if self._settled or self._new:
            self._dirty.set()
        if not settled and not passages:
            return
        entries = [self._entry(passage) for passage in passages]
        self._calling = True
        try:
            waits = await host.registry.submit(self.lun, host.id, host.epoch, settled, entries)
        except RegistryAway:
            self._settled.extendleft(reversed(settled))
            for passage in reversed(passages):
                if passage.live:
                    # Told again, and settled in any case: perhaps the registry has it.
                    self._new.appendleft(passage)
            self._dirty.set()
            await asyncio.sleep(RETRY_SECONDS)
            await host.until_leased()
            return
        finally:
            self._calling = False
        blocked = set(waits)
        for passage in passages:
            if passage.waits:
                passage.blocked = passage.sequence in blocked and not passage.granted
                if not passage.blocked:
                    self._go(passage)

    def _take_old(self) -> None:
        """Those that have run for long."""
        old = self._host.clock() - READ_SECONDS
        for passage in list(itertools.takewhile(lambda p: p.req.started_at <= old, self._quiet)):
            del self._quiet[passage]
            self._new.append(passage)
        if self._quiet:
            self._soon(READ_SECONDS)

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
            f"{nexus.initiator} {nexus.isid.hex()} {req.attachment.number} {req.tag:x}"
            f" {began:.3f} {req.cdb.hex()}"
        )
        return TaskEntry(passage.sequence, passage.exclusive, start, end, info)

    async def _register_all(self) -> None:
        """Returns when the registry has all that has come so far, and may happen."""
        self._new.extend(self._quiet)
        self._quiet.clear()
        come = set(self._new)
        while self._calling or not come.isdisjoint(self._new):
            self._dirty.set()
            self._called.clear()
            await self._called.wait()

    # --- notices ----------------------------------------------------------------------------------

    def granted(self, sequence: int) -> None:
        """The registry has let a command go on."""
        passage = self._by_sequence.get(sequence)
        if passage is not None and passage.waits:
            passage.granted = True
            self._go(passage)

    def happened(self, event: Event) -> None:
        """An event."""
        if not self._telling.happened(event):
            self._missed.set()

    def acknowledged(self, node: str, number: int) -> None:
        """A node has done what events say."""
        self._peers.acknowledged(node, number)

    def departed(self, node: str, epoch: int) -> None:
        """A life of a node serves the unit no more; the next one may by now."""
        if epoch:
            self._lost(node, epoch)
        else:
            self._missed.set()
        if self._gone is not None and node != self._host.id:
            self._spawn(self._gone(node, False))

    def _lost(self, node: str, epoch: int) -> None:
        self._peers.gone(node, epoch)
        self._alone.somebody_has_gone()

    def unheard(self) -> None:
        """The registry has to hear something of this node."""
        self._missed.set()

    def renewed(self) -> None:
        """Notices may have been missed."""
        self._missed.set()
        if self._look is not None and self.opened:
            self._spawn(self._look())

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
        await self._telling.catch_up()
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
        await self._peers.look()
        if len(self.attached) == 1:
            self._alone.somebody_has_gone()

    # --- events (telling.py) ----------------------------------------------------------------------

    async def announce(self, event: UnitEvent) -> bool:
        """Whether all other nodes have done ``event``, or are none any more."""
        return await self._telling.announce(event)

    async def post(self, event: UnitEvent) -> int:
        """Have all other nodes do it some time; its number.  Raises RegistryAway or StaleNode."""
        return await self._telling.post(event)

    async def late(self, number: int) -> list[str]:
        """The others that have not done that in the time that it may take.  Raises RegistryAway."""
        return await self._telling.late(number)

    def tell(self, event: UnitEvent, done: Callable[[bool], None]) -> None:
        self._spawn(_answer(partial(self._telling.announce, event), done))

    def quiet(self, done: Callable[[bool], None]) -> None:
        self._spawn(_answer(self._telling.quiet, done))

    # --- fencing ----------------------------------------------------------------------------------

    def consider(self, members: dict[str, Member]) -> None:
        """Rule 7; ``members`` was asked for after ``look_around``."""
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
        workers = asyncio.ensure_future(self._fence_workers(node, epoch))
        try:
            while not (await asyncio.wait((workers,), timeout=PART_SECONDS))[0]:
                await self._settle_part(node, epoch)
            workers.result()
        finally:
            workers.cancel()
        await self._telling.begun.wait()  # who does not count yet may say nothing there
        while True:
            try:
                await host.registry.fence(self.lun, host.id, host.epoch, node, epoch)
                await self.look_around()
                break
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        self._lost(node, epoch)
        if self._gone is not None:
            # Others may have been faster, and the node be back: what its port has is its own.
            await self._gone(node, node not in self.attached)

    async def _settle_part(self, node: str, epoch: int) -> None:
        host, over = self._host, self._fenced_part
        if over is None or not self._telling.begun.is_set():
            return
        with contextlib.suppress(RegistryAway):
            found = await host.registry.writes_of(self.lun, node, epoch)
            settled = [
                number for number, start, end in found if over(node, epoch, start, end - start)
            ]
            if settled:
                await host.registry.settle(self.lun, host.id, host.epoch, node, epoch, settled)


async def _answer(ask: Callable[[], Awaitable[bool]], done: Callable[[bool], None]) -> None:
    done(await ask())
