"""When others stand in for a worker of a shared store.

Rules (why they are safe: docs/decisions/0012-failing-over.md):

1. A worker that has not been served for ``FAILOVER_SECONDS`` is shut out at the engine of its store
   (Control.Evict): the process that may still have I/O of ours, by each worker that is to stand in
   for it.  Only then is it *out*, and its I/O goes to the others.
2. A worker that was asked and could not do it is not trusted: its stream is cut.  So is one that
   began to be served while that went on: what it knows of the engine may be older.  Both come back
   with a view that is new, which opening a share brings about.
3. A process that was shut out is never used again, and one that follows it at the same address only
   when the old one has been shut out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from target.block.worker_address import WorkerAddress
from target.block.worker_errors import NoSuchShare, ShareRefused, WorkerGone

FAILOVER_SECONDS: Final = 1.0  # so long a worker may be away before others stand in for it
RETRY_SECONDS: Final = 0.5
EVICT_SECONDS_MAX: Final = 10.0
EVICTED_MAX: Final = 1024  # instances that are remembered: one for each failover


class Log(Protocol):
    """What of a structured log is used."""

    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...


class Worker(Protocol):
    """A way to a worker, as far as failing over is concerned (worker_link.py)."""

    address: WorkerAddress
    store_id: str
    instance: str  # the process that may have I/O of ours

    @property
    def served(self) -> bool:
        """Whether it serves us."""

    async def evict(self, store_id: str, instance: str, seconds: float) -> None:
        """Have it shut ``instance`` out.  Raises what ``WorkerChannel.evict`` does."""

    def cut(self, reason: str) -> None:
        """Give the connection up."""

    def others_stand_in(self) -> None:
        """It is out: its I/O goes to others now."""


class Failover:
    """The workers of a node that have shared stores."""

    def __init__(self, log: Log) -> None:
        self.workers: list[Worker] = []
        self._log = log
        self._evicted: deque[str] = deque(maxlen=EVICTED_MAX)
        self._views: dict[str, int] = {}  # by store: how often evicting has begun or ended
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def view(self, store_id: str) -> int:
        """Whether this is the same before and after tells whether rule 2 is kept."""
        return self._views.get(store_id, 0)

    def evicted(self, instance: str) -> bool:
        """Whether this process was shut out, or may have been."""
        return instance in self._evicted

    def away(self, worker: Worker) -> None:
        """``worker`` is not served any more, or has not been yet."""
        if worker.store_id and id(worker) not in self._tasks:
            task = asyncio.ensure_future(self._stand_in(worker))
            self._tasks[id(worker)] = task
            task.add_done_callback(lambda _: self._tasks.pop(id(worker), None))

    def back(self, worker: Worker) -> None:
        """``worker`` is served again."""
        task = self._tasks.get(id(worker))
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Nothing fails over any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stand_in(self, worker: Worker) -> None:
        evicted, delay = False, FAILOVER_SECONDS
        while not evicted:
            await asyncio.sleep(delay)
            evicted, delay = await self._evict(worker), RETRY_SECONDS
        worker.others_stand_in()
        self._log.warning("others stand in for worker", worker=str(worker.address))

    async def _evict(self, worker: Worker) -> bool:
        """Rules 1 and 2; whether somebody can stand in."""
        store_id, instance = worker.store_id, worker.instance
        asked = [w for w in self.workers if w is not worker and self._serves(w, store_id)]
        if not asked:
            return False
        if not instance:  # it never had I/O of ours
            return True
        if instance not in self._evicted:
            self._evicted.append(instance)
        self._changed(store_id)
        outcomes = await asyncio.gather(
            *(w.evict(store_id, instance, EVICT_SECONDS_MAX) for w in asked),
            return_exceptions=True,
        )
        self._changed(store_id)
        able = [w for w, failed in zip(asked, outcomes, strict=True) if failed is None]
        self._raise_bugs(outcomes)
        for other in self.workers:
            if other is not worker and other not in able and self._serves(other, store_id):
                other.cut("it does not know yet who has been shut out of the store")
        return bool(able)

    @staticmethod
    def _serves(worker: Worker, store_id: str) -> bool:
        return worker.served and worker.store_id == store_id

    @staticmethod
    def _raise_bugs(outcomes: Sequence[BaseException | None]) -> None:
        for failed in outcomes:
            if failed is not None and not isinstance(
                failed, WorkerGone | ShareRefused | NoSuchShare
            ):
                raise failed

    def _changed(self, store_id: str) -> None:
        self._views[store_id] = self.view(store_id) + 1
