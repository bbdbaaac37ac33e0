"""What volumes have left behind: the data of deleted ones, the shares that a migration has left.

They go in the background, and are asked for again until they are gone: a worker may be away for
days.  What is to go stands in the catalog, so that the next start goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from target.block.worker_errors import ShareRefused, WorkerGone
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir
from target.logs import Log

if TYPE_CHECKING:
    from target.worker_volumes import WorkerVolumes

RETRY_SECONDS: Final = 5.0


class Cleanup:
    """Deletes what the catalog says is to go; ``workers`` are asked for when they are needed.

    ``on_forgotten(name)``: the data of a volume are gone.
    """

    def __init__(
        self,
        data: DataDir,
        workers: Callable[[], WorkerVolumes],
        log: Log,
        on_forgotten: Callable[[str], Awaitable[None]],
    ) -> None:
        self._data = data
        self._workers = workers
        self._log = log
        self._on_forgotten = on_forgotten
        self._task: asyncio.Task[None] | None = None
        # Volumes whose new places count as retired until their migration has begun.
        self.planning: set[str] = set()

    def begin(self) -> None:
        """There may be something to delete."""
        if any(record.deleting or record.retired for record in self._data.volumes.values()):
            if self._task is None or self._task.done():
                self._task = asyncio.ensure_future(self._delete())

    async def _delete(self) -> None:
        said: dict[str, str] = {}
        while names := self._to_delete():
            for name in names:
                if self._data.is_deleting(name):
                    reason = await self._delete_data_of(name)
                else:
                    reason = await self._delete_retired(name)
                if reason and reason != said.get(name, ""):
                    self._log.warning("data are not deleted yet", volume=name, reason=reason)
                said[name] = reason
            if any(name in names for name in self._to_delete()):
                await asyncio.sleep(RETRY_SECONDS)

    def _to_delete(self) -> list[str]:
        return [
            name
            for name, record in self._data.volumes.items()
            if record.deleting or (record.retired and name not in self.planning)
        ]

    async def _delete_retired(self, name: str) -> str:
        """Delete the shares that a migration has left; returns why one is there still."""
        record = self._data.record(name)
        assert record is not None, "nobody else forgets it"
        problem = ""
        for place in list(record.retired):
            # A shared store has its data once, whoever serves them.
            in_use = record.workers or []
            if record.migration is not None:
                in_use = in_use + record.migration.workers
            common = place.store_id and any(p.store_id == place.store_id for p in in_use)
            try:
                if not common:
                    await self._workers().delete_share(record, place, left=True)
                self._data.forget_retired(name, place)
                self._log.info("share deleted", volume=name, worker=place.address)
            except (WorkerGone, ShareRefused, OSError) as exc:
                problem = str(exc)
        return problem

    async def _delete_data_of(self, name: str) -> str:
        record = self._data.record(name)
        assert record is not None, "nobody else forgets it"
        try:
            if record.workers is not None:
                await self._workers().delete(record)
            await self._on_forgotten(name)
            self._data.forget(name)
        except (WorkerGone, ShareRefused, RegistryAway, StaleNode, OSError) as exc:
            return str(exc)
        return ""

    async def stop(self) -> None:
        """What is left is left to the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
