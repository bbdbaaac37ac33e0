"""Two nodes with one catalog, in one event loop: the registry in memory, two workers.

async with pair(tmp_path) as two:
    await two.create(two.one, 0)
    assert two.other.serves
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from target.access_changes import AccessChanges
from target.block.pool import BufferPool
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices
from target.config import VolumeConfig
from target.config.load import load_serve_config
from target.config.options import Options
from target.datadir import DataDir, VolumeRecord
from target.iscsi.parameters import TargetLimits
from target.iscsi.target import IscsiTarget, TargetOptions
from target.scsi.bus import SCSIBus
from target.shared_catalog import SharedCatalog
from target.volume_changes import VolumeChanges
from target.volume_following import TITLE
from target.volumes import Volumes
from tests.simulation.world import SILENT
from tests.support.cluster_nodes import cluster_node
from tests.support.fake_worker import FakeWorker
from workers.executor import BlockingExecutor

NAME = "db"
IQN = "iqn.2026-11.test:target"
SIZE = 1 << 20
SECONDS = 10.0
WANTED = VolumeConfig(name=NAME, size_bytes=SIZE)


class Node:
    """What a node has for its volumes, and for who may use them."""

    def __init__(self, folder: Path, node: ClusterNode) -> None:
        loop = asyncio.get_running_loop()
        config = load_serve_config(
            Options(data_dir=str(folder), volume="disk0=1M", worker_timeout=1.0, worker_wait=2.0)
        )
        self.data = DataDir(folder)
        self.executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        bus, pool = SCSIBus(), BufferPool(config.buffer_memory_bytes)
        self.volumes = Volumes(
            config,
            self.data,
            self.executor,
            bus,
            pool,
            SILENT,
            port_designators=lambda _: [],
        )
        self.volumes.shared = self.catalog = SharedCatalog(node, self.data, SILENT)
        self.changes = VolumeChanges(self.volumes, lambda _: 0, SILENT)
        self.target = IscsiTarget(
            IQN,
            bus,
            pool,
            limits=TargetLimits(),
            options=TargetOptions(),
            random=os.urandom,
            clock=loop.time,
        )

    async def start(self) -> None:
        await self.catalog.join(())
        self.access = AccessChanges(
            self.data, self.target, self.volumes.target_of, (), self.catalog, SILENT
        )
        self.volumes.workers().begin()
        self.catalog.add_follower(TITLE, self.changes.following.follow)
        await self.catalog.following.begin()

    def admits(self, initiator: str) -> bool:
        return self.target.access.admits(initiator, IQN)

    async def close(self) -> None:
        await self.volumes.stop()
        await self.catalog.close()
        await self.volumes.close()
        self.executor.close()
        self.data.close()

    @property
    def serves(self) -> bool:
        return self.volumes.address_of(NAME) is not None

    async def shared(self) -> VolumeRecord | None:
        return (await self.catalog.change(lambda records: False)).get(NAME)


class Pair:
    """Two nodes, and two workers."""

    def __init__(
        self,
        nodes: list[Node],
        members: list[ClusterNode],
        workers: list[FakeWorker],
        registry: MemoryRegistry,
    ) -> None:
        self.one, self.other = nodes
        self.members = members
        self.workers = workers
        self.registry = registry

    async def create(self, node: Node, worker: int) -> str:
        """The new volume's UUID."""
        await node.changes.create(WANTED, workers=[str(self.workers[worker].address)])
        record = node.data.record(NAME)
        assert record is not None
        return record.uuid


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    members: dict[str, ClusterNode] = {}

    def deliver(name: str, notice: Callable[[Notices], None]) -> None:
        if name in members:
            loop.call_soon(notice, members[name])

    registry = MemoryRegistry(lambda: round(loop.time() * 1000), deliver)
    async with AsyncExitStack() as stack:
        workers = []
        for number in range(2):
            (folder / f"worker{number}").mkdir()
            worker = FakeWorker(folder / f"worker{number}")
            await worker.start()
            stack.push_async_callback(worker.stop)
            stack.callback(worker.deletes.set)
            workers.append(worker)
        nodes = []
        for name in ("one", "other"):
            member = members[name] = cluster_node(registry, name)
            await member.join(0, "{}")
            member.start()
            stack.push_async_callback(member.stop)
            node = Node(folder / name, member)
            stack.push_async_callback(node.close)
            await node.start()
            nodes.append(node)
        yield Pair(nodes, list(members.values()), workers, registry)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
