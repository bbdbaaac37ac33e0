"""The events of one unit: what every node that serves it has to do, told and done.

Rules:

1. Events are done in the order of their numbers, and acknowledged when they have been.
2. Where they end commands, that is acknowledged only when none of those may still happen: their
   writes may be in doubt (``target/block/worker_queue.py``).  If that takes longer than
   ``wait_seconds``, the node says that it is not sure, and acknowledges then.
3. A node that does not understand an event never says that it has done it: that life of it is
   over, and the next one begins with what is kept then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from target.cluster.host import RETRY_SECONDS, AfterDoubts, Host, Unit
from target.cluster.peers import Peers
from target.cluster.registry import Event, RegistryAway, StaleNode
from target.scsi.unit_events import (
    Arrived,
    NotSure,
    UnitEvent,
    decode_event,
    encode_event,
    ends_commands,
)


class Telling:
    """The events of the unit ``lun`` on this node."""

    def __init__(
        self,
        host: Host,
        lun: str,
        unit: Unit,
        peers: Peers,
        after_doubts: AfterDoubts | None,
        somebody_came: Callable[[], Awaitable[None]],
    ) -> None:
        self.under_way = 0  # events that others may not have done yet
        self.begun = asyncio.Event()  # the registry counts this node: it may say something there
        self._host = host
        self._lun = lun
        self._unit = unit
        self._peers = peers
        self._after_doubts = after_doubts
        self._somebody_came = somebody_came
        self._heard = 0  # the last event that has been taken up
        self._events: deque[Event] = deque()
        self._came = asyncio.Event()
        self._unsure: set[int] = set()  # events of ours (rule 2)

    def begin_after(self, number: int) -> None:
        """Events up to that one concern those who were there before."""
        self._heard = number
        self.begun.set()

    # --- what this node tells ---------------------------------------------------------------------

    async def announce(self, event: UnitEvent) -> bool:
        """Whether all other nodes have done ``event``, or are none any more.

        False as well if one is not sure (rule 2).
        """
        host = self._host
        self.under_way += 1
        try:
            async with asyncio.timeout(host.tell_seconds):
                number = await self.post(event)
                await self._peers.look()
                await self._peers.until_done(number)
                if ends_commands(event):
                    await self.catch_up()  # whoever is not sure has said so before
            return number not in self._unsure
        except (RegistryAway, TimeoutError):
            return False
        except StaleNode:
            host.fenced()
            return False
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._unsure.clear()

    async def post(self, event: UnitEvent) -> int:
        """Tell it, and wait for nobody; its number.  Raises RegistryAway or StaleNode."""
        host, payload = self._host, encode_event(event)
        await self.begun.wait()
        await host.until_leased()
        while True:
            number = await host.registry.post(self._lun, host.id, host.epoch, payload)
            if number:
                return number
            await asyncio.sleep(RETRY_SECONDS)  # a node has not been heard, or fenced

    async def late(self, number: int) -> list[str]:
        """The others that have not done what event ``number`` says within ``tell_seconds``.

        Raises RegistryAway.
        """
        self.under_way += 1
        try:
            async with asyncio.timeout(self._host.tell_seconds):
                await self._peers.look()
                await self._peers.until_done(number)
        except TimeoutError:
            pass
        finally:
            self.under_way -= 1
        return self._peers.late(number)

    # --- what this node is told -------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Ask for events that were missed.  Raises RegistryAway or StaleNode."""
        host = self._host
        for event in await host.registry.events(self._lun, host.id, host.epoch, self._heard):
            self.happened(event)

    def happened(self, event: Event) -> bool:
        """An event; False: it does not follow the last one, so some were missed."""
        if event.number != self._heard + 1:
            return event.number <= self._heard
        self._heard = event.number
        self._events.append(event)
        self._came.set()
        with contextlib.suppress(ValueError):
            what = decode_event(event.payload)
            if isinstance(what, NotSure) and what.node == self._host.id:
                self._unsure.add(what.number)
        return True

    async def run(self) -> None:
        """Do what events say, for as long as this node lives."""
        host = self._host
        try:
            while True:
                while not self._events:
                    self._came.clear()
                    await self._came.wait()
                event = self._events[0]
                if event.node != host.id:
                    await self._do(event)
                number = event.number
                await self._retried(
                    partial(host.registry.acknowledge, self._lun, host.id, host.epoch, number)
                )
                self._events.popleft()
        except StaleNode:
            host.fenced()

    async def _do(self, event: Event) -> None:
        host = self._host
        try:
            what = decode_event(event.payload)
        except ValueError as exc:  # rule 3
            host.log.error("event not understood", node=event.node, lun=self._lun, reason=str(exc))
            raise StaleNode("an event was not understood") from exc
        if isinstance(what, Arrived):
            await self._somebody_came()
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unit.happened(what, lambda: None if done.done() else done.set_result(None))
        await done
        if ends_commands(what) and not await self.quiet():
            host.log.warning("ended commands may still happen", lun=self._lun)
            await self._retried(partial(self.post, NotSure(event.node, event.number)))

    async def _retried(self, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await call()
                return
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)

    # --- doubts -----------------------------------------------------------------------------------

    async def quiet(self) -> bool:
        """Whether writes that are in doubt now are so no more within ``wait_seconds``."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        doubts = self._after_doubts
        if doubts is None or not doubts(
            0, 0, lambda: None if over.done() else over.set_result(None)
        ):
            return True
        try:
            async with asyncio.timeout(self._host.wait_seconds):
                await over
        except TimeoutError:
            return False
        return True
