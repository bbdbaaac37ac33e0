"""Volumes whose chunks are on workers: the links of a node, and the volumes over them.

Part of the composition root (``target/node.py``), in a module of its own because what it imports
(gRPC) costs start-up time that a node without workers need not pay.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid as uuids
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from target.block.failover import Failover
from target.block.layout import Layout, MovingLayout
from target.block.placement import Placement
from target.block.remote import RemoteStore
from target.block.share_group import ShareGroup
from target.block.volume import Volume
from target.block.worker_address import WorkerAddress, WorkerTls
from target.block.worker_channel import ShareInfo, WorkerChannel
from target.block.worker_errors import NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_link import WorkerLink
from target.config import ServeConfig
from target.config.values import parse_worker
from target.datadir import DataDir, DataDirError, VolumeRecord, WorkerPlace
from target.identity import NodeIdentity
from target.logs import Log
from target.volume_info import WorkerInfo

FENCE_RETRY_SECONDS: Final = 0.2


class WorkerVolumes:
    """The links to all workers that some volume is on."""

    def __init__(
        self, config: ServeConfig, data: DataDir, identity: NodeIdentity, log: Log
    ) -> None:
        self._config = config
        self._data = data
        self._identity = identity
        self._log = log
        self._links: dict[WorkerAddress, WorkerLink] = {}
        self._places: dict[WorkerAddress, list[WorkerPlace]] = {}
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
        stores = self._stores_at(volume.name, record, places, _stores(volume))
        return Layout(stores, Placement(volume.uuid, [place.key for place in places]))

    def know_stores(self, layout: Layout, places: Sequence[WorkerPlace]) -> None:
        """Note in ``places`` which of them are of a shared store."""
        by_key = {store.info.place: store for store in _stores(layout)}
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
        self._places[address].append(place)
        if place.instance:
            link.suspect(place.store_id, place.instance)
        return RemoteStore(
            link,
            info,
            create=not place.created,
            on_created=self._keeper(name, place),
            group=group,
            store_id=place.store_id,
        )

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
            places = self._places[address] = []
            link = self._links[address] = WorkerLink(
                address,
                lambda: WorkerChannel(address, tls),
                node=self._identity.id,
                epoch=self._identity.epoch,
                sequences=self._sequences,
                clock=time.monotonic,
                random=random.random,
                io_seconds=self._config.worker_timeout_seconds,
                log=self._log,
                failover=self._failover,
                checksum=self._config.worker_checksum,
                on_instance=partial(self._data.worker_is, places),
            )
            if self._started:
                link.start()
        return link

    def infos(self, volume: Volume) -> list[WorkerInfo]:
        """How it stands with the workers of ``volume``."""
        return [
            WorkerInfo(address=str(s.link.address), served=not s.reason, reason=s.reason)
            for s in _stores(volume)
        ]

    async def wait_open(self, volume: Volume | Layout) -> str:
        """Wait until all workers serve ``volume``; returns why one does not, empty if all do."""
        seconds = self._config.worker_wait_seconds
        reasons = await asyncio.gather(*(s.wait_open(seconds) for s in _stores(volume)))
        return next(filter(None, reasons), "")

    def fencer(self, volume: Volume) -> Callable[[str, int], Awaitable[None]]:
        """A function of (node, epoch) that returns when all workers of ``volume`` refuse it."""

        async def at_one(store: RemoteStore, node: str, epoch: int) -> None:
            while True:
                try:
                    await store.link.fence(node, epoch)
                    return
                except (WorkerGone, ShareRefused) as exc:
                    self._log.debug(
                        "not fenced yet", worker=str(store.link.address), reason=str(exc)
                    )
                await asyncio.sleep(FENCE_RETRY_SECONDS)

        async def fence(node: str, epoch: int) -> None:
            await asyncio.gather(*(at_one(store, node, epoch) for store in _stores(volume)))

        return fence

    async def grow(self, volume: Volume, size: int) -> None:
        """Make all shares of ``volume`` larger.

        Raises WorkerGone or ShareRefused; those that are larger by then do no harm.
        """
        for store in _stores(volume):
            try:
                await store.grow(size)
            except WorkerGone as exc:
                raise WorkerGone(f"worker {store.link.address}: {exc}") from exc

    async def delete(self, record: VolumeRecord) -> None:
        """Delete the shares of a volume.  Raises WorkerGone or ShareRefused; may be repeated."""
        for place in record.places:
            await self.delete_share(record, place)

    async def delete_share(
        self, record: VolumeRecord, place: WorkerPlace, *, left: bool = False
    ) -> None:
        """Delete the share of a volume on one worker.  Raises WorkerGone or ShareRefused.

        ``left``: the volume itself is in use elsewhere, so the worker must have the very store that
        ``place`` says: what it shares with others would be the volume's data.
        """
        channel = WorkerChannel(parse_worker(place.address), self._config.worker_tls)
        try:
            if left and await channel.store_id() != place.store_id:
                raise ShareRefused(
                    f"worker {place.address} does not have the store that is known of it: nothing "
                    "is deleted there, for a shared store may hold the volume itself"
                )
            await channel.delete_volume(uuids.UUID(record.uuid).bytes)
        except NoSuchShare:
            pass  # it was never made, or is gone
        except WorkerGone as exc:
            raise WorkerGone(f"worker {place.address}: {exc}") from exc
        finally:
            await channel.close()
        for places in self._places.values():
            if place in places:
                places.remove(place)

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


def _stores(volume: Volume | Layout) -> list[RemoteStore]:
    stores = [store for store in volume.stores if isinstance(store, RemoteStore)]
    assert len(stores) == len(volume.stores), "a volume on workers"
    return stores
