"""Which nodes serve a unit, and up to where they have done what events say."""

from __future__ import annotations

import asyncio

from target.cluster.host import Host
from target.cluster.registry import Attachment


class Peers:
    """Those of the unit ``lun``, our own node among them, as far as is known."""

    def __init__(self, host: Host, lun: str) -> None:
        self.attached: dict[str, Attachment] = {}
        self._host = host
        self._lun = lun
        self._moved = asyncio.Event()

    async def look(self) -> None:
        """Ask the registry.  Raises RegistryAway."""
        self.attached = await self._host.registry.attached(self._lun)
        self._moved.set()

    def acknowledged(self, node: str, number: int) -> None:
        """A node has done what events up to that one say."""
        it = self.attached.get(node)
        if it is not None:
            self.attached[node] = it._replace(acknowledged=number)
            self._moved.set()

    def gone(self, node: str, epoch: int) -> None:
        """That life of a node serves the unit no more."""
        it = self.attached.get(node)
        if it is not None and it.epoch <= epoch:
            del self.attached[node]
            self._moved.set()

    def late(self, number: int) -> list[str]:
        """The others that have not done what event ``number`` says."""
        own = self._host.id
        return [n for n, it in self.attached.items() if n != own and it.acknowledged < number]

    async def until_done(self, number: int, only: str = "") -> None:
        """Wait until the others, or that one, have done what event ``number`` says, or are gone."""
        while any(
            it.acknowledged < number
            for node, it in self.attached.items()
            if (node == only if only else node != self._host.id)
        ):
            self._moved.clear()
            await self._moved.wait()
