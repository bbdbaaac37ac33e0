"""A registry as three nodes see it, in memory or in Redis: for tests/unit/test_registry_*.py.

Nothing here depends on pytest.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import redis as redis_py
import structlog

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.redis_registry import SOURCE, RedisRegistry
from target.cluster.registry import Event, KnownTask, Notices, Proof, Proofs, Registry, TaskEntry
from tests.support.proving import Proving


class Heard(Notices):
    """What one node was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._new = asyncio.Event()

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self._new.set()

    def granted(self, lun: str, sequence: int) -> None:
        self._tell("granted", lun, sequence)

    def happened(self, lun: str, event: Event) -> None:
        self._tell("happened", lun, event)

    def acknowledged(self, lun: str, node: str, number: int) -> None:
        self._tell("acknowledged", lun, node, number)

    def departed(self, lun: str, node: str, epoch: int) -> None:
        self._tell("departed", lun, node, epoch)

    def unheard(self, lun: str) -> None:
        self._tell("unheard", lun)

    def renewed(self) -> None:
        self._tell("renewed")

    async def until(self, *what: Any, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.told.count(what) < times:
                self._new.clear()
                await self._new.wait()


class AskedAgain(Exception):
    """A call was refused as one that came late, and was to be asked as a new one."""


class _Given(Proofs):
    """Those of calls that have them already."""

    def __init__(self, proofs: list[Proof]) -> None:
        super().__init__()
        self._given = proofs

    def next(self, of: str) -> Proof:
        if not self._given:
            raise AskedAgain
        return self._given.pop(0)


class World:
    """A registry as three nodes see it; the clock of memory's stands still but for ``sleep``."""

    def __init__(self, redis: str | None) -> None:
        self.heard = {name: Heard() for name in "abc"}
        self.lun = uuid.uuid4().hex
        self._now = 1000
        self.redis_url = redis
        self._memory = memory = MemoryRegistry(
            lambda: self._now, lambda node, told: told(proving[node].listening(self.heard[node]))
        )
        proving = {name: Proving(memory) for name in "abc"}
        self.of: dict[str, Registry] = {n: cast(Registry, p) for n, p in proving.items()}
        if redis is not None:
            log = structlog.get_logger()
            self.of = {n: RedisRegistry(redis, n, self.heard[n], log) for n in "abc"}

    async def start(self) -> None:
        for registry in self.of.values():
            if isinstance(registry, RedisRegistry):
                await registry.start()

    async def close(self) -> None:
        for registry in self.of.values():
            if isinstance(registry, RedisRegistry):
                await registry.close()

    async def attach(self, *nodes: str) -> None:
        for node in nodes:
            assert (await self.of[node].attach(self.lun, node, 1)).behind == 0
            if self.redis_url is not None:
                # Of its own channel, and of the unit's: nothing is missed from now on.
                await self.heard[node].until("renewed", times=2)

    async def tasks(self, node: str) -> list[KnownTask]:
        """Each once, which is not promised."""
        pages = [page async for page in self.of[node].tasks(self.lun)]
        return list({(t.node, t.sequence): t for page in pages for t in page}.values())

    async def submit(
        self, node: str, *entries: TaskEntry, settled: tuple[int, ...] = ()
    ) -> list[int]:
        return await self.of[node].submit(self.lun, node, 1, settled, entries)

    def give_up(self, node: str) -> Proof:
        """That of a call of which ``node`` hears no more; it may be ``late``."""
        of: Any = self.of[node]
        proof: Proof = of._proofs.next(self.lun)
        return proof

    @contextlib.contextmanager
    def late(self, node: str, *given: Proof) -> Iterator[None]:
        """What ``node`` calls in here is what it asked with those, and arrives now.

        AskedAgain where one is refused, and there is none for it to be asked anew with.
        """
        of: Any = self.of[node]
        proofs = of._proofs
        of._proofs = _Given(list(given))
        try:
            yield
        finally:
            of._proofs = proofs

    def remember(self) -> Any:
        """All that the registry has now."""
        if self.redis_url is None:
            return self._memory.snapshot()
        with redis_py.Redis.from_url(self.redis_url) as client:
            return {key: client.dump(key) for key in client.scan_iter()}

    def go_back(self, remembered: Any, *, another_process: bool = True) -> None:
        """It has what it had then."""
        if self.redis_url is None:
            self._memory.restore(remembered)
            return
        with redis_py.Redis.from_url(self.redis_url) as client:
            client.flushall()
            for key, value in remembered.items():
                client.restore(key, 0, value)
            if another_process:
                client.function_load(SOURCE, replace=True)

    async def run_out(self, milliseconds: int) -> None:
        """Let leases of so long be over."""
        if self.redis_url is None:
            self._now += milliseconds + 1
        else:
            await asyncio.sleep((milliseconds + 20) / 1000)


def write(sequence: int, start: int, end: int) -> TaskEntry:
    return TaskEntry(sequence, True, start, end, f"w{sequence}")


def read(sequence: int, start: int, end: int) -> TaskEntry:
    return TaskEntry(sequence, False, start, end, f"r{sequence}")


Play = Callable[[Callable[[World], Awaitable[None]]], None]
