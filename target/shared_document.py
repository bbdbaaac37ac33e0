"""What nodes keep together of a logical unit (reservations, settings): documents of their registry.

One state for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from target.block.volume import VolumeBusy
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.scsi.documents import DocumentStore, Kept
from workers.store import StoreStatus

T = TypeVar("T")


class SharedDocument(DocumentStore):
    """The document ``key`` of the unit ``lun``, as Redis keeps what it has."""

    lasting = False

    def __init__(self, node: ClusterNode, lun: str, key: str) -> None:
        self.lun = lun
        self._node = node
        self._key = key
        self._calls: set[asyncio.Task[None]] = set()

    async def kept(self) -> Kept:
        """What is kept now.  Raises RegistryAway."""
        return Kept(*await self._node.registry.load(self.lun, self._key))

    async def put(self, version: int, document: bytes, becomes: int = 0) -> bool:
        """Replace that version, by ``becomes``.  Raises RegistryAway or StaleNode."""
        node = self._node
        return await node.registry.replace(
            self.lun, node.id, node.epoch, self._key, version, document, becomes
        )

    def load(self, done: Callable[[Kept | Exception], None]) -> None:
        self._call(self.kept, done)

    def replace(
        self, version: int, document: bytes, done: Callable[[bool | Exception], None]
    ) -> None:
        self._call(lambda: self.put(version, document), done)

    def _call(self, ask: Callable[[], Awaitable[T]], done: Callable[[T | Exception], None]) -> None:
        self.spawn(self._answer(ask, done))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Have it done."""
        task = asyncio.ensure_future(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _answer(
        self, ask: Callable[[], Awaitable[T]], done: Callable[[T | Exception], None]
    ) -> None:
        outcome: T | Exception
        try:
            async with asyncio.timeout(self._node.wait_seconds):
                await self._node.until_leased()
                outcome = await ask()
        except (RegistryAway, TimeoutError):
            outcome = VolumeBusy(StoreStatus.UNAVAILABLE)
        except StaleNode:
            self._node.fenced()
            outcome = VolumeBusy(StoreStatus.UNAVAILABLE)
        done(outcome)
