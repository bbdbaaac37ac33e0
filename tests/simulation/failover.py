"""Nodes that die, among a thousand, on the played clock: how long until a blocked write goes on.

What is real: ``target/cluster`` (leases, claims, fencing, gates).  What is played: the registry's
machine, messages that take ``MESSAGE_SECONDS`` on average, workers that fence in as long, and a
unit that has a write of each node on it.

Rules:

1. Each LUN is on some nodes, chosen at random.  Nodes start at random times, so renewals spread.
2. A node dies with a write in flight on each LUN that it serves.  In the same moment every other
   node of the LUN gets one that overlaps it; that one counts from the death until it may run.
3. A write that is turned away (BUSY, after ``WAIT_SECONDS``) is sent again at once, as an initiator
   does.
4. A node that has died stays away, and the next one dies when all is quiet.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from target.cluster.lun import LunTracker
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices, Registry
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import UnitEvent
from tests.simulation.played_unit import Request
from tests.simulation.world import SILENT
from tests.support.cluster_nodes import end_silently
from tests.support.skipping_loop import run_skipping

LEASE_SECONDS = 5.0  # --lease's default
WAIT_SECONDS = 5.0  # --cluster-wait's
MESSAGE_SECONDS = 0.001
START_SECONDS = 2.0
QUIET_SECONDS = 3.0  # from the last write that goes on to the next death


@dataclass(frozen=True)
class Fleet:
    """What is played."""

    nodes: int
    luns: int
    nodes_of_lun: int
    deaths: int


@dataclass
class Pauses:
    """What was seen, in seconds from the death."""

    writes: list[float] = field(default_factory=list)  # until each blocked one went on
    busy: int = 0  # how often one was turned away meanwhile
    claimed: list[float] = field(default_factory=list)  # until somebody had claimed the dead one
    reaped: list[float] = field(default_factory=list)  # until it was no member any more
    renewals: int = 0
    told: int = 0  # members that renewals named


class _Delayed:
    """The registry as one node reaches it."""

    def __init__(self, play: _Play) -> None:
        self._play = play

    def __getattr__(self, name: str) -> Callable[..., Any]:
        play = self._play

        async def call(*args: Any) -> Any:
            await play.travel()
            answer = await getattr(play.registry, name)(*args)
            play.note(name, args, answer)
            await play.travel()
            return answer

        return call


class _Unit:
    """One LUN on one node: a write runs when its gate says so, and stays until it is ended."""

    def __init__(self, play: _Play) -> None:
        self._play = play
        self.gate: LunTracker | None = None

    def write(self) -> Request:
        """One that overlaps those of all others."""
        request = Request("write", 0, 1, None, asyncio.get_running_loop().time())
        assert self.gate is not None, "set by the player"
        entered = self.gate.enter(cast(SCSIRequest, request))
        assert not entered, "a write waits for the registry at least"
        return request

    def admit(self, req: SCSIRequest) -> None:
        cast(Request, req).outcome.set_result("runs")

    def turn_away(self, req: SCSIRequest) -> None:
        self.end(cast(Request, req))
        cast(Request, req).outcome.set_result("busy")

    def end(self, request: Request) -> None:
        assert self.gate is not None, "set by the player"
        self.gate.left(cast(SCSIRequest, request))

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        raise AssertionError("there are no events here")


class _Play:
    """One fleet."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.pauses = Pauses()
        self.registry = MemoryRegistry(lambda: round(self._now() * 1000), self._deliver)
        self._nodes: dict[str, ClusterNode] = {}
        self._units: dict[str, dict[str, _Unit]] = {}  # by node and LUN
        self._luns: dict[str, list[str]] = {}  # the nodes of each
        self._died = 0.0
        self._forgotten = asyncio.Event()  # the one that has died

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def travel(self) -> None:
        await asyncio.sleep(self.random.expovariate(1 / MESSAGE_SECONDS))

    async def _fence(self, node: str, epoch: int) -> None:
        await self.travel()
        await self.travel()

    def _deliver(self, node: str, notice: Callable[[Notices], None]) -> None:
        if node in self._nodes:
            asyncio.get_running_loop().call_later(MESSAGE_SECONDS, notice, self._nodes[node])

    def note(self, name: str, args: tuple[Any, ...], answer: Any) -> None:
        """What becomes of calls."""
        since = self._now() - self._died
        if name == "renew":
            self.pauses.renewals += 1
            self.pauses.told += len(answer.changed) + len(answer.gone) + len(answer.due)
        elif name == "claim" and answer:
            self.pauses.claimed.append(since)
        elif name == "reaped":
            self.pauses.reaped.append(since)
            self._forgotten.set()

    async def run(self) -> Pauses:
        fleet = self.fleet
        names = [f"node{number}" for number in range(fleet.nodes)]
        for number in range(fleet.luns):
            self._luns[f"lun{number}"] = self.random.sample(names, fleet.nodes_of_lun)
        await asyncio.gather(*(self._start(name) for name in names))
        for tracker in [t for node in self._nodes.values() for t in node.trackers.values()]:
            await tracker.wait_open()
        await asyncio.sleep(2 * LEASE_SECONDS)
        self.pauses.renewals = self.pauses.told = 0  # everybody has heard of everybody
        for name in self.random.sample(names, fleet.deaths):
            await asyncio.sleep(QUIET_SECONDS + self.random.random() * LEASE_SECONDS)
            await self._kill(name)
        for name in list(self._nodes):
            await self._end(name)
        return self.pauses

    async def _start(self, name: str) -> None:
        await asyncio.sleep(self.random.random() * START_SECONDS)
        loop = asyncio.get_running_loop()
        node = ClusterNode(
            lambda notices: cast(Registry, _Delayed(self)),
            name,
            lease_seconds=LEASE_SECONDS,
            wait_seconds=WAIT_SECONDS,
            clock=loop.time,
            wall=loop.time,
            log=SILENT,
            on_fenced=self._nobody_else_dies,
            on_stalled=self._nobody_else_dies,
        )
        await node.join(0, "{}")
        self._nodes[name] = node
        node.start()
        self._units[name] = {}
        for lun, nodes in self._luns.items():
            if name in nodes:
                unit = self._units[name][lun] = _Unit(self)
                unit.gate = node.track(lun, unit, self._fence)

    def _nobody_else_dies(self) -> None:
        raise AssertionError("a node that lives was shut out")

    async def _kill(self, name: str) -> None:
        """A node dies; returns when all that waited for it has gone on."""
        for unit in self._units[name].values():
            await unit.write().outcome
        shared = list(self._units[name])
        await self._end(name)
        self._died = self._now()
        self._forgotten.clear()
        others = [
            self._units[other][lun]
            for lun in shared
            for other in self._luns[lun]
            if other in self._nodes
        ]
        await asyncio.gather(*(self._blocked(unit) for unit in others))
        await self._forgotten.wait()

    async def _blocked(self, unit: _Unit) -> None:
        while True:
            request = unit.write()
            if await request.outcome == "runs":
                break
            self.pauses.busy += 1
        self.pauses.writes.append(self._now() - self._died)
        unit.end(request)

    async def _end(self, name: str) -> None:
        await end_silently(self._nodes.pop(name))


def pauses(fleet: Fleet, seed: int) -> Pauses:
    """Play it."""
    return run_skipping(_Play(fleet, seed).run())


def quantile(values: list[float], part: float) -> float:
    """The value that ``part`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
