"""The gate of a unit that several nodes serve: the registry in memory, a played clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from target.cluster.lun import LunTracker
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices, Registry
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import ResetUnit, UnitEvent
from tests.simulation.world import SILENT, Request
from tests.support.skipping_loop import run_skipping

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
        self._registry = MemoryRegistry(lambda: round(loop.time() * 1000), self._deliver)
        self._nodes: dict[str, ClusterNode] = {}
        self.units: dict[str, Unit] = {}
        self.calls: dict[str, list[str]] = {}
        self.holds: dict[str, asyncio.Event] = {}  # a node's attachment waits for it

    def _deliver(self, name: str, notice: Callable[[Notices], None]) -> None:
        if name in self._nodes:
            asyncio.get_running_loop().call_soon(notice, self._nodes[name])

    async def join(self, name: str) -> ClusterNode:
        """A member that serves nothing yet."""
        loop = asyncio.get_running_loop()
        self.calls[name] = []
        node = ClusterNode(
            lambda notices: cast(Registry, _Watched(self, name, self._registry)),
            name,
            lease_seconds=5.0,
            wait_seconds=5.0,
            clock=loop.time,
            wall=loop.time,
            log=SILENT,
            on_fenced=lambda: None,
            on_stalled=lambda: None,
        )
        await node.join(0, "{}")
        self._nodes[name] = node
        node.start()
        return node

    def serve(self, name: str) -> Callable[[Request], str]:
        """Begin to serve the unit; a command's way to it, which says what became of it at once."""
        unit = self.units[name] = Unit()
        gate = unit.gate = self._nodes[name].track(LUN, unit, _nothing_to_fence)

        def enter(request: Request) -> str:
            return "runs" if gate.enter(cast(SCSIRequest, request)) else "waits"

        return enter

    def outcome(self, name: str, request: Request) -> str | None:
        return self.units[name].outcomes.get(cast(SCSIRequest, request))

    async def close(self) -> None:
        for node in self._nodes.values():
            for tracker in node.trackers.values():
                await tracker.abandon()
            for task in list(node._tasks):
                task.cancel()
            await asyncio.gather(*node._tasks, return_exceptions=True)


class _Watched:
    """The registry as one node has it."""

    def __init__(self, nodes: Nodes, name: str, registry: MemoryRegistry) -> None:
        self._nodes, self._name, self._registry = nodes, name, registry

    def __getattr__(self, what: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            if what == "attach" and self._name in self._nodes.holds:
                await self._nodes.holds[self._name].wait()
            self._nodes.calls[self._name].append(what)
            await asyncio.sleep(CALL_SECONDS)
            return await getattr(self._registry, what)(*args)

        return call


async def _nothing_to_fence(node: str, epoch: int) -> None:
    """No workers here."""


def write() -> Request:
    return Request("write", 0, 1, None, 0.0)


def test_what_came_before_the_node_counted_does_not_run_behind_a_reset() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, _ = await nodes.join("one"), await nodes.join("other")
        held = nodes.holds["other"] = asyncio.Event()
        nodes.serve("one")
        enter = nodes.serve("other")
        await one.trackers[LUN].wait_open()
        early, late = write(), write()
        assert enter(early) == "waits"
        await asyncio.sleep(0.01)
        assert await one.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3)), (
            "nobody else serves it"
        )
        held.set()
        await asyncio.sleep(0.01)
        assert nodes.outcome("other", early) == "turned away"
        assert enter(late) == "waits"
        await asyncio.sleep(0.01)
        assert nodes.outcome("other", late) == "runs"
        await nodes.close()

    run_skipping(story())


def test_the_end_of_a_command_goes_with_the_next_one() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, _ = await nodes.join("one"), await nodes.join("other")
        enter = nodes.serve("one")
        nodes.serve("other")
        gate = one.trackers[LUN]
        await gate.wait_open()
        await asyncio.sleep(0.01)
        for _ in range(10):
            request = write()
            assert enter(request) == "waits"
            await asyncio.sleep(1.5 * CALL_SECONDS)
            assert nodes.outcome("one", request) == "runs"
            gate.left(cast(SCSIRequest, request))
            await asyncio.sleep(2 * CALL_SECONDS)  # another one comes within SETTLE_SECONDS
        assert nodes.calls["one"].count("submit") == 10
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == 11, "the last end has waited for another one"
        await nodes.close()

    run_skipping(story())


async def alone(nodes: Nodes, name: str) -> Callable[[Request], str]:
    """Serves the unit, and has found out that nobody else does."""
    node = await nodes.join(name)
    enter = nodes.serve(name)
    await node.trackers[LUN].wait_open()
    first = write()
    assert enter(first) == "waits"
    await asyncio.sleep(0.01)
    assert nodes.outcome(name, first) == "runs"
    node.trackers[LUN].left(cast(SCSIRequest, first))
    await asyncio.sleep(0.1)
    return enter


def test_a_node_alone_asks_nobody() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        before = nodes.calls["one"].count("submit")
        for _ in range(1000):
            request = write()
            assert enter(request) == "runs"
            gate.left(cast(SCSIRequest, request))
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == before
        slow = write()
        assert enter(slow) == "runs"
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == before + 1, (
            "for whoever asks what is in flight"
        )
        await nodes.close()

    run_skipping(story())


def test_who_comes_waits_for_what_runs_on_a_node_that_was_alone() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        running = write()
        assert enter(running) == "runs"
        await nodes.join("other")
        enter_other = nodes.serve("other")
        second = write()
        assert enter_other(second) == "waits"
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", second) == "turned away", "it came before the node counted"
        third = write()
        assert enter_other(third) == "waits"
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", third) is None, "it overlaps what runs on the first node"
        gate.left(cast(SCSIRequest, running))
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", third) == "runs"
        assert enter(write()) == "waits", "the first node is alone no more"
        await nodes.close()

    run_skipping(story())


def test_who_is_left_is_alone_again() -> None:
    async def story() -> None:
        nodes = Nodes()
        await alone(nodes, "one")
        other = await nodes.join("other")
        nodes.serve("other")
        await asyncio.sleep(0.1)
        await other.untrack(LUN)
        await asyncio.sleep(0.01)
        gate = nodes.units["one"].gate
        assert gate is not None
        for expected in ("waits", "runs"):
            request = write()
            assert gate.enter(cast(SCSIRequest, request)) == (expected == "runs")
            await asyncio.sleep(0.1)
            gate.left(cast(SCSIRequest, request))
        await nodes.close()

    run_skipping(story())


def test_who_comes_does_not_wait_for_what_has_just_ended() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        running = write()
        assert enter(running) == "runs"
        registering = asyncio.ensure_future(gate._register_all())
        await asyncio.sleep(0)
        gate.left(cast(SCSIRequest, running))
        async with asyncio.timeout(1):
            await registering
        await nodes.close()

    run_skipping(story())
