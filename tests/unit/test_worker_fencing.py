"""Lives of nodes are fenced at all workers of a volume, and parts of them before."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from target.block.remote import RemoteStore
from target.block.volume import Volume
from target.block.worker_errors import WorkerGone
from target.worker_fencing import CHUNKS_MAX, WorkerFencer

CHUNK_BLOCKS = 8


class Link:
    def __init__(self) -> None:
        self.address = "worker"
        self.away = False
        self.fenced: list[tuple[str, int]] = []

    async def fence(self, node: str, epoch: int) -> None:
        if self.away:
            raise WorkerGone("it is away")
        self.fenced.append((node, epoch))


class Store(RemoteStore):
    def __init__(self, store_id: str) -> None:
        self.link = cast(Any, Link())
        self.store_id = store_id
        self._handle = 1


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("target.worker_fencing.RETRY_SECONDS", 0.001)


def volume_on(*stores: Store) -> tuple[Volume, Any]:
    """Its chunks are on one after the other."""
    layout = SimpleNamespace(stores=stores, place=lambda chunk: chunk % len(stores), moving=False)
    volume = SimpleNamespace(
        block_bytes=512, chunk_bytes=CHUNK_BLOCKS * 512, stores=stores, layout=layout
    )
    return cast(Volume, volume), layout


def test_what_is_on_workers_that_refuse_it_is_over_while_another_is_away() -> None:
    async def story() -> None:
        there, away = Store(""), Store("")
        away.link.away = True  # type: ignore[attr-defined]
        volume, layout = volume_on(there, away)
        fencer = WorkerFencer(volume, structlog.get_logger())
        assert not fencer.covers("a", 3, 0, 1)
        fence = asyncio.ensure_future(fencer("a", 3))
        async with asyncio.timeout(10):
            while not fencer.covers("a", 3, 0, CHUNK_BLOCKS):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert fencer.covers("a", 2, 0, 1)
        assert fencer.covers("a", 3, 2 * CHUNK_BLOCKS, CHUNK_BLOCKS)
        assert not fencer.covers("a", 4, 0, 1), "a later life"
        assert not fencer.covers("b", 3, 0, 1), "another node"
        assert not fencer.covers("a", 3, 0, CHUNK_BLOCKS + 1), "it crosses to the other worker"
        assert not fencer.covers("a", 3, CHUNK_BLOCKS, 1)
        assert not fencer.covers("a", 3, 0, (CHUNKS_MAX + 1) * CHUNK_BLOCKS)
        layout.moving = True
        assert not fencer.covers("a", 3, 0, 1), "its chunks move"
        layout.moving = False
        assert not fence.done()
        away.link.away = False  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await fence
        assert fencer.covers("a", 3, 0, 2 * CHUNK_BLOCKS)

    asyncio.run(story())


def test_in_a_shared_store_any_worker_may_have_stood_in() -> None:
    async def story() -> None:
        volume, _ = volume_on(Store("pool"), Store("pool"))
        fencer = WorkerFencer(volume, structlog.get_logger())
        await fencer("a", 3)
        assert not fencer.covers("a", 3, 0, 1)

    asyncio.run(story())
