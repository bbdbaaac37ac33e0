"""Nodes that serve a unit together: the registry in memory, a played clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from target.cluster.host import FencedPart
from target.cluster.lun import LunTracker
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices, Registry, RegistryAway
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import UnitEvent
from tests.simulation.played_unit import Request
from tests.support.cluster_nodes import cluster_node, end_silently

LUN = "disk"
CALL_SECONDS = 0.0002  # what a call of the registry takes


class Unit:
    """What became of commands; events are done at once."""

    def __init__(self) -> None:
        self.outcomes: dict[SCSIRequest, str] = {}
        self.gate: LunTracker | None = None

    def admit(self, req: SCSIRequest) -> None:
        self.outcomes[req] = "runs"

    def turn_away(self, req: SCSIRequest) -> None:
        self.outcomes[req] = "turned away"
        assert self.gate is not None, "set by who serves it"
        self.gate.left(req)

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        done()


class Nodes:
    """Nodes of one registry; ``calls`` lists the calls of each, one after the other."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.registry = MemoryRegistry(lambda: round(loop.time() * 1000), self._deliver)
        self._nodes: dict[str, ClusterNode] = {}
        self.gone: list[tuple[str, str, bool]] = []  # who was told of whom, and whether fenced
        self.units: dict[str, Unit] = {}
        self.calls: dict[str, list[str]] = {}
        self.holds: dict[str, asyncio.Event] = {}  # a node's attachment waits for it
        self.away: set[str] = set()  # nodes that cannot reach the registry
        self.looks: list[str] = []  # nodes that have looked what is kept

    def _deliver(self, name: str, notice: Callable[[Notices], None]) -> None:
        if name in self._nodes:
            asyncio.get_running_loop().call_soon(notice, self._nodes[name])

    async def join(self, name: str) -> ClusterNode:
        """A member that serves nothing yet."""
        self.calls[name] = []
        node = cluster_node(cast(Registry, _Watched(self, name, self.registry)), name)
        await node.join(0, "{}")
        self._nodes[name] = node
        node.start()
        return node

    def serve(
        self,
        name: str,
        fence_workers: Callable[[str, int], Awaitable[None]] | None = None,
        fenced_part: FencedPart | None = None,
        load: Callable[[], Awaitable[None]] | None = None,
    ) -> Callable[[Request], str]:
        """Begin to serve the unit; a command's way to it, which says what became of it at once."""
        unit = self.units[name] = Unit()

        async def look() -> None:
            self.looks.append(name)

        async def gone(node: str, fenced: bool) -> None:
            self.gone.append((name, node, fenced))

        fence = fence_workers or nothing_to_fence
        gate = unit.gate = self._nodes[name].track(
            LUN, unit, fence, load, gone=gone, look=look, fenced_part=fenced_part
        )

        def enter(request: Request) -> str:
            return "runs" if gate.enter(cast(SCSIRequest, request)) else "waits"

        return enter

    def outcome(self, name: str, request: Request) -> str | None:
        return self.units[name].outcomes.get(cast(SCSIRequest, request))

    async def close(self) -> None:
        for name in list(self._nodes):
            await self.kill(name)

    async def kill(self, name: str) -> None:
        """It says nothing any more."""
        await end_silently(self._nodes.pop(name))


class _Watched:
    """The registry as one node has it."""

    def __init__(self, nodes: Nodes, name: str, registry: MemoryRegistry) -> None:
        self._nodes, self._name, self._registry = nodes, name, registry

    def __getattr__(self, what: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            if what == "attach" and self._name in self._nodes.holds:
                await self._nodes.holds[self._name].wait()
            if self._name in self._nodes.away:
                raise RegistryAway("cut off by the test")
            self._nodes.calls[self._name].append(what)
            await asyncio.sleep(CALL_SECONDS)
            return await getattr(self._registry, what)(*args)

        return call


async def nothing_to_fence(node: str, epoch: int) -> None:
    """No workers here."""
