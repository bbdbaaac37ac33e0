"""The counters of all nodes: each writes down its own, where the others can read them.

Rules:

1. A node writes every ``PACE_SECONDS`` at most, and only if something has happened since: what is
   idle, or the only member, writes nothing.
2. To sum up thousands of logical units takes time: at most 1 / ``REST`` of all is for that.
3. However many ask for those of the others, they are read once in ``KEPT_SECONDS``; where there are
   thousands, so rarely that it takes 1 / ``READ_REST`` of the time at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from target.cluster.ending import ended
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.node_counters import NodeCounters
from target.node_documents import NodeDocuments
from target.scsi.stats import BUCKETS

PACE_SECONDS: Final = 2.0
REST: Final = 100
KEPT_SECONDS: Final = 1.0
READ_REST: Final = 10

Others = tuple[list[NodeCounters], list[str]]
Sum = Callable[[float], Awaitable[NodeCounters]]
"""Given ``every_seconds``."""


class SharedCounters:
    """Those of ``node``, as ``start`` is told how to sum them up, and of the others."""

    def __init__(self, node: ClusterNode, clock: Callable[[], float]) -> None:
        self._node = node
        self._clock = clock
        self._documents = NodeDocuments(node, "counters", "counters", NodeCounters)
        self._writing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Others] | None = None  # under way, or the last one
        self._kept_until = 0.0

    def start(self, own: Sum) -> None:
        """Write from now on."""
        self._writing = asyncio.ensure_future(self._write_all(own))

    async def _write_all(self, own: Sum) -> None:
        written: NodeCounters | None = None
        pace = PACE_SECONDS
        try:
            while True:
                await asyncio.sleep(pace)
                if len(self._node.members) < 2:
                    continue
                began = self._clock()
                counters = await own(pace)
                pace = max(PACE_SECONDS, REST * (self._clock() - began))
                if written is not None and _same(counters, written):
                    continue
                try:
                    await self._documents.write(counters)
                    written = counters
                except RegistryAway:
                    pass  # what is newer by then is written in its place
        except StaleNode:
            self._node.fenced()

    async def others(self) -> Others:
        """Those of the other nodes, and of which nodes they are not known (rule 3)."""
        reading = self._reading
        if reading is None or (reading.done() and self._clock() >= self._kept_until):
            reading = self._reading = asyncio.ensure_future(self._read())
        return await asyncio.shield(reading)

    async def _read(self) -> Others:
        began = self._clock()
        try:
            return await self._look()
        finally:
            now = self._clock()
            self._kept_until = now + max(KEPT_SECONDS, READ_REST * (now - began))

    async def _look(self) -> Others:
        try:
            found = await self._documents.others()
        except RegistryAway:
            return [], sorted(it for it in self._node.members if it != self._node.id)
        told = [it for _, it in found if it is not None and _fits(it)]
        names = {it.node for it in told}
        return told, [name for name, _ in found if name not in names]

    async def close(self) -> None:
        """The node ends."""
        await ended(self._writing, self._reading)
        await self._documents.close()


def _same(one: NodeCounters, other: NodeCounters) -> bool:
    """But for the time, which goes on by itself."""
    still = msgspec.structs.replace(
        one,
        clock_seconds=other.clock_seconds,
        cpu_seconds=other.cpu_seconds,
        every_seconds=other.every_seconds,
    )
    return still == other


def _fits(counters: NodeCounters) -> bool:
    """Another version may have other buckets."""
    return all(len(it.buckets) == BUCKETS for it in counters.classes.values())
