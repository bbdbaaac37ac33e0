"""What Redis keeps of the units of a node, and how much memory it takes: asked now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from target.cluster.ending import ended
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, Sizes

MEASURE_SECONDS: Final = 10.0


class Footprint:
    """Of ``node``; ``memory_bytes()`` is of all that Redis has, None where it does not say."""

    def __init__(
        self, node: ClusterNode, memory_bytes: Callable[[], Awaitable[int | None]]
    ) -> None:
        self.entries = Sizes(0, 0, 0, 0)  # of all its units together
        self.memory_bytes: int | None = None
        self._node = node
        self._ask_memory = memory_bytes
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask from now on."""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self.memory_bytes = await self._ask_memory()
            with contextlib.suppress(RegistryAway):
                await self._measure()
            await asyncio.sleep(MEASURE_SECONDS)

    async def _measure(self) -> None:
        entries = Sizes(0, 0, 0, 0)
        for lun in self._node.trackers:
            sizes = await self._node.registry.sizes(lun)
            entries = Sizes(*(one + more for one, more in zip(entries, sizes, strict=True)))
        self.entries = entries

    async def stop(self) -> None:
        """Ask no more."""
        await ended(self._task)
