"""The migrations of a node: each volume that moves has a task, from its begin or resumption on.

What is done when, and kept where: target/block/migration.py and target/datadir.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from target.block.layout import MovingLayout
from target.block.migration import Mover
from target.block.pool import BufferPool
from target.block.volume import Volume
from target.datadir import DataDir
from target.logs import Log
from target.migration_log import MigrationLog
from target.volume_info import MigrationInfo
from workers.store import VolumeStore

UNORDERED_POLL_SECONDS: Final = 0.05
TROUBLE_POLL_SECONDS: Final = 1.0


class Migrations:
    """Those that run.  ``on_end`` is called when one has left workers behind."""

    def __init__(
        self, data: DataDir, pool: BufferPool, log: Log, on_end: Callable[[], None], rate: int
    ) -> None:
        """``rate`` is in bytes that each copies a second; 0: no limit."""
        self._data = data
        self._pool = pool
        self._log = log
        self._on_end = on_end
        self._rate = rate
        self._running: dict[str, tuple[Mover, float, asyncio.Task[None]]] = {}

    def start(self, volume: Volume, journal: MigrationLog) -> None:
        """Move ``volume``, whose layout is a moving one, until it has moved or ``stop``."""
        layout = volume.layout
        assert isinstance(layout, MovingLayout), "it moves"
        share = self._pool.open_share()
        mover = Mover(
            volume,
            layout,
            journal,
            share,
            clock=time.monotonic,
            random=random.random,
            one_medium=_one_medium,
            finish=lambda: self._data.end_migration(volume.name),
            rate=self._rate,
        )

        async def run() -> None:
            said = asyncio.ensure_future(self._say_trouble(volume.name, mover))
            try:
                ended = await mover.run()
            finally:
                said.cancel()
                share.close()
            if not ended:
                journal.close()
                return
            journal.remove()
            self._log.info(
                "volume has moved",
                volume=volume.name,
                chunks=mover.moved_chunks,
                copied=mover.copied_bytes,
            )
            # Flushes that began before the end: each is over by its deadline.
            while layout.unordered:  # noqa: ASYNC110
                await asyncio.sleep(UNORDERED_POLL_SECONDS)
            for store in layout.left:
                store.close()
            del self._running[volume.name]
            self._on_end()

        task = asyncio.ensure_future(run())
        self._running[volume.name] = (mover, time.monotonic(), task)
        self._log.info("volume moves", volume=volume.name, done=mover.chunks_done)

    async def _say_trouble(self, name: str, mover: Mover) -> None:
        said = ""
        while True:
            if mover.trouble != said:
                said = mover.trouble
                if said:
                    self._log.warning("volume does not get on moving", volume=name, reason=said)
            await asyncio.sleep(TROUBLE_POLL_SECONDS)

    def info(self, name: str, workers: list[str]) -> MigrationInfo | None:
        """How far it is; None: it does not run."""
        if name not in self._running:
            return None
        mover, began, _ = self._running[name]
        seconds = max(time.monotonic() - began, 0.001)
        return MigrationInfo(
            workers=workers,
            chunks_total=mover.chunks_total,
            chunks_done=mover.chunks_done,
            copied_bytes=mover.copied_bytes,
            bytes_per_second=round(mover.copied_bytes / seconds, 1),
            trouble=mover.trouble,
        )

    async def stop(self, name: str | None = None) -> None:
        """Stop one, or all; the next start of the node resumes them.

        Waits for the I/O that runs, which ends by its deadline.
        """
        running = [one for n, one in self._running.items() if name in (None, n)]
        for mover, _, _ in running:
            mover.stop()
        await asyncio.gather(*(task for _, _, task in running))
        for one in [n for n in self._running if name in (None, n)]:
            del self._running[one]


def _one_medium(one: VolumeStore, other: VolumeStore) -> bool:
    """Whether two workers have the chunks of one shared store."""
    store_id = getattr(one, "store_id", "")  # of a RemoteStore: gRPC is not imported for this
    return bool(store_id) and store_id == getattr(other, "store_id", "")
