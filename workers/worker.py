"""What the services of one worker have in common."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from workers.buffers import BufferMemory
from workers.busy_poll import BusyPoll
from workers.executor import PARTS
from workers.fences import Fences
from workers.nodes import End, Nodes
from workers.scheduler import Scheduler
from workers.shares import Share, ShareError, ShareFault, Shares
from workers.stats import WorkerStats
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore

DRAIN_POLL_SECONDS: Final = 0.01
CHANGE_SECONDS: Final = 5.0  # for a change to a share, at the end
REJOIN_SECONDS: Final = (0.1, 5.0)  # between attempts: at first, at most; doubled in between


class Worker:
    """Shares, nodes, what runs, and the bounds of all that."""

    def __init__(
        self,
        shares: Shares,
        *,
        buffer_memory_bytes: int,
        io_threads: int,
        version: str = "",
        checksum: bool = True,
        poll: BusyPoll | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.log = structlog.get_logger()
        self.name = _new_name()
        self.version = version
        self.checksum = checksum
        self.poll = poll if poll is not None else BusyPoll(0.0)
        self.stats = WorkerStats()
        self.shares = shares
        self.fences = Fences(shares.save_fences)
        self.nodes = Nodes(self.fences)
        self.memory = BufferMemory(buffer_memory_bytes)
        slots = shares.slots or PARTS * io_threads  # as many as threads: disk_threads
        self.scheduler = Scheduler(slots, self.loop)
        self.draining = False
        self._rejoining: asyncio.Task[None] | None = None
        self.refusing_changed: Callable[[], None] = lambda: None
        shares.gone = self.nodes.forget_volume
        shares.evicted = self._evicted

    async def load(self) -> None:
        """Fences first: nothing is served before what must not be served is known."""
        self.fences.load(await self.shares.load_fences())
        if not self.shares.shared:
            try:
                await self.fences.make_room()
            except OSError as exc:
                self.log.warning("a fence may not be kept", reason=str(exc))
        for warning in await self.shares.load():
            self.log.warning(warning)

    @property
    def refusing(self) -> str:
        """Why nothing new is served; empty: it is."""
        if self.draining:
            return "the worker is draining"
        if self._rejoining is not None:
            return "the worker has been shut out of its store, and rejoins"
        return ""

    @property
    def running(self) -> int:
        """I/Os that run or wait."""
        return sum(node.running for node in self.nodes.all()) + self.scheduler.waiting

    async def delete(self, uuid: bytes, place: str = "", store_id: str | None = None) -> None:
        """Remove a share: first nothing of it may run.

        Raises OSError, and ShareError for a share that is of another ``place``, or would be in
        another store than ``store_id`` (worker.proto, DeleteVolumeRequest).
        """
        if store_id not in (None, self.shares.store_id):
            detail = f"this worker has store {self.shares.store_id or self.shares.kind}"
            raise ShareError(ShareFault.UNUSABLE, detail)
        await self.shares.refresh()
        try:
            share = self.shares.get(uuid)
        except ShareError:
            self.shares.bury(uuid, place)
            return  # gone already
        if place and share.info.place not in ("", place):  # empty: shared, or made before places
            detail = f"this is another part of volume {share.info.name}: are addresses mixed up?"
            raise ShareError(ShareFault.UNUSABLE, detail)
        self.shares.bury(uuid, place)
        share.deleting = True
        await share.unused()
        self.nodes.forget_volume(share)
        await self.shares.delete(uuid)

    async def drain(self) -> tuple[StoreStatus, str]:
        """Begin nothing new, finish what there is, make it durable.  May be called again."""
        self.draining = True
        while self.running:
            for node in self.nodes.all():
                await node.idle()
            await asyncio.sleep(0)  # what waited for a place begins
            if self.scheduler.waiting:
                await asyncio.sleep(DRAIN_POLL_SECONDS)
        return await self._flush(self.nodes.open_shares())

    async def _flush(self, shares: Iterable[Share]) -> tuple[StoreStatus, str]:
        """All of ``shares`` to stable storage; the first that fails, if any."""
        outcome = StoreStatus.OK, ""
        for share in shares:
            if share.store is None:
                continue
            io = await self._flush_one(share.store)
            if io.status is not StoreStatus.OK:
                if not share.sync_lost():
                    self.log.error("cannot keep that a flush failed", volume=share.info.name)
                self.log.error("flush failed", volume=share.info.name, reason=io.detail)
                outcome = io.status, f"{share.info.name}: {io.detail or io.status.value}"
        return outcome

    async def _flush_one(self, store: VolumeStore) -> StoreIo:
        ended = asyncio.Event()

        def done(_: StoreIo) -> None:
            ended.set()

        io = StoreIo(IoKind.FLUSH, 0, store.size, done)
        store.submit(io)
        await ended.wait()
        return io

    # --- shut out at the engine of a shared store (worker.proto, rule 10) -------------------------

    def _evicted(self) -> None:
        """Before anything that failed for this is answered: what was answered must be known."""
        if self._rejoining is None:
            self.stats.evictions += 1
            self.log.error(
                "evicted: the store serves this process no more", me=self.shares.instance
            )
            for node in self.nodes.all():
                node.end_stream(End.EVICTED)
            self._rejoining = asyncio.ensure_future(self._rejoin())
            self.refusing_changed()

    async def _rejoin(self) -> None:
        """Come back as after a restart: nothing that was received before is sent again."""
        self.shares.abandon()
        for node in self.nodes.all():
            await node.idle()
        self.nodes.forget_all()
        self.name = _new_name()
        delay, most = REJOIN_SECONDS
        while True:
            try:
                await self.shares.rejoin()
                await self.load()
                break
            except Exception as exc:  # whatever it is, the worker is of no use without its store
                self.log.warning("cannot rejoin yet", reason=str(exc))
                self.shares.abandon()
            await asyncio.sleep(delay)
            delay = min(2 * delay, most)
        self._rejoining = None
        self.refusing_changed()
        self.log.warning("rejoined", me=self.shares.instance, worker=self.name)

    async def stop(self) -> None:
        """End the streams, wait for what the stores still do, close them."""
        self.draining = True
        if self._rejoining is not None:
            self._rejoining.cancel()
        for node in self.nodes.all():
            node.end_stream(End.STOPPING)
        if self.shares.shared:
            self.shares.abandon()  # an engine that does not answer would keep us for ever
        for node in self.nodes.all():
            await node.idle()
        await self.shares.settle(CHANGE_SECONDS)
        self.scheduler.close()
        self.shares.close()


def _new_name() -> str:
    """Another after each start: who hears another one knows that the worker has forgotten its
    handles, and what it remembered of compare-and-writes.
    """
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
