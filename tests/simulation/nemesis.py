"""What goes wrong in a simulated cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import Node, World

APART_SECONDS = 1.5  # faults, on average
LATE = 0.5  # how often one node is late to find a registry that has come back
FORGETFUL = 0.7  # how often a node is stopped while the registry forgets


class Nemesis:
    """Of one world: one fault after the other, as its seed says; ``only`` names a single kind."""

    def __init__(self, world: World, only: str = "") -> None:
        from tests.simulation.world import LEASE_SECONDS  # they know each other

        self._world = world
        self._random = world.random
        self._lease = LEASE_SECONDS
        self._faults: dict[Callable[[Node, float], Awaitable[None]], int] = {
            self._kill: 4,
            self._stop: 4,
            self._cut: 4,
            self._cut_all: 4,
            self._slow: 4,
            self._forget: 1,
            self._alone: 3,
            self._go_back: 2,
            self._worker_away: 2,
        }
        if only:
            self._faults = {getattr(self, f"_{only}"): 1}

    async def run(self) -> None:
        """For ever."""
        faults, weights = list(self._faults), list(self._faults.values())
        nodes = list(self._world.nodes.values())
        while True:
            await asyncio.sleep(self._random.expovariate(1 / APART_SECONDS))
            self._world.faults += 1
            node = self._random.choice(nodes)
            seconds = self._random.uniform(0.2, 3.0) * self._lease
            await self._random.choices(faults, weights)[0](node, seconds)

    async def _kill(self, node: Node, seconds: float) -> None:
        node.kill()
        await asyncio.sleep(self._random.expovariate(2.0))
        node.start()

    async def _stop(self, node: Node, seconds: float) -> None:
        node.stop()
        await asyncio.sleep(seconds)
        node.go_on()

    async def _cut(self, node: Node, seconds: float) -> None:
        node.cut(True)
        await asyncio.sleep(seconds)
        node.cut(False)

    async def _cut_all(self, node: Node, seconds: float) -> None:
        for one in self._world.nodes.values():
            one.cut(True)
        await asyncio.sleep(seconds)
        for one in self._world.nodes.values():
            one.cut(False)

    async def _slow(self, node: Node, seconds: float) -> None:
        self._world.slow = 0.2
        await asyncio.sleep(seconds)
        self._world.slow = 0.0

    async def _worker_away(self, node: Node, seconds: float) -> None:
        """And a node is, perhaps for good."""
        worker = self._random.choice(self._world.workers.each)
        worker.away(True)
        await self._random.choice((self._kill, self._stop))(node, seconds)
        await asyncio.sleep(seconds)
        worker.away(False)

    async def _forget(self, node: Node, seconds: float) -> None:
        """The registry has nothing any more; perhaps one node hears of it late."""
        stopped = self._random.random() < FORGETFUL
        if stopped:
            node.stop()
        self._world.registry.forget_all()
        self._world.registry_loses()
        if stopped:
            await asyncio.sleep(seconds)
            node.go_on()

    async def _go_back(self, node: Node, seconds: float) -> None:
        """Another process has what this one had some time ago, or all of it."""
        world, registry = self._world, self._world.registry
        then = registry.snapshot()
        lost = self._random.choice((0.0, 0.01, 0.1, self._lease, 2 * self._lease))
        if lost:
            await asyncio.sleep(lost * self._random.random())
            world.registry_loses()
        for one in world.nodes.values():
            one.cut(True)
        registry.restore(then)
        for one in world.nodes.values():
            if one is not node:
                await asyncio.sleep(self._random.random() * 0.1)
                one.cut(False)
        if self._random.random() < LATE:
            await asyncio.sleep(seconds)
        node.cut(False)

    async def _alone(self, node: Node, seconds: float) -> None:
        others = [one for one in self._world.nodes.values() if one is not node]
        for one in others:
            one.kill()
        await asyncio.sleep(self._lease + seconds)
        for one in others:
            one.start()
