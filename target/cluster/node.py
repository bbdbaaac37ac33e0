"""One node of several: its lease, and what it does when another one's is over.

Rules:

1. A node serves while it has a lease, by its own clock, and stops before anybody may take it for
   dead: a lease counts from when it was asked for, and ends ``MARGIN`` early.
2. A node whose lease is over is shut out by whoever finds out first (``claim``): from then on it
   cannot renew it.  Its commands are forgotten when the workers refuse its epoch.
3. Who has just been without the registry may not claim for the time of a lease: the others were
   perhaps without it too, and come back now.
4. A node that finds that it has been stopped for half a lease does not know what of its
   initiators' commands they have given up and sent elsewhere: ``on_stalled`` is called, before it
   has a lease again.  A task of its own looks, since a renewal may take as long as the registry is
   away; and each renewal does, since its answer may be there first when the node goes on.
5. A node that has been shut out (``StaleNode``) ends this life: ``on_fenced`` is called, once.
6. A registry that has lost its memory knows of nobody, and nobody can renew: all start anew.  What
   a node remembers of the others (``on_peers`` keeps it) is fenced before it serves: one of them
   may be stopped, and know nothing yet.  So it is with one that has older data than a node knows
   of (``registry.py`` rule 5).
7. A node that has been without a lease for ``wait_seconds`` is cut off, and says so
   (``on_cut_off``): its initiators are better off elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final

from target.cluster.ending import ended
from target.cluster.host import AfterDoubts, FencedPart, Log, Unit
from target.cluster.lun import LunTracker
from target.cluster.registry import (
    Event,
    Member,
    Notices,
    Registry,
    RegistryAway,
    Renewed,
    StaleNode,
)

RENEWALS: Final = 4  # in the time of a lease
MARGIN: Final = 0.1  # of a lease: clocks may go at rates that differ by so much
LOOKS: Final = 2 * RENEWALS  # in the time of a lease, whether the node has been stopped
CLAIM_LEASES: Final = 6.0  # how many leases one node has for shutting another out


class ClusterNode(Notices):
    """This node, as the others know it.

    ``make_registry`` takes who is to hear its notices.  Times are in seconds.
    """

    def __init__(
        self,
        make_registry: Callable[[Notices], Registry],
        node_id: str,
        *,
        lease_seconds: float,
        wait_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: Log,
        on_fenced: Callable[[], None],
        on_stalled: Callable[[], None],
        on_cut_off: Callable[[bool], None] = lambda cut_off: None,
        on_members: Callable[[Iterable[Member]], None] = lambda members: None,
        on_peers: Callable[[dict[str, int]], None] = lambda peers: None,
    ) -> None:
        self.id = node_id
        self.epoch = 0
        self.number = 0
        self.format = 0  # of what is in the registry, as of the join
        self.log = log
        self.clock = clock
        self.wall = wall
        self.wait_seconds = wait_seconds
        self.lease_seconds = lease_seconds
        # Long enough for a node to be found dead and shut out meanwhile.
        self.tell_seconds = 3 * lease_seconds + wait_seconds
        self.members: dict[str, Member] = {}  # as of their last change
        self._known = 0  # the number of the last change that is in there
        self.numbers: dict[str, int] = {}  # of all that there ever were: a number stays
        self.registry = make_registry(self)
        self.over = False
        self._stopping = False
        self.shut_out = 0  # nodes that this one has shut out
        self._on_fenced = on_fenced
        self._on_stalled = on_stalled
        self._on_cut_off = on_cut_off
        self._cut_off = False  # rule 7
        self.peers: dict[str, int] = {}  # the epochs of the other members
        self.suspects: Mapping[str, int] = {}  # rule 6; its own last life is among them
        self._on_peers = on_peers
        self._on_members = on_members
        self._leased_until = 0.0
        self._looked_at = 0.0  # rule 4
        self._unbroken_since: float | None = None
        self._leased = asyncio.Event()
        self._trackers: dict[str, LunTracker] = {}
        self._reaping: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- its life ---------------------------------------------------------------------------------

    async def join(
        self, floor: int, info: str, peers: Mapping[str, int] | None = None, number: int = 0
    ) -> None:
        """Become a member, with a new epoch above ``floor``.

        Raises RegistryAway, StaleNode or WrongFormat.
        ``peers``, ``number``: the epochs of others, as this node knew them before (rule 6), and the
        number that it had.
        """
        asked = self.clock()
        lease_ms = round(self.lease_seconds * 1000)
        joined = await self.registry.join(self.id, floor, lease_ms, info, number)
        self.epoch, self.number, self.format = joined
        self.numbers = await self.registry.numbers()
        renewed = await self.registry.renew(self.id, self.epoch, lease_ms, 0)
        self._has_lease(asked)
        epochs = {member.node: member.epoch for member in renewed.changed}
        known = {**(peers or {}), self.id: floor}
        self.suspects = {
            node: epoch for node, epoch in known.items() if epoch and epochs.get(node) != epoch
        }
        self._keep(renewed)

    def _keep(self, renewed: Renewed) -> None:
        if renewed.whole or renewed.change != self._known:
            self._learn(renewed)
        self._on_members(self.members.values())

    def _learn(self, renewed: Renewed) -> None:
        if renewed.whole:
            self.members.clear()
        self._known = renewed.change
        for node in renewed.gone:
            self.members.pop(node, None)
        self.members |= {member.node: member for member in renewed.changed}
        self.numbers |= {member.node: member.number for member in renewed.changed}
        others = {node: member.epoch for node, member in self.members.items() if node != self.id}
        suspects = {node: epoch for node, epoch in self.suspects.items() if node != self.id}
        peers = {**suspects, **others}
        if peers != self.peers:
            self.peers = peers
            self._on_peers(peers)

    def start(self) -> None:
        """Renew the lease from now on."""
        self._looked_at = self.clock()
        self._spawn(self._watch())
        self._spawn(self._renew())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug of ours must not leave a node that says BUSY for ever: it starts anew.

        One is that a task has been cancelled, and not by ``stop``.
        """
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None or (task.cancelled() and not self._stopping):
            self.log.error("internal error", node=self.id, reason=repr(exc or "cancelled"))
            self.fenced()

    async def stop(self) -> None:
        """End this life; nothing may be in flight."""
        self._stopping = True
        await ended(*self._tasks)
        try:
            busy = False
            for tracker in list(self._trackers.values()):
                busy = busy or tracker.busy
                if self.over:
                    await tracker.abandon()
                else:
                    await tracker.stop()
            if not self.over and not busy:
                await self.registry.leave(self.id, self.epoch)
        except (RegistryAway, StaleNode) as exc:
            # The others find the lease over, and do what is to be done.
            self.log.warning("left without a word", reason=str(exc))
            for tracker in list(self._trackers.values()):
                await tracker.abandon()

    def track(
        self,
        lun: str,
        unit: Unit,
        fence_workers: Callable[[str, int], Awaitable[None]],
        load: Callable[[], Awaitable[None]] | None = None,
        gone: Callable[[str, bool], Awaitable[None]] | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
        after_doubts: AfterDoubts | None = None,
        fenced_part: FencedPart | None = None,
    ) -> LunTracker:
        """The gate of a unit, which is the caller's to put there."""
        tracker = LunTracker(
            self,
            lun,
            unit,
            fence_workers,
            load=load,
            gone=gone,
            look=look,
            after_doubts=after_doubts,
            fenced_part=fenced_part,
        )
        self._trackers[lun] = tracker
        tracker.start()
        return tracker

    async def untrack(self, lun: str) -> None:
        """The unit is gone from this node."""
        tracker = self._trackers.pop(lun)
        try:
            await tracker.stop()
        except RegistryAway:
            await tracker.abandon()

    def numbers_known(self) -> list[int]:
        """Of all nodes that there ever were."""
        return list(self.numbers.values())

    @property
    def trackers(self) -> dict[str, LunTracker]:
        """By unit."""
        return dict(self._trackers)

    # --- the lease --------------------------------------------------------------------------------

    @property
    def lease_seconds_left(self) -> float:
        """How long this node may serve without renewing its lease."""
        return max(0.0, self._leased_until - self.clock())

    @property
    def leased(self) -> bool:
        return self.clock() < self._leased_until

    async def until_leased(self) -> None:
        while not self.leased:
            self._leased.clear()
            await self._leased.wait()

    def _has_lease(self, asked: float) -> None:
        now = self.clock()
        if self._unbroken_since is None or now >= self._leased_until:
            self._unbroken_since = now
            self.renewed()  # others have perhaps gone on without this node
        self._leased_until = asked + self.lease_seconds * (1 - MARGIN)
        if self.leased:
            self._leased.set()
            if self._cut_off:
                self._cut_off = False
                self._on_cut_off(False)

    def fenced(self) -> None:
        """Rule 5."""
        if not self.over:
            self.over = True
            self._leased_until = 0.0
            self.log.error("this node has been shut out by others", node=self.id, epoch=self.epoch)
            self._on_fenced()

    async def _renew(self) -> None:
        interval = self.lease_seconds / RENEWALS
        while not self.over:
            began = self.clock()
            try:
                await self._renew_once()
            except RegistryAway as exc:
                if not self.leased and self._unbroken_since is not None:
                    self._unbroken_since = None
                    self.log.warning("no lease: commands wait", reason=str(exc))
                if not self._cut_off and self.clock() > self._leased_until + self.wait_seconds:
                    self._cut_off = True
                    self.log.warning("cut off: initiators are sent away", node=self.id)
                    self._on_cut_off(True)
            except StaleNode:
                self.fenced()
                return
            await asyncio.sleep(max(0.0, interval - (self.clock() - began)))

    async def _watch(self) -> None:
        while not self.over:
            await asyncio.sleep(self.lease_seconds / LOOKS)
            self._look_whether_stopped()

    def _look_whether_stopped(self) -> None:
        """Rule 4."""
        now = self.clock()
        stopped = now - self._looked_at - self.lease_seconds / LOOKS
        self._looked_at = now
        if stopped > self.lease_seconds / 2:
            self.log.warning("this node was stopped", seconds=round(stopped, 1))
            self._on_stalled()

    async def _renew_once(self) -> None:
        troubled = [tracker for tracker in self._trackers.values() if tracker.blocked]
        for tracker in troubled:
            await tracker.look_around()
        asked = self.clock()
        lease_ms = round(self.lease_seconds * 1000)
        renewed = await self.registry.renew(self.id, self.epoch, lease_ms, self._known)
        self._look_whether_stopped()
        if self._unbroken_since is None:
            self.log.info("lease renewed: commands go on", node=self.id)
        self._has_lease(asked)
        self._keep(renewed)
        if any(node not in self.numbers for node in renewed.gone):  # it came and went
            self.numbers = await self.registry.numbers()
        for node in renewed.due:
            if node in self.members:
                await self._claim(self.members[node])
        for tracker in troubled:
            tracker.consider(self.members)

    async def _claim(self, victim: Member) -> None:
        assert self._unbroken_since is not None, "just renewed"
        if self.clock() - self._unbroken_since < self.lease_seconds:  # rule 3
            return
        if (victim.node, victim.epoch) in self._reaping:
            return
        claim_ms = round(CLAIM_LEASES * self.lease_seconds * 1000)
        if await self.registry.claim(self.id, self.epoch, victim, claim_ms):
            self.log.warning("node is shut out", node=victim.node, epoch=victim.epoch)
            self.shut_out += 1
            self.members[victim.node] = victim._replace(reaper=self.id)
            self._reaping.add((victim.node, victim.epoch))
            self._spawn(self._reap(victim))

    async def _reap(self, victim: Member) -> None:
        """Shut it out of everything that this node serves; who serves other units does it there."""
        try:
            fences = []
            for tracker in list(self._trackers.values()):
                await tracker.look_around()
                it = tracker.attached.get(victim.node)
                if it is not None and it.epoch <= victim.epoch:
                    fences.append(partial(tracker.fence, victim.node, it.epoch))
            # Side by side: a worker that is away holds up the units that are on it alone.
            await asyncio.gather(*(fence() for fence in fences))
            await self.registry.reaped(self.id, self.epoch, victim.node, victim.epoch)
            self.log.info("node has been shut out", node=victim.node, epoch=victim.epoch)
        except RegistryAway:
            pass  # its claim runs out, and somebody begins anew
        except StaleNode:
            self.fenced()
        finally:
            self._reaping.discard((victim.node, victim.epoch))

    # --- notices ----------------------------------------------------------------------------------

    def granted(self, lun: str, sequence: int) -> None:
        if lun in self._trackers:
            self._trackers[lun].granted(sequence)

    def happened(self, lun: str, event: Event) -> None:
        if lun in self._trackers:
            self._trackers[lun].happened(event)

    def acknowledged(self, lun: str, node: str, number: int) -> None:
        if lun in self._trackers:
            self._trackers[lun].acknowledged(node, number)

    def departed(self, lun: str, node: str, epoch: int) -> None:
        if lun in self._trackers:
            self._trackers[lun].departed(node, epoch)

    def unheard(self, lun: str) -> None:
        if lun in self._trackers:
            self._trackers[lun].unheard()

    def renewed(self) -> None:
        for tracker in self._trackers.values():
            tracker.renewed()
