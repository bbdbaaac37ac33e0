"""Failing over, played: whatever is killed, stopped and shut out when, no block goes back in time.

A node over three workers of one shared store (tests/support/shared_engine.py) and clients that know
which bytes a block may have.  What is proved here is docs/decisions/0012-failing-over.md.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid as uuids
from random import Random
from typing import Any

import pytest
import structlog

from target.block.failover import Failover
from target.block.placement import Placement
from target.block.remote import RemoteStore
from target.block.share_group import ShareGroup
from target.block.volume import Volume
from target.block.wait import PENDING, Wait
from target.block.worker_address import WorkerAddress
from target.block.worker_channel import ShareInfo
from target.block.worker_link import WorkerLink
from tests.support.shared_engine import Engine, PlayedWorker
from tests.support.skipping_loop import run_skipping

SEEDS = 30
BLOCK = 512
CHUNK = 65536
CHUNKS = 6
SIZE = CHUNKS * CHUNK
UUID = uuids.UUID("12345678-1234-5678-1234-567812345678")
IO_SECONDS = 6.0
PLAY_SECONDS = 90.0
CALM_SECONDS = 40.0


class PlayedNode:
    """A life of a node.  ``catalog`` is what it leaves behind."""

    def __init__(
        self, workers: list[PlayedWorker], catalog: dict[str, tuple[str, str]], epoch: int
    ) -> None:
        loop = asyncio.get_running_loop()
        log = structlog.get_logger()
        self.failover = Failover(log, loop.time)
        self.links: list[WorkerLink] = []
        group = ShareGroup()
        sequences = itertools.count(1)
        random = workers[0].engine.random
        stores = []
        for worker in workers:
            connect: Any = worker.connect

            def keep(store_id: str, instance: str, name: str = worker.name) -> None:
                catalog[name] = (store_id, instance)

            link = WorkerLink(
                WorkerAddress(unix_path=worker.name),
                connect,
                node="node",
                epoch=epoch,
                sequences=sequences,
                clock=loop.time,
                random=random.random,
                io_seconds=IO_SECONDS,
                log=log,
                failover=self.failover,
                on_instance=keep,
            )
            known = catalog.get(worker.name)
            if known is not None:
                link.suspect(*known)
            info = ShareInfo("disk", UUID.bytes, SIZE, CHUNK, BLOCK, place=worker.name)
            store_id = known[0] if known is not None else ""
            stores.append(RemoteStore(link, info, create=True, group=group, store_id=store_id))
            self.links.append(link)
        place = Placement(UUID, [worker.name for worker in workers])
        self.volume = Volume("disk", UUID, stores, chunk_bytes=CHUNK, place=place)
        self.failover.start()
        for link in self.links:
            link.start()

    async def crash(self) -> None:
        await self.failover.close()
        for link in self.links:
            for timer in (link._expiry, link._gather):
                if timer is not None:
                    timer.cancel()
            assert link._task is not None
            link._task.cancel()
            await asyncio.gather(link._task, return_exceptions=True)


class Play:
    """The workers, a node that is restarted at times, clients, and what they know."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.engine = Engine(SIZE, CHUNK, self.random)
        self.workers = [PlayedWorker(f"w{n}", self.engine) for n in range(3)]
        self.catalog: dict[str, tuple[str, str]] = {}
        self.epoch = 0
        self.node: PlayedNode
        self.crashed = asyncio.Event()
        self.versions = itertools.count(1)
        self.may_be: dict[int, set[int]] = {}  # versions that a block may have
        self.ended = self.failed = 0
        self.longest = 0.0

    def start_node(self) -> None:
        self.epoch += 1
        self.crashed = asyncio.Event()
        self.node = PlayedNode(self.workers, self.catalog, self.epoch)

    async def io(self, wait: Wait[None]) -> bool:
        """Whether it has succeeded."""
        loop = asyncio.get_running_loop()
        began, crashed = loop.time(), self.crashed
        done: asyncio.Future[object] = loop.create_future()
        outcome: object = wait.begin(done.set_result)
        if outcome is not PENDING:
            done.set_result(outcome)
        crash: asyncio.Future[object] = asyncio.ensure_future(crashed.wait())
        await asyncio.wait([done, crash], return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        ok = done.done() and done.result() is None
        self.ended += 1
        self.failed += not ok
        if done.done():
            self.longest = max(self.longest, loop.time() - began)
        return ok

    async def write(self, blocks: range) -> None:
        version = next(self.versions)
        payload = memoryview(version.to_bytes(8, "little") * (BLOCK // 8 * len(blocks)))
        ok = await self.io(
            self.node.volume.write(blocks[0] * BLOCK, [payload], len(blocks) * BLOCK)
        )
        for block in blocks:
            self.may_be[block] = {version} | (set() if ok else self.may_be.get(block, {0}))

    async def read(self, blocks: range) -> bool:
        view = memoryview(bytearray(len(blocks) * BLOCK))
        if not await self.io(self.node.volume.read(blocks[0] * BLOCK, [view], len(view))):
            return False
        for n, block in enumerate(blocks):
            found = {
                int.from_bytes(view[at : at + 8], "little")
                for at in range(n * BLOCK, (n + 1) * BLOCK, 8)
            }
            assert len(found) == 1, "a torn block"
            assert found <= self.may_be.get(block, {0}), f"block {block} has gone back"
            self.may_be[block] = found
        return True

    async def client(self, first: int, until: float) -> None:
        """Alone with four blocks, of which it asks for one or several at once."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            start = self.random.randrange(4)
            blocks = range(first + start, first + start + 1 + self.random.randrange(4 - start))
            await (self.write(blocks) if self.random.random() < 0.6 else self.read(blocks))
            await asyncio.sleep(self.random.random() * 0.2)

    async def trouble(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await asyncio.sleep(self.random.random() * 6)
            worker = self.random.choice(self.workers)
            match self.random.randrange(6):
                case 0 | 1:
                    worker.stopped = True
                case 2:
                    for other in self.workers:
                        other.stopped = False
                case 3:
                    worker.restart()
                case 4 if worker.client.stream is not None:
                    worker.client.stream.end("the network")
                case 5 if self.random.random() < 0.5:
                    self.crashed.set()
                    await self.node.crash()
                    self.start_node()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.start_node()
        until = loop.time() + PLAY_SECONDS
        # Some groups of blocks lie over the edge of a chunk.
        firsts = [chunk * CHUNK // BLOCK + at for chunk in range(1, CHUNKS) for at in (-2, 40)]
        await asyncio.gather(*(self.client(first, until) for first in firsts), self.trouble(until))
        self.engine.troubled = False
        for worker in self.workers:
            worker.stopped = False
        await asyncio.sleep(CALM_SECONDS)
        for _ in range(2):
            for first in firsts:
                assert await self.read(range(first, first + 4)), "all is well, and nothing works"
            await asyncio.sleep(CALM_SECONDS)
        assert self.longest < IO_SECONDS + 0.5
        await self.node.crash()
        for task in [task for worker in self.workers for task in worker.end()]:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_block_goes_back_in_time(seed: int) -> None:
    async def main() -> None:
        play = Play(seed)
        await play.run()
        assert play.ended - play.failed > 100

    run_skipping(main())
