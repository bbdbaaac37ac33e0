"""Shutting a worker's process out at the engine of a shared store.

An *instance* is a worker's process as the engine knows it (its client there).  What was sent to one
and not answered may land at any time, until the instance has been shut out and those who serve the
same bytes from then on know it (docs/decisions/0012-failing-over.md).

Rules:

1. All workers of the store that serve this node are asked.  One that fails to answer is cut off:
   it has to open its volumes anew, which puts it behind all that the engine has decided.
2. Nobody is cut off when all fail: then nothing has been decided, and nothing may be moved.
3. A worker that opened its volumes before an eviction was done and is served after it has not been
   asked.  It notices by ``since``.
4. An instance that was shut out is never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from target.block.worker_errors import NodeFenced, NoSuchShare, ShareRefused, WorkerGone

EVICT_SECONDS: Final = 3.0
INSTANCES_MAX: Final = 1024  # remembered; an older one is refused by the engine all the same
REFUSALS: Final = (WorkerGone, NoSuchShare, ShareRefused, NodeFenced)  # what a call may end with

Evict = Callable[[str, str], Awaitable[None]]  # store id, instance


class Evictor(Protocol):
    """A worker that can be asked to shut another one's process out."""

    store_id: str  # of the shared store that it has; empty: a local one

    @property
    def serving(self) -> bool:
        """Whether I/O is sent to it."""

    async def evict(self, store_id: str, instance: str) -> None:
        """Raises one of ``REFUSALS``."""

    def cut(self, reason: str) -> None:
        """Send it nothing more on this connection."""


class Log(Protocol):
    """What of a structured log is used."""

    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...


class Evictions:
    """Whom this node has had shut out."""

    def __init__(self, log: Log) -> None:
        self.workers: list[Evictor] = []
        self.count = 0  # evictions done
        self._done: dict[str, int] = {}  # instance: count when it was done
        self._log = log

    def __contains__(self, instance: str) -> bool:
        return instance in self._done

    def since(self, count: int) -> set[str]:
        """Who has been shut out since ``count`` evictions had been done (rule 3)."""
        return {instance for instance, done in self._done.items() if done > count}

    async def evict(self, store_id: str, instance: str, also: Evict | None = None) -> None:
        """Shut ``instance`` out; ``also``: ask one that is not served yet, too.

        Raises one of ``REFUSALS`` if nobody could do it, or ``also`` could not.
        """
        asked = [w for w in self.workers if w.serving and w.store_id == store_id]
        calls = [w.evict for w in asked] + ([also] if also is not None else [])
        answers = await asyncio.gather(
            *(call(store_id, instance) for call in calls), return_exceptions=True
        )
        failures = [answer for answer in answers if answer is not None]
        for failure in failures:
            if not isinstance(failure, REFUSALS):
                raise failure
        if len(failures) == len(answers):
            raise failures[0] if failures else WorkerGone("no other worker of its store is there")
        self._remember(instance)
        self._log.warning("worker evicted", instance=instance, store=store_id)
        # One that has reconnected since it answered has opened its volumes after that.
        know = {id(w) for w, failed in zip(asked, answers, strict=False) if failed is None}
        for worker in self.workers:
            if worker.serving and worker.store_id == store_id and id(worker) not in know:
                worker.cut(f"has not shut out {instance}")
        if also is not None and answers[-1] is not None:
            raise answers[-1]

    def _remember(self, instance: str) -> None:
        self.count += 1
        self._done.pop(instance, None)
        self._done[instance] = self.count
        if len(self._done) > INSTANCES_MAX:
            del self._done[next(iter(self._done))]
