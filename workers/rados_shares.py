"""Shares of volumes in a Ceph pool: one catalog for all workers of the pool.

    lunmesh.volumes                   which volumes there are, JSON
    lunmesh.fences                    the epochs that are refused (workers/fences.py)
    lunmesh.<UUID>.<chunk number>     their bytes (workers/rados_store.py)

Rules:

1. Both records are replaced as a whole, and only if they are what the change was made from: of two
   workers that change one at a time, the second begins again with what the first has written.
2. What another worker has made, resized or deleted is seen here whenever a volume is opened,
   created or listed.  Before that, the client's view of the cluster is brought up to date: a worker
   that was shut out notices, and one that opens after an eviction is behind it
   (docs/decisions/0011-fencing-at-rados.md).
3. A deletion is answered when the volume is marked in the catalog.  Its objects are removed in the
   background, then its entry; a worker that starts goes on with what it finds marked.
4. All that belongs to one client ends with it.  ``rejoin`` begins anew with another one: no share,
   no store and no I/O of before is used with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import structlog

from workers.fences import merge_fences
from workers.rados_catalog import (
    VOLUMES,
    Volume,
    decode_catalog,
    encode_catalog,
    info_of,
    same_volume,
    volume_of,
)
from workers.rados_client import RadosClient
from workers.rados_pool import RadosError
from workers.rados_store import MISCOMPARE, PREFIX, RadosStore, object_prefix
from workers.shares import Share, ShareError, ShareFault, ShareInfo, Shares, Wrap
from workers.store import VolumeStore

FENCES: Final = f"{PREFIX}fences"
RECORD_BYTES_MAX: Final = 16 << 20  # 16384 volumes are 5 MiB
ATTEMPTS_MAX: Final = 64  # to change a record that others keep changing
RECORD_SECONDS: Final = 30.0  # for the OSDs, to read or replace one
# What one worker gives to its stores: RADOS is waited for, not a thread.  With a depth of 32 from
# each of several nodes; what is in flight is bounded (workers/rados_completions.py, rule 3).
SLOTS: Final = 128
REMOVALS_RUNNING: Final = 32
# A deletion tries every chunk up to this number; of larger volumes it looks for the objects that
# there are among all of the pool, which takes as long as there are objects, not chunks.
CHUNKS_TRIED_MAX: Final = 1 << 16
NAMES_AT_A_TIME: Final = 4096
T = TypeVar("T")
_INSTANCE: Final = re.compile(r"[0-9A-Za-z.:\[\],]{1,200}/\d{1,20}")


class RadosShares(Shares):
    """``--store rados:POOL@CONF``.  Make one with :meth:`connect`."""

    kind = "rados"
    shared = True
    slots = SLOTS

    def __init__(
        self,
        client: RadosClient,
        reconnect: Callable[[], Awaitable[RadosClient]],
        wrap: Wrap = lambda name, store: store,
    ) -> None:
        super().__init__(wrap)
        self._reconnect = reconnect
        self._log = structlog.get_logger()
        self._removals: set[asyncio.Task[None]] = set()
        self._removing = asyncio.Lock()  # one volume at a time
        self._take(client)

    @classmethod
    async def connect(
        cls, pool: str, conf: Path, user: str = "", wrap: Wrap = lambda name, store: store
    ) -> RadosShares:
        """Raises RadosError."""
        again = partial(RadosClient.connect, pool, conf, user)
        return cls(await again(), again, wrap)

    def _take(self, client: RadosClient) -> None:
        client.evicted = lambda: self.evicted()  # whoever that is by then
        self._client = client
        self.store_id = client.store_id
        self.instance = client.instance

    @property
    def pending(self) -> int:
        """Operations in flight."""
        return self._client.pending

    # --- records (rule 1) -------------------------------------------------------------------------

    async def _read(self, name: str) -> bytes | None:
        """Raises OSError."""
        client = self._client
        read = partial(client.read, name, RECORD_BYTES_MAX + 1, 0)
        result, data = await _bounded(name, client.wait(read))
        if result == -errno.ENOENT:
            return None
        if result < 0:
            raise _failed(result, name)
        if len(data) > RECORD_BYTES_MAX:
            raise OSError(errno.EFBIG, "is too long", name)
        return data

    async def _change(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace a record by what ``change`` makes of it (None: it stays).  Raises OSError."""
        client = self._client
        for _ in range(ATTEMPTS_MAX):
            old = await self._read(name)
            new = change(old)
            if new is None or new == old:
                return
            replaced = client.wait(partial(client.replace, name, old, new))
            result, _data = await _bounded(name, replaced)
            if result >= 0:
                return
            if result > MISCOMPARE and result not in (-errno.EEXIST, -errno.ENOENT):
                raise _failed(result, name)
        raise OSError(errno.EBUSY, "other workers keep changing it", name)

    async def _change_volumes(self, change: Callable[[dict[str, Volume]], None]) -> None:
        def changed(old: bytes | None) -> bytes:
            volumes = decode_catalog(old)
            change(volumes)
            return encode_catalog(volumes)

        await self._change(VOLUMES, changed)

    # --- what there is ----------------------------------------------------------------------------

    async def load(self) -> list[str]:
        try:
            await self.refresh()
            volumes = decode_catalog(await self._read(VOLUMES))
        except (OSError, ShareError) as exc:
            raise RadosError(f"{self.store_id}: {VOLUMES}: {_reason(exc)}") from exc
        for volume in volumes.values():
            if volume.deleting:
                self._remove_later(info_of(volume))
        return []

    async def _refresh(self) -> None:
        """Rule 2."""
        client = self._client
        await client.latest_map()
        volumes = decode_catalog(await self._read(VOLUMES))
        if client is not self._client:
            raise _failed(-errno.ESHUTDOWN, VOLUMES)
        there = {}
        for volume in volumes.values():
            if not volume.deleting:
                info = info_of(volume)
                there[info.uuid] = info
        for uuid in [uuid for uuid in self._by_uuid if uuid not in there]:
            self._forget(self._by_uuid[uuid])
        for uuid, info in there.items():
            share = self._by_uuid.get(uuid)
            if share is None:
                self._add(Share(info))
            elif share.info != info:
                share.info = info
                if share.store is not None:
                    share.store.size = info.size

    def _forget(self, share: Share) -> None:
        """It has been deleted, perhaps by another worker: what nodes have of it is refused."""
        share.deleting = True
        self.gone(share)
        del self._by_uuid[share.info.uuid]
        del self._by_name[share.info.name]

    # --- one share --------------------------------------------------------------------------------

    async def create(self, info: ShareInfo) -> None:
        await super().create(replace(info, place=""))  # every worker has all chunks

    async def _create(self, info: ShareInfo) -> None:
        def add(volumes: dict[str, Volume]) -> None:
            twin = volumes.get(info.name)
            if twin is not None and not twin.deleting and info_of(twin) == info:
                return  # another worker was asked at the same time
            if any(v.uuid == info.uuid.hex() or v.name == info.name for v in volumes.values()):
                raise ShareError(
                    ShareFault.EXISTS,
                    f"volume {info.name} ({info.uuid.hex()}) is there, or not yet deleted",
                )
            volumes[info.name] = volume_of(info)

        await self._change_volumes(add)

    async def _open(self, share: Share) -> VolumeStore:
        info = share.info
        return RadosStore(self._client, info.uuid, info.size, info.chunk_bytes)

    async def _resize(self, old: ShareInfo, new: ShareInfo, store: VolumeStore | None) -> None:
        def grow(volumes: dict[str, Volume]) -> None:
            volume = same_volume(volumes, old)
            volume.size_bytes = max(volume.size_bytes, new.size)

        await self._change_volumes(grow)

    async def _delete(self, info: ShareInfo) -> None:
        """Rule 3."""

        marked = [info]

        def mark(volumes: dict[str, Volume]) -> None:
            volume = same_volume(volumes, info)
            volume.deleting = True
            marked.append(info_of(volume))  # another worker may have made it larger

        try:
            await self._change_volumes(mark)
        except ShareError:
            return  # another worker has deleted it
        self._remove_later(marked[-1])

    # --- deletion in the background ---------------------------------------------------------------

    def _remove_later(self, info: ShareInfo) -> None:
        task = asyncio.ensure_future(self._remove(self._client, info))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove(self, client: RadosClient, info: ShareInfo) -> None:
        async with self._removing:
            try:
                removed = await self._remove_objects(client, info)

                def drop(volumes: dict[str, Volume]) -> None:
                    if same_volume(volumes, info).deleting:
                        del volumes[info.name]

                await self._change_volumes(drop)
            except ShareError:
                return  # another worker was first
            except OSError as exc:
                # It stays marked; the next worker that starts goes on.
                self._log.error("deletion stopped", volume=info.name, reason=exc.strerror)
            else:
                self._log.info("deleted", volume=info.name, objects=removed)

    async def _remove_objects(self, client: RadosClient, info: ShareInfo) -> int:
        """How many there were; raises OSError."""
        prefix = object_prefix(info.uuid)
        chunks = -(-info.size // info.chunk_bytes)
        removed = 0
        if chunks <= CHUNKS_TRIED_MAX:
            tried = (f"{prefix}{chunk:016x}" for chunk in range(chunks))
            while names := list(islice(tried, NAMES_AT_A_TIME)):
                removed += await _remove_all(client, names)
            return removed
        found = client.names()
        while True:
            names = await client.call(lambda: list(islice(found, NAMES_AT_A_TIME)))
            if not names:
                return removed
            mine = [name for name in names if name.startswith(prefix)]
            removed += await _remove_all(client, mine)

    # --- fences -----------------------------------------------------------------------------------

    async def load_fences(self) -> bytes | None:
        try:
            return await self._read(FENCES)
        except OSError as exc:
            raise RadosError(f"{self.store_id}: {FENCES}: {_reason(exc)}") from exc

    async def save_fences(self, data: bytes) -> None:
        """Other workers keep theirs in the same record: none lowers what another has raised."""
        await self._change(FENCES, lambda old: merge_fences(old, data))

    # --- eviction ---------------------------------------------------------------------------------

    async def evict(self, instance: str) -> None:
        if not _INSTANCE.fullmatch(instance):
            raise ShareError(ShareFault.INVALID, f"bad instance {instance[:80]!r}")
        if instance == self.instance:
            raise ShareError(ShareFault.INVALID, "a worker does not evict itself")
        await self._client.evict(instance)

    def abandon(self) -> None:
        self._client.abandon()
        for task in self._removals:
            task.cancel()
        for share in list(self._by_uuid.values()):
            self._forget(share)

    async def rejoin(self) -> None:
        """Rule 4."""
        self._client.close(wait_seconds=0)
        try:
            self._take(await self._reconnect())
        except RadosError as exc:
            raise OSError(errno.ENOTCONN, str(exc)) from exc

    def close(self) -> None:
        for task in self._removals:
            task.cancel()
        super().close()
        self._client.close()


async def _bounded(name: str, wait: Awaitable[T]) -> T:
    """What asks the OSDs for a record; raises OSError."""
    try:
        async with asyncio.timeout(RECORD_SECONDS):
            return await wait
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "RADOS does not answer", name) from None


async def _remove_all(client: RadosClient, names: list[str]) -> int:
    """How many of these objects there were; raises OSError."""
    removed = 0
    for first in range(0, len(names), REMOVALS_RUNNING):
        some = names[first : first + REMOVALS_RUNNING]
        outcomes = await asyncio.gather(
            *(client.wait(partial(client.remove, name)) for name in some)
        )
        for name, (result, _) in zip(some, outcomes, strict=True):
            if result < 0 and result != -errno.ENOENT:
                raise _failed(result, name)
            removed += result >= 0
    return removed


def _failed(result: int, name: str) -> OSError:
    return OSError(-result, os.strerror(-result), name)


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
