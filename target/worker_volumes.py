"""Volumes whose chunks are on workers: the links of a node, and the volumes over them.

Part of the composition root (``target/node.py``), in a module of its own because what it imports
(gRPC) costs start-up time that a node without workers need not pay.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
import uuid as uuids
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial

from target.block.failover import Failover
from target.block.layout import Layout, MovingLayout
from target.block.placement import Placement
from target.block.remote import RemoteStore
from target.block.share_group import ShareGroup
from target.block.volume import Volume
from target.block.worker_address import WorkerAddress, WorkerTls
from target.block.worker_channel import ShareInfo, WorkerChannel
from target.block.worker_errors import NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_link import Strangers, WorkerLink
from target.config import ServeConfig
from target.config.values import parse_worker
from target.datadir import DataDir, DataDirError, VolumeRecord, WorkerPlace
from target.identity import NodeIdentity
from target.logs import Log
from target.volume_info import WorkerInfo
from target.worker_fencing import WorkerFencer, remote_stores


class WorkerVolumes:
    """The links to all workers that some volume is on."""

    def __init__(
        self,
        config: ServeConfig,
        data: DataDir,
        identity: NodeIdentity,
        log: Log,
        strangers: Strangers | None = None,
        on_fenced: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """``strangers`` and ``on_fenced``: ``worker_link.py``, rules 6 and 8."""
        self._config = config
        self._data = data
        self._identity = identity
        self._strangers = strangers
        self._on_fenced = on_fenced
        self._log = log
        self._links: dict[WorkerAddress, WorkerLink] = {}
        # Of the stores that some volume has.
        self._places: weakref.WeakKeyDictionary[RemoteStore, WorkerPlace] = (
            weakref.WeakKeyDictionary()
        )
        self._failover = Failover(log, time.monotonic)
        self._started = False
        # Of the node, not of a link: a number never means two things, wherever it is heard.
        self._sequences = itertools.count(1)

    def open(
        self, name: str, record: VolumeRecord, *, read_only: bool, moved: int | None = None
    ) -> Volume:
        """The volume; its workers need not be there yet.

        One that moves begins with its first ``moved`` chunks in their new places.
        """
        places = record.workers
        assert places, "a local volume"
        uuid = uuids.UUID(record.uuid)
        stores = self._stores_at(name, record, places, [])
        volume = Volume(
            name,
            uuid,
            stores,
            block_bytes=record.block_bytes,
            chunk_bytes=record.chunk_bytes,
            read_only=read_only,
            write_cache=self._config.write_cache,
            place=Placement(uuid, [place.key for place in places]),
            busy_when_away=self._config.worker_away == "busy",
        )
        if record.migration is not None:
            assert moved is not None, "the journal says so"
            layout = self.layout_to(volume, record, record.migration.workers)
            volume.relayout(MovingLayout(volume.layout, layout, moved))
        return volume

    def layout_to(
        self, volume: Volume, record: VolumeRecord, places: Sequence[WorkerPlace]
    ) -> Layout:
        """Where the chunks of ``volume`` are when it has moved to ``places``.

        Raises DataDirError.  Stores that the volume does not have yet are made; who does not use
        the layout closes them.
        """
        stores = self._stores_at(volume.name, record, places, remote_stores(volume))
        return Layout(stores, Placement(volume.uuid, [place.key for place in places]))

    def know_stores(self, layout: Layout, places: Sequence[WorkerPlace]) -> None:
        """Note in ``places`` which of them are of a shared store."""
        by_key = {store.info.place: store for store in remote_stores(layout)}
        for place in places:
            place.store_id = by_key[place.key].store_id or place.store_id

    def _stores_at(
        self,
        name: str,
        record: VolumeRecord,
        places: Sequence[WorkerPlace],
        there: Sequence[RemoteStore],
    ) -> list[RemoteStore]:
        """A store for each place; those that are there stay."""
        info = ShareInfo(
            name,
            uuids.UUID(record.uuid).bytes,
            record.size_bytes,
            record.chunk_bytes,
            record.block_bytes,
        )
        group = there[0].group if there else ShareGroup()
        by_key = {store.info.place: store for store in there}
        return [
            by_key.get(place.key) or self._store(name, replace(info, place=place.key), place, group)
            for place in places
        ]

    def _store(
        self, name: str, info: ShareInfo, place: WorkerPlace, group: ShareGroup
    ) -> RemoteStore:
        try:
            address = parse_worker(place.address)
        except ValueError as exc:
            raise DataDirError(f"volume {name}: {exc} (in the catalog)") from exc
        link = self._link(address)
        if place.instance:
            link.suspect(place.store_id, place.instance)
        store = RemoteStore(
            link,
            info,
            create=not place.created,
            on_created=self._keeper(name, place),
            group=group,
            store_id=place.store_id,
        )
        self._places[store] = place
        return store

    def _keeper(self, name: str, place: WorkerPlace) -> Callable[[], None]:
        def keep() -> None:
            try:
                self._data.share_created(place)
            except OSError as exc:
                raise ShareRefused(f"the catalog cannot be written: {exc.strerror}") from exc
            self._log.info("share created", volume=name, worker=place.address)

        return keep

    def _link(self, address: WorkerAddress) -> WorkerLink:
        link = self._links.get(address)
        if link is None:
            tls: WorkerTls | None = self._config.worker_tls
            checksum = self._config.worker_checksum
            link = self._links[address] = WorkerLink(
                address,
                lambda: WorkerChannel(address, tls, checksum),
                node=self._identity.id,
                epoch=self._identity.epoch,
                sequences=self._sequences,
                clock=time.monotonic,
                random=random.random,
                io_seconds=self._config.worker_timeout_seconds,
                log=self._log,
                failover=self._failover,
                checksum=checksum,
                on_instance=partial(self._worker_is, address),
                strangers=self._strangers,
                on_fenced=self._on_fenced,
            )
            if self._started:
                link.start()
        return link

    def _worker_is(self, address: WorkerAddress, store_id: str, instance: str) -> None:
        """Only what the worker serves is in its store: a share that it refuses is elsewhere."""
        served = [
            place
            for store, place in self._places.items()
            if store.link.address == address and store.is_open and store.store_id == store_id
        ]
        self._data.worker_is(served, store_id, instance)

    def infos(self, volume: Volume) -> list[WorkerInfo]:
        """How it stands with the workers of ``volume``."""
        return [
            WorkerInfo(address=str(s.link.address), served=not s.reason, reason=s.reason)
            for s in remote_stores(volume)
        ]

    async def wait_open(self, volume: Volume | Layout) -> str:
        """Wait until all workers serve ``volume``; returns why one does not, empty if all do."""
        seconds = self._config.worker_wait_seconds
        reasons = await asyncio.gather(*(s.wait_open(seconds) for s in remote_stores(volume)))
        return next(filter(None, reasons), "")

    def fencer(self, volume: Volume) -> WorkerFencer:
        """What tells the workers of ``volume`` whom to refuse."""
        return WorkerFencer(volume, self._log)

    def know_whether_sole(self, volume: Volume, sole: Callable[[], bool]) -> None:
        """``sole()``: whether no other node serves ``volume`` now."""
        remote_stores(volume)[0].group.sole = sole

    def doubts(self, volume: Volume) -> Callable[[int, int, Callable[[], None]], bool]:
        """A function of (LBA, blocks, done): whether writes to them are in doubt now, and then
        ``done()`` when that is over.  Zero blocks stand for all.
        """
        group = remote_stores(volume)[0].group

        def after_doubts(lba: int, blocks: int, done: Callable[[], None]) -> bool:
            start = lba * volume.block_bytes
            end = start + blocks * volume.block_bytes if blocks else volume.size
            return group.after_doubts(start if blocks else 0, end, done)

        return after_doubts

    async def grow(self, volume: Volume, size: int) -> None:
        """Make all shares of ``volume`` larger.

        Raises WorkerGone or ShareRefused; those that are larger by then do no harm.
        """
        for store in remote_stores(volume):
            try:
                await store.grow(size)
            except WorkerGone as exc:
                raise WorkerGone(f"worker {store.link.address}: {exc}") from exc

    async def delete(self, record: VolumeRecord, told: Callable[[int], None]) -> None:
        """Delete the shares of a volume; ``told`` of how many are gone.  May be repeated.

        Raises WorkerGone or ShareRefused, when all others have been asked as well.
        """
        done = 0
        problem: WorkerGone | ShareRefused | None = None
        for place in record.places:
            try:
                async with self._channel(place) as channel:
                    with contextlib.suppress(NoSuchShare):
                        await channel.delete_volume(uuids.UUID(record.uuid).bytes)
            except (WorkerGone, ShareRefused) as exc:
                problem = exc
            else:
                done += 1
                told(done)
        if problem is not None:
            raise problem

    async def store_id_at(self, place: WorkerPlace) -> str:
        """The shared store that the worker of ``place`` has now; empty: it has a local one.

        Raises WorkerGone or ShareRefused.
        """
        async with self._channel(place) as channel:
            return await channel.store_id()

    async def delete_retired(self, record: VolumeRecord, place: WorkerPlace, store_id: str) -> None:
        """Delete what the volume, which is in use elsewhere, has left at ``place``.

        The worker refuses if it is another one by now than the one that said ``store_id``, or has
        another place of the volume.  Raises WorkerGone or ShareRefused.
        """
        async with self._channel(place) as channel:
            with contextlib.suppress(NoSuchShare):  # it was never made, or is gone
                await channel.delete_volume(uuids.UUID(record.uuid).bytes, place.key, store_id)

    @contextlib.asynccontextmanager
    async def _channel(self, place: WorkerPlace) -> AsyncIterator[WorkerChannel]:
        """For a few control calls; raises WorkerGone and ShareRefused that name the worker."""
        channel = WorkerChannel(parse_worker(place.address), self._config.worker_tls)
        try:
            yield channel
        except (WorkerGone, ShareRefused) as exc:
            raise type(exc)(f"worker {place.address}: {exc}") from exc
        finally:
            await channel.close()

    @property
    def links(self) -> list[WorkerLink]:
        """To each worker that some volume is on."""
        return list(self._links.values())

    @property
    def evictions(self) -> int:
        """Processes of workers that this node has shut out of a shared store."""
        return self._failover.evictions.count

    def begin(self) -> None:
        """Connect to all that there are, and at once to those that come."""
        self._started = True
        for link in self._links.values():
            link.start()
        self._failover.start()

    async def start(self) -> None:
        """Connect; wait for workers that are slow, but serve without one that is away."""
        self.begin()
        seconds = self._config.worker_wait_seconds
        links = list(self._links.values())
        served = await asyncio.gather(*(link.wait_served(seconds) for link in links))
        for link, is_served in zip(links, served, strict=True):
            if not is_served:
                self._log.warning(
                    "started without a worker", worker=str(link.address), reason=link.reason
                )

    async def close(self) -> None:
        """Hang up.  Nothing may be in flight."""
        await self._failover.close()
        for link in self._links.values():
            await link.close()
