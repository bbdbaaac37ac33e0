"""What volumes have left behind: the data of deleted ones, the shares that a migration has left.

They go in the background, and are asked for again until they are gone: a worker may be away for
days.  What is to go stands in the catalog, so that the next start goes on.

Before the data of a volume go, it is gone for everybody (``withdraw``), and when they have, it is
forgotten (``on_forgotten``).  Another volume may have its name by then, here or on other nodes: it
is told by its UUID.

Rules, for what a volume that is in use has left:

1. A shared store has the volume once, whoever serves it: where the volume is in use, or is to be,
   nothing is deleted.  Which store a worker has is what it says itself, now: one that was away when
   a migration was tried is not known to have any.
2. The deletion names the store and the place that were looked at, and the worker refuses another.
3. No migration begins between the look and the worker's answer (``held``).  A deletion that was
   not answered may still land.  The catalog has noted in which store (``doomed``), and the volume
   does not move into that until the worker has answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from target.block.worker_errors import ShareRefused, WorkerGone
from target.cluster.ending import ended
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir, DataDirError, VolumeRecord, WorkerPlace
from target.logs import Log
from target.volume_info import DeletionInfo

if TYPE_CHECKING:
    from target.pool_volumes import PoolVolumes
    from target.worker_volumes import WorkerVolumes

RETRY_SECONDS: Final = 5.0


class Cleanup:
    """Deletes what the catalog says is to go; ``workers``, ``pool``: asked for when needed.

    ``withdraw(name, record)``: no node is to have the volume any more; ``on_forgotten``: its data
    are gone.  Both may be told so repeatedly.
    """

    def __init__(
        self,
        data: DataDir,
        workers: Callable[[], WorkerVolumes],
        log: Log,
        withdraw: Callable[[str, VolumeRecord], Awaitable[None]],
        on_forgotten: Callable[[str, VolumeRecord], Awaitable[None]],
        pool: Callable[[str, VolumeRecord], PoolVolumes],
    ) -> None:
        self._data = data
        self._workers = workers
        self._pool = pool
        self._log = log
        self._withdraw = withdraw
        self._on_forgotten = on_forgotten
        self._task: asyncio.Task[None] | None = None
        self._said: dict[str, str] = {}  # by name, why something is there still
        self._done: dict[str, int] = {}  # by UUID, the workers that have deleted a volume's data
        # While it is held, no share that a migration has left is deleted (rule 3), and the places
        # that one plans, which count as retired until it has begun, are left alone.
        self.held = asyncio.Lock()

    def begin(self, delay: float = 0.0) -> None:
        """There may be something to delete, after ``delay`` seconds."""
        if self._to_delete() and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._delete(delay))

    async def _delete(self, delay: float) -> None:
        await asyncio.sleep(delay)
        said = self._said = {}
        while names := self._to_delete():
            for name in names:
                record = self._data.record(name)
                if record is None:
                    continue  # another node was faster
                if record.deleting:
                    reason = await self._delete_data_of(name, record)
                else:
                    reason = await self._delete_retired(name, record)
                if reason and reason != said.get(name, ""):
                    self._log.warning("data are not deleted yet", volume=name, reason=reason)
                said[name] = reason
            if any(name in names for name in self._to_delete()):
                await asyncio.sleep(RETRY_SECONDS)

    def _to_delete(self) -> list[str]:
        return [
            name for name, record in self._data.volumes.items() if record.deleting or record.retired
        ]

    async def _delete_retired(self, name: str, record: VolumeRecord) -> str:
        """Delete the shares that a migration has left; returns why one is there still."""
        problem = ""
        for place in list(record.retired):
            try:
                async with self.held:
                    if not record.deleting and any(place is other for other in record.retired):
                        await self._delete_share(name, record, place)
            except (WorkerGone, ShareRefused, OSError) as exc:
                problem = str(exc)
        return problem

    async def _delete_share(self, name: str, record: VolumeRecord, place: WorkerPlace) -> None:
        """Rules 1 and 2.  Raises WorkerGone, ShareRefused or OSError: it is there still."""
        workers = self._workers()
        store_id = await workers.store_id_at(place)
        if place.store_id not in ("", store_id):
            raise ShareRefused(
                f"worker {place.address} does not have the store that is known of it: nothing is "
                "deleted there, for a shared store may hold the volume itself"
            )
        if store_id and await self._is_used(record, store_id):
            self._data.forget_retired(name, place)
            self._log.info("share left to its store", volume=name, worker=place.address)
            return
        self._data.doom_retired(place, store_id)  # rule 3
        await workers.delete_retired(record, place, store_id)
        self._data.forget_retired(name, place)
        self._log.info("share deleted", volume=name, worker=place.address)

    async def _is_used(self, record: VolumeRecord, store_id: str) -> bool:
        """Whether the volume is in this shared store, or is to be.

        Raises WorkerGone or ShareRefused where that is not known.
        """
        for place in record.in_use:
            if (place.store_id or await self._workers().store_id_at(place)) == store_id:
                return True
        return False

    async def _delete_data_of(self, name: str, record: VolumeRecord) -> str:
        """Returns why they are there still."""
        self._done[record.uuid] = 0
        try:
            await self._withdraw(name, record)
            if record.workers is not None:
                await self._workers().delete(record, partial(self._done.__setitem__, record.uuid))
            elif record.pool is not None:
                await self._pool(name, record).delete(record)
            await self._on_forgotten(name, record)
            if self._data.record(name) is record:
                self._data.forget(name)
        except (WorkerGone, ShareRefused, RegistryAway, StaleNode, DataDirError, OSError) as exc:
            return str(exc)
        del self._done[record.uuid]
        return ""

    def info(self, name: str, record: VolumeRecord) -> DeletionInfo | None:
        """How far the data of a volume are deleted; None: they are not to go."""
        if not record.deleting:
            return None
        return DeletionInfo(
            workers_total=len(record.places),
            workers_done=self._done.get(record.uuid, 0),
            trouble=self._said.get(name, ""),
        )

    async def stop(self) -> None:
        """What is left is left to the next start."""
        await ended(self._task)
