"""When others stand in for a worker of a shared store.

Rules (why they are safe: docs/decisions/0012-failing-over.md):

1. A worker that has not been served for ``FAILOVER_SECONDS`` is *out* when every process of it that
   may still have I/O of ours has been shut out at the engine (``evictions.py``), and not before.
2. What was asked of a worker that is out goes to the others, under its old deadline.
3. While no other worker is there, everything stays where it is, until its deadline.

One task looks after all workers of a node; it sleeps while all are served.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from target.block.evictions import REFUSALS, Evictions, Evictor, Log
from target.block.worker_address import WorkerAddress

FAILOVER_SECONDS: Final = 1.0  # a worker that is restarted may be there again by then
RETRY_SECONDS: Final = 1.0  # after an eviction that failed


class Worker(Evictor, Protocol):
    """A way to a worker, as far as failing over is concerned (worker_link.py)."""

    address: WorkerAddress
    instance: str  # its process, while it is served
    suspects: dict[str, str]  # processes that may have I/O of ours, and the store of each
    down_since: float

    @property
    def store_ids(self) -> set[str]:
        """The shared stores that volumes on it are in, as far as is known."""

    def others_stand_in(self) -> None:
        """It is out: its I/O goes to others now."""


class Failover:
    """The workers of a node."""

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        self.evictions = Evictions(log)
        self._log = log
        self._clock = clock
        self._workers: list[Worker] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, worker: Worker) -> None:
        """Look after ``worker``."""
        self._workers.append(worker)
        self.evictions.workers.append(worker)

    def remove(self, worker: Worker) -> None:
        """It is closed."""
        self._workers.remove(worker)
        self.evictions.workers.remove(worker)

    def changed(self) -> None:
        """Some worker is served now, or no longer."""
        self._changed.set()

    def start(self) -> None:
        """From now on."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Nothing fails over any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            away = [worker for worker in self._workers if worker.store_ids and not worker.serving]
            due = [worker for worker in away if worker.down_since + FAILOVER_SECONDS <= now]
            waits = [w.down_since + FAILOVER_SECONDS - now for w in away if w not in due]
            done = await asyncio.gather(*map(self._stand_in, due))
            if not all(done):
                waits.append(RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(waits, default=None)):
                    await self._changed.wait()

    async def _stand_in(self, worker: Worker) -> bool:
        """Rules 1 and 2.  False: it has to be tried again, whatever changes."""
        if not self._others(worker):
            return True
        for instance, store_id in list(worker.suspects.items()):
            try:
                await self.evictions.evict(store_id, instance)
            except REFUSALS as exc:
                reason = str(exc)
                self._log.warning("cannot evict", worker=str(worker.address), reason=reason)
                return False
            if worker.serving and worker.instance == instance:
                worker.cut("it has been shut out of its store")  # it came back meanwhile
            worker.suspects.pop(instance, None)
        if not worker.serving and not worker.suspects:
            worker.others_stand_in()
        return True

    def _others(self, worker: Worker) -> bool:
        return any(
            other is not worker and other.serving and other.store_id in worker.store_ids
            for other in self._workers
        )
