"""Volumes that the node itself keeps in a pool of Ceph's: no worker, no gRPC in between.

Part of the composition root (``target/node.py``), in a module of its own because librados is loaded
only where it is needed.

Rules (why they are safe: docs/decisions/0014-rados-in-the-node.md):

1. Who we are at the OSDs stands in the catalog before any I/O of ours goes there.  The next life
   of this data directory shuts that client out before it sends anything itself, unless that client
   has left with nothing in flight.
2. A node that was shut out does no more I/O, and ends: whoever starts it again starts another
   client.
3. With a cache, what was answered and not flushed is here alone.  It is flushed before a volume is
   closed, and before we leave; who is shut out says how much of it is lost, and no flush succeeds
   after that.
"""

from __future__ import annotations

import asyncio
import uuid as uuids
import weakref
from collections.abc import Callable
from typing import Final

from target.block.volume import Volume
from target.config.model import RadosPlace
from target.datadir import DataDir, DataDirError, VolumeRecord
from target.logs import Log
from workers.rados_pool import RadosError
from workers.rados_shares import RadosShares
from workers.rados_store import RadosStore
from workers.read_cache import ReadCache
from workers.shares import ShareError, ShareInfo
from workers.store import IoKind, StoreIo, VolumeStore
from workers.write_behind import WriteBehind

DIRTY_MAX: Final = 3 / 4  # of a cache, as with librbd (24 of 32 MiB)


class PoolVolumes:
    """The volumes of one pool.  Make it with :meth:`connect`."""

    def __init__(
        self,
        shares: RadosShares,
        place: RadosPlace,
        data: DataDir,
        log: Log,
        on_lost: Callable[[str], None],
    ) -> None:
        self.store_id = shares.store_id
        self.name = f"rados:{place.pool}"
        self._shares = shares
        self._data = data
        self._log = log
        self._on_lost = on_lost
        self._lost = False
        self._cache_bytes = place.cache_bytes
        self._behind: weakref.WeakSet[WriteBehind] = weakref.WeakSet()
        shares.evicted = self._evicted

    @classmethod
    async def connect(
        cls, place: RadosPlace, data: DataDir, log: Log, on_lost: Callable[[str], None]
    ) -> PoolVolumes:
        """The pool, with our last life shut out.  Raises DataDirError; bounded in time."""
        try:
            shares = await RadosShares.connect(place.pool, place.conf, place.user)
        except RadosError as exc:
            raise DataDirError(str(exc)) from exc
        try:
            former = data.instance_in(shares.store_id)
            if former:
                log.info("shutting out the last life of this node", instance=former)
                await shares.evict(former)
            data.we_are(shares.store_id, shares.instance)
            await shares.load()
        except (RadosError, ShareError, OSError) as exc:
            shares.close()
            raise DataDirError(f"rados:{place.pool}: {_reason(exc)}") from exc
        return cls(shares, place, data, log, on_lost)

    async def open(
        self, name: str, record: VolumeRecord, *, read_only: bool, write_cache: bool
    ) -> Volume:
        """The volume of a record; it is made, or grown, in the pool if need be.

        Raises DataDirError.
        """
        assert record.pool is not None, "a volume in a pool"
        uuid = uuids.UUID(record.uuid)
        try:
            if not record.pool.created:
                await self._shares.create(
                    ShareInfo(
                        name, uuid.bytes, record.size_bytes, record.chunk_bytes, record.block_bytes
                    )
                )
                self._data.created_in_pool(record.pool)
            share = await self._shares.open(uuid.bytes)
            if share.info.size < record.size_bytes:
                await self._shares.resize(uuid.bytes, record.size_bytes)
        except (ShareError, OSError) as exc:
            raise DataDirError(f"volume {name}: {self.name}: {_reason(exc)}") from exc
        assert share.store is not None, "open"
        store = share.store
        if self._cache_bytes and not read_only:
            assert isinstance(store, RadosStore), "of a pool"
            store = self._cached(store, self._cache_bytes)
        return Volume(
            name,
            uuid,
            [store],
            block_bytes=record.block_bytes,
            chunk_bytes=record.chunk_bytes,
            read_only=read_only,
            write_cache=write_cache,
        )

    def _cached(self, store: RadosStore, nbytes: int) -> VolumeStore:
        """Writes are kept before it, and in the rest of ``nbytes`` what was read."""
        behind = WriteBehind(store, int(nbytes * DIRTY_MAX))
        self._behind.add(behind)
        return ReadCache(behind, lambda: nbytes - behind.kept_bytes)

    async def grow(self, record: VolumeRecord, size_bytes: int) -> None:
        """Make a volume larger in the pool.  Raises DataDirError; may be repeated."""
        try:
            await self._shares.resize(uuids.UUID(record.uuid).bytes, size_bytes)
        except (ShareError, OSError) as exc:
            raise DataDirError(f"{self.name}: {_reason(exc)}") from exc

    async def delete(self, record: VolumeRecord) -> None:
        """Mark a volume as deleted in the pool; its objects go in the background.

        Raises DataDirError; may be repeated.
        """
        try:
            await self._shares.refresh()
            await self._shares.delete(uuids.UUID(record.uuid).bytes)
        except (ShareError, OSError) as exc:
            raise DataDirError(f"{self.name}: {_reason(exc)}") from exc

    # --- the end ----------------------------------------------------------------------------------

    def _evicted(self) -> None:
        """Rule 2."""
        self._lost = True
        if lost := self.kept_bytes:
            self._log.error("writes that were answered and not flushed are lost", bytes=lost)
        # Before any I/O ends for it.
        self._on_lost(f"{self.name}: Ceph has shut this node out ({self._shares.instance})")
        self._shares.abandon()

    @property
    def kept_bytes(self) -> int:
        """What was answered and is here alone (rule 3)."""
        return sum(cache.kept_bytes for cache in self._behind)

    async def drain(self, seconds: float) -> None:
        """Put it where it belongs, within that time."""
        loop = asyncio.get_running_loop()
        flushes = []
        for cache in self._behind:
            flushed: asyncio.Future[StoreIo] = loop.create_future()
            cache.submit(StoreIo(IoKind.FLUSH, 0, 0, flushed.set_result))
            flushes.append(flushed)
        if flushes:
            await asyncio.wait(flushes, timeout=seconds)
        if left := self.kept_bytes:
            self._log.error("writes that were answered cannot be flushed", bytes=left)

    def give_up(self) -> None:
        """End what still waits for Ceph, for the node is to end."""
        if self._shares.pending:
            self._log.warning(
                "given up what Ceph has not answered", operations=self._shares.pending
            )
            self._lost = True  # it may land yet: rule 1
            self._shares.abandon()

    def close(self) -> None:
        """Leave the pool."""
        clean = not self._lost and not self._shares.pending
        self._shares.close()
        if clean:
            try:
                self._data.we_are(self.store_id, "")
            except OSError as exc:  # then the next start shuts out a client that is gone
                self._log.warning("the catalog cannot be written", reason=exc.strerror)


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
