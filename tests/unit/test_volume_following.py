"""Two nodes with one catalog: a name comes again while what had it is being deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from target import volume_cleanup, volume_following
from target.block.pool import BufferPool
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices, RegistryAway
from target.config import VolumeConfig
from target.config.load import load_serve_config
from target.config.options import Options
from target.datadir import DataDir, DataDirError, VolumeRecord
from target.scsi.bus import SCSIBus
from target.shared_catalog import KEY, UNIT, Catalog, SharedCatalog
from target.volume_changes import VolumeChanges
from target.volume_errors import VolumeError
from target.volumes import Volumes
from tests.simulation.world import SILENT
from tests.support.fake_worker import FakeWorker
from workers.executor import BlockingExecutor

NAME = "db"
SIZE = 1 << 20
SECONDS = 10.0
WANTED = VolumeConfig(name=NAME, size_bytes=SIZE)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_cleanup, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(volume_following, "HELP_SECONDS", 0.05)


class Node:
    """What a node has for its volumes."""

    def __init__(self, folder: Path, node: ClusterNode) -> None:
        loop = asyncio.get_running_loop()
        config = load_serve_config(
            Options(data_dir=str(folder), volume="disk0=1M", worker_timeout=1.0, worker_wait=2.0)
        )
        self.data = DataDir(folder)
        self.executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        self.volumes = Volumes(
            config,
            self.data,
            self.executor,
            SCSIBus(),
            BufferPool(config.buffer_memory_bytes),
            SILENT,
            port_designators=lambda _: [],
        )
        self.volumes.shared = self.catalog = SharedCatalog(node, self.data, SILENT)
        self.changes = VolumeChanges(self.volumes, lambda _: 0, SILENT)

    async def start(self) -> None:
        await self.catalog.join(())
        self.catalog.follow = self.changes.following.follow
        self.volumes.workers().begin()

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

    def __init__(self, nodes: list[Node], workers: list[FakeWorker]) -> None:
        self.one, self.other = nodes
        self.workers = workers

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
            member = members[name] = ClusterNode(
                lambda notices: registry,
                name,
                lease_seconds=5.0,
                wait_seconds=5.0,
                clock=loop.time,
                wall=loop.time,
                log=SILENT,
                on_fenced=lambda: None,
                on_stalled=lambda: None,
            )
            await member.join(0, "{}")
            member.start()
            stack.push_async_callback(member.stop)
            node = Node(folder / name, member)
            stack.push_async_callback(node.close)
            await node.start()
            nodes.append(node)
        yield Pair(nodes, workers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_volume_is_there_and_goes_on_all_nodes(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            assert two.other.serves
            await two.other.changes.delete(NAME, force=True)
            assert not two.one.serves
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            assert two.workers[0].deletions
            await two.create(two.one, 0)
            assert two.other.serves

    asyncio.run(story())


def test_a_new_volume_outlives_the_deletion_of_one_that_had_its_name(tmp_path: Path) -> None:
    """What could not be made here is being deleted when another node makes one elsewhere."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            first, second = two.workers
            first.runs.clear()  # it is made there, and not opened in time
            first.deletes.clear()
            with pytest.raises(VolumeError):
                await two.create(two.one, 0)
            failed = two.one.data.record(NAME)
            assert failed is not None
            await until(lambda: bool(first.deletions))  # which is not answered
            made = await two.create(two.other, 1)
            assert two.one.serves
            first.runs.set()
            first.deletes.set()
            await until(lambda: set(two.one.data.volumes) == {NAME})
            shared, here = await two.one.shared(), two.one.data.record(NAME)
            assert shared is not None
            assert here is not None
            assert shared.uuid == here.uuid == made != failed.uuid
            assert two.one.serves
            assert two.other.serves
            assert second.deletions == []

    asyncio.run(story())


def test_a_deletion_that_its_node_does_not_end_is_ended_by_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            made = await two.create(two.one, 0)

            def doom(records: dict[str, VolumeRecord]) -> bool:
                records[NAME].deleting = True
                return True

            await two.one.catalog.change(doom)  # by a node that has died then
            await two.one.catalog.announce()
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            assert {deletion.uuid.hex() for deletion in two.workers[0].deletions} == {
                made.replace("-", "")
            }

    asyncio.run(story())


def test_what_was_read_before_a_change_is_not_followed_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            lock = two.one.changes._lock
            async with lock:  # a change is being made
                following = asyncio.ensure_future(
                    two.one.changes.following.follow(two.one.catalog._load_followed)
                )
                await asyncio.sleep(0.05)
                await two.one.catalog.change(lambda records: bool(records.pop(NAME)))
                two.one.data.begin_delete(NAME)
            await following
            assert two.one.data.is_deleting(NAME), "it has not come back"

    asyncio.run(story())


def test_what_is_being_deleted_does_not_come_back(tmp_path: Path) -> None:
    """The answer was lost, and the others have it; some of its data may be gone."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            two.workers[0].deletes.clear()
            made = await two.create(two.one, 0)
            address = two.one.volumes.address_of(NAME)
            assert address is not None
            two.one.data.begin_delete(NAME)
            await two.one.volumes.remove(address)
            await two.other.catalog.announce()
            assert two.one.data.is_deleting(NAME)
            assert not two.one.serves
            two.one.volumes.cleanup.begin()
            await until(lambda: not two.other.serves)
            two.workers[0].deletes.set()
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            again = await two.create(two.one, 0)
            assert again != made

    asyncio.run(story())


def test_two_volumes_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    mine = data.create(WANTED, SIZE, ["unix:/w"], 0)
    theirs = VolumeRecord(
        uuid="another", block_bytes=512, chunk_bytes=65536, size_bytes=SIZE, shared=True
    )
    with pytest.raises(DataDirError, match="another one"):
        data.adopt(NAME, theirs)
    assert data.record(NAME) is mine
    data.begin_delete(NAME)
    data.adopt(NAME, msgspec.structs.replace(mine, deleting=False))
    assert data.is_deleting(NAME), "some of it is gone"
    data.adopt(NAME, theirs)
    assert data.record(NAME) is theirs
    assert mine in data.volumes.values(), "it is still to go"
    data.close()


def test_a_catalog_that_cannot_be_read_now_is_asked_for_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            node = two.other.catalog
            load, calls = node._load, 0

            async def away_once() -> tuple[int, Catalog]:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise RegistryAway("away")
                return await load()

            node._load = away_once  # type: ignore[method-assign]
            await two.create(two.one, 0)
            assert two.other.serves
            assert (UNIT, KEY) == ("catalog", "volumes")

    asyncio.run(story())


def test_who_closes_the_catalog_ends_what_it_follows_and_follows_nothing_more(
    tmp_path: Path,
) -> None:
    """What a node does to end, over all its volumes, is not to meet one that comes or goes."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            lock = two.other.changes._lock
            await lock.acquire()
            deleting = asyncio.ensure_future(two.one.changes.delete(NAME, force=True))
            await until(lambda: bool(two.other.catalog._followed))
            closing = asyncio.ensure_future(two.other.catalog.close())
            await asyncio.sleep(0)
            assert not closing.done()
            lock.release()
            await closing
            assert not two.other.serves
            await deleting
            await until(lambda: not two.one.data.record(NAME))
            await two.create(two.one, 0)
            assert not two.other.serves

    asyncio.run(story())
