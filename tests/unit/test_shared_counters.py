"""Each node knows the counters of all: the registry in memory, time that is skipped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway
from target.node_counters import ClassStats, NodeCounters, PoolInfo
from target.scsi.stats import BUCKETS
from target.shared_counters import (
    KEPT_SECONDS,
    PACE_SECONDS,
    READ_REST,
    REST,
    SharedCounters,
)
from tests.support.cluster_nodes import cluster_node
from tests.support.skipping_loop import run_skipping


class Life:
    """A life of a node, and what it counts."""

    def __init__(self, node: ClusterNode, shared: SharedCounters) -> None:
        self.node = node
        self.shared = shared
        self.reads = 0
        self.buckets = BUCKETS
        self.sum_seconds = 0.0  # how long it takes to sum up
        self.sums = 0

    async def own(self, every_seconds: float) -> NodeCounters:
        self.sums += 1
        await asyncio.sleep(self.sum_seconds)
        reads = ClassStats(buckets=[self.reads] * self.buckets, bytes=0, seconds=0.0)
        loop = asyncio.get_running_loop()
        return NodeCounters(
            node=self.node.id,
            epoch=self.node.epoch,
            clock_seconds=loop.time(),
            every_seconds=every_seconds,
            cpu_seconds=loop.time(),
            classes={"read": reads},
            failures=0,
            aborted=0,
            luns=1,
            tasks=0,
            sessions=0,
            connections=0,
            pool=PoolInfo(
                total_bytes=1,
                used_bytes=0,
                reserved_bytes=0,
                reserve_limit_bytes=0,
                shares=0,
                share_limit_bytes=0,
                waiting=0,
            ),
            workers=[],
            workers_total=0,
        )

    async def seen(self) -> tuple[list[tuple[str, int]], list[str]]:
        """Whose reads this node knows, after a while, and of whom nothing."""
        await asyncio.sleep(3 * PACE_SECONDS)
        told, missing = await self.shared.others()
        return [(it.node, it.classes["read"].buckets[0]) for it in told], missing


class World:
    """Nodes with one registry, which counts what is written of counters."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.registry = MemoryRegistry(lambda: round(loop.time() * 1000), lambda name, notice: None)
        self.lives: list[Life] = []
        self.written: list[NodeCounters] = []
        self.away = False
        self.deaf = False  # a call swallows the cancellation of who has asked, as redis-py may
        self.read_seconds = 0.0  # how long it takes to read
        self.reads = 0
        self._replace, self._members = self.registry.replace, self.registry.members
        self.registry.replace = self._write  # type: ignore[method-assign,assignment]
        self.registry.members = self._list  # type: ignore[method-assign]

    async def _write(self, lun: str, *call: Any) -> bool:
        if self.away:
            raise RegistryAway("away")
        if self.deaf:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3 * PACE_SECONDS)
        done = await self._replace(lun, *call)
        if done and lun.startswith("counters."):
            self.written.append(msgspec.json.decode(call[4], type=NodeCounters))
        return done

    async def _list(self) -> Any:
        if self.away:
            raise RegistryAway("away")
        self.reads += 1
        await asyncio.sleep(self.read_seconds)
        return await self._members()

    async def life(self, name: str) -> Life:
        loop = asyncio.get_running_loop()
        node = cluster_node(self.registry, name)
        await node.join(0, "{}")
        node.start()
        life = Life(node, SharedCounters(node, loop.time))
        life.shared.start(life.own)
        self.lives.append(life)
        return life

    async def end(self) -> None:
        for life in self.lives:
            await life.shared.close()
            await life.node.stop()


def told(story: Callable[[World], Any]) -> None:
    async def run() -> None:
        world = World()
        try:
            await story(world)
        finally:
            await world.end()

    run_skipping(run())


def test_what_each_has_counted_is_known_to_all() -> None:
    async def story(world: World) -> None:
        one, two, three = [await world.life(name) for name in ("one", "two", "three")]
        two.reads, three.reads = 2, 3
        assert await one.seen() == ([("three", 3), ("two", 2)], [])
        three.reads = 4
        assert await two.seen() == ([("one", 0), ("three", 4)], [])

    told(story)


def test_a_node_ends_whose_cancellation_was_swallowed() -> None:
    async def story(world: World) -> None:
        one, _ = [await world.life(name) for name in ("one", "two")]
        world.deaf = True
        await asyncio.sleep(2 * PACE_SECONDS)
        async with asyncio.timeout(PACE_SECONDS):
            await one.shared.close()

    told(story)


def test_who_is_idle_or_alone_writes_nothing() -> None:
    async def story(world: World) -> None:
        one = await world.life("one")
        one.reads = 5
        assert await one.seen() == ([], [])
        assert world.written == []
        assert one.sums == 0
        two = await world.life("two")
        await two.seen()
        assert sorted(it.node for it in world.written) == ["one", "two"]
        await asyncio.sleep(20 * PACE_SECONDS)  # only the clock goes on
        assert len(world.written) == 2
        two.reads = 6
        await two.seen()
        assert [(it.node, it.epoch) for it in world.written[2:]] == [("two", two.node.epoch)]

    told(story)


def test_what_takes_long_is_done_rarely() -> None:
    async def story(world: World) -> None:
        one = await world.life("one")
        await world.life("two")
        one.sum_seconds = 0.5
        await asyncio.sleep(PACE_SECONDS + 1)
        sums, one.reads = one.sums, 1
        assert sums == 1
        await asyncio.sleep(10 * REST * one.sum_seconds)
        assert 9 <= one.sums - sums <= 10
        last = [it for it in world.written if it.node == "one"][-1]
        assert last.every_seconds == pytest.approx(REST * one.sum_seconds)

    told(story)


def test_what_is_not_known_is_named() -> None:
    async def story(world: World) -> None:
        one, two, three = [await world.life(name) for name in ("one", "two", "three")]
        three.buckets -= 1  # of another version
        assert await one.seen() == ([("two", 0)], ["three"])
        world.away = True
        await asyncio.sleep(KEPT_SECONDS)
        assert await one.shared.others() == ([], ["three", "two"])
        two.reads = 1
        await asyncio.sleep(PACE_SECONDS)
        world.away = False
        assert await one.seen() == ([("two", 1)], ["three"])
        await world.life("two")  # of the new life nothing is known yet
        await asyncio.sleep(KEPT_SECONDS)
        assert await one.shared.others() == ([], ["three", "two"])

    told(story)


def test_however_many_ask_it_is_read_once() -> None:
    async def story(world: World) -> None:
        one, two = [await world.life(name) for name in ("one", "two")]
        two.reads = 1
        await one.seen()

        async def reads_of(seconds: float) -> int:
            """While three ask all the time."""
            before, loop = world.reads, asyncio.get_running_loop()
            end = loop.time() + seconds
            while loop.time() < end:
                found = await asyncio.gather(*(one.shared.others() for _ in range(3)))
                assert all(names == [] and told[0].node == "two" for told, names in found)
                await asyncio.sleep(0.1)
            return world.reads - before

        assert 9 <= await reads_of(10 * KEPT_SECONDS) <= 11
        world.read_seconds = 1.0
        assert 9 <= await reads_of(10 * (READ_REST + 1)) <= 11

    told(story)
