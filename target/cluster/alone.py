"""A unit that one node alone serves: it asks nobody, until another one comes.

Rules:

1. A node that is alone says so in the registry, which lets it only if nobody else serves the unit.
   From then on its changes run at once, and are registered as reads are.
2. Who comes next is told of it, tells it (``Arrived``), and serves nothing until all that runs
   there is registered, what is in doubt too, or that node is fenced.
3. It is tried when there is something to change, once, and again when a node has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from target.cluster.host import RETRY_SECONDS, Host
from target.cluster.peers import Peers
from target.cluster.registry import Attached, RegistryAway, StaleNode


class Alone:
    """Of the unit ``lun``; ``register_all()`` returns when the registry has all that runs here."""

    def __init__(
        self, host: Host, lun: str, peers: Peers, register_all: Callable[[], Awaitable[None]]
    ) -> None:
        self.now = False
        self.arriving = False  # who was alone has not registered all yet
        self.worth_asking = True  # rule 3
        self._host = host
        self._lun = lun
        self._peers = peers
        self._register_all = register_all
        self._ended = 0  # how often it was, or might have been

    def somebody_has_gone(self) -> None:
        """Perhaps it was the last one."""
        self.worth_asking = not self.now

    async def ask(self) -> None:
        """Rule 1; ``worth_asking`` is the caller's to take back."""
        host, ended = self._host, self._ended
        try:
            alone = await host.registry.alone(self._lun, host.id, host.epoch, True)
        except RegistryAway:
            self.worth_asking = True
        except StaleNode:
            host.fenced()
        else:
            # Somebody may have come since, and have been answered.
            self.now = alone and ended == self._ended

    async def end(self) -> None:
        """Somebody has come (rule 2)."""
        host = self._host
        self.now = self.worth_asking = False
        self._ended += 1
        await self._register_all()
        with contextlib.suppress(RegistryAway):  # then whoever comes next asks without need
            await host.registry.alone(self._lun, host.id, host.epoch, False)

    async def wait_for(self, it: Attached) -> None:
        """For whoever was alone when this node came (rule 2)."""
        self.arriving = True
        try:
            while True:
                try:
                    await self._peers.look()
                    break
                except RegistryAway:
                    await asyncio.sleep(RETRY_SECONDS)
            await self._peers.until_done(it.event, it.alone)
        finally:
            self.arriving = False
