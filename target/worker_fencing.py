"""The workers of a volume are told to refuse lives of nodes, each for good.

Rules:

1. A life is fenced when every worker of the volume has said that it refuses it and that nothing of
   it runs there any more.  A worker that is away may be serving that life: it is asked until it
   answers.
2. What is on workers that have said so is over before (``covers``): each chunk of a local store is
   read and written through its one worker.  In a shared store another worker may have stood in for
   it (``docs/decisions/0012-failing-over.md``), so all of them count there.
"""

from __future__ import annotations

import asyncio
from typing import Final

from target.block.layout import Layout
from target.block.remote import RemoteStore
from target.block.volume import Volume
from target.block.worker_errors import ShareRefused, WorkerGone
from target.logs import Log

RETRY_SECONDS: Final = 0.2
CHUNKS_MAX: Final = 4096  # of a range that is looked at


class WorkerFencer:
    """Of one volume."""

    def __init__(self, volume: Volume, log: Log) -> None:
        self._volume = volume
        self._log = log
        self._refuse: dict[RemoteStore, dict[str, int]] = {}  # by node, the highest such epoch

    async def __call__(self, node: str, epoch: int) -> None:
        """Fence a life; as long as a worker is away, it takes."""
        stores = remote_stores(self._volume)
        await asyncio.gather(*(self._at_one(store, node, epoch) for store in stores))

    async def _at_one(self, store: RemoteStore, node: str, epoch: int) -> None:
        while True:
            try:
                await store.link.fence(node, epoch)
                break
            except (WorkerGone, ShareRefused) as exc:
                self._log.debug("not fenced yet", worker=str(store.link.address), reason=str(exc))
            await asyncio.sleep(RETRY_SECONDS)
        refused = self._refuse.setdefault(store, {})
        refused[node] = max(epoch, refused.get(node, 0))

    def covers(self, node: str, epoch: int, lba: int, blocks: int) -> bool:
        """Whether nothing of that life can happen to these blocks any more (rule 2)."""
        volume = self._volume
        layout = volume.layout
        first = lba * volume.block_bytes // volume.chunk_bytes
        end = -(-(lba + blocks) * volume.block_bytes // volume.chunk_bytes)
        if layout.moving or end - first > CHUNKS_MAX:
            return False
        stores = {layout.stores[layout.place(chunk)] for chunk in range(first, end)}
        return all(
            isinstance(store, RemoteStore)
            and store.is_open  # so it is known what it is of
            and not store.store_id
            and self._refuse.get(store, {}).get(node, 0) >= epoch
            for store in stores
        )


def remote_stores(volume: Volume | Layout) -> list[RemoteStore]:
    """All of a volume that is on workers."""
    stores = [store for store in volume.stores if isinstance(store, RemoteStore)]
    assert len(stores) == len(volume.stores), "a volume on workers"
    return stores
