"""What a migration has left is deleted where, and only where, it cannot be the volume itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from target import volume_cleanup
from target.config import VolumeConfig
from target.config.load import load_serve_config
from target.config.options import Options
from target.datadir import DataDir, DataDirError, VolumeRecord, WorkerPlace
from target.identity import NodeIdentity
from target.pool_volumes import PoolVolumes
from target.volume_cleanup import Cleanup
from target.worker_volumes import WorkerVolumes
from tests.support.fake_worker import FakeWorker

NAME = "disk"
SIZE = 1 << 20
SECONDS = 10.0
LOCAL, STORE, OTHER = "", "engine", "another engine"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_cleanup, "RETRY_SECONDS", 0.02)


def _no_pool(name: str, record: VolumeRecord) -> PoolVolumes:
    raise DataDirError(f"{name} is in no pool")


class Node:
    """A volume at the first of the workers, which has left the second."""

    def __init__(self, folder: Path, fakes: list[FakeWorker]) -> None:
        self.data = DataDir(folder)
        first, second = (str(fake.address) for fake in fakes)
        wanted = VolumeConfig(name=NAME, size_bytes=SIZE)
        self.record = self.data.create(wanted, SIZE, [first], 0)
        assert self.record.workers is not None
        (self.place,) = self.record.workers
        self.left = WorkerPlace(key="left", address=second)
        self.record.retired = [self.left]
        log = structlog.get_logger()
        identity = NodeIdentity(id="node", epoch=1)
        config = load_serve_config(Options())
        self.workers = WorkerVolumes(config, self.data, identity, log)
        self.told: list[tuple[str, str, str]] = []  # what, name, UUID
        self.cleanup = Cleanup(
            self.data, lambda: self.workers, log, self._withdraw, self._forget, _no_pool
        )

    async def _withdraw(self, name: str, record: VolumeRecord) -> None:
        self.told.append(("withdraw", name, record.uuid))

    async def _forget(self, name: str, record: VolumeRecord) -> None:
        self.told.append(("forget", name, record.uuid))

    async def cleaned(self) -> None:
        """Nothing is left to be done."""
        self.cleanup.begin()
        await until(lambda: not self.record.retired)

    async def kept(self) -> str:
        """It cannot be done: why."""
        with capture_logs() as said:
            self.cleanup.begin()
            await until(lambda: any("reason" in entry for entry in said))
        assert self.record.retired == [self.left]
        return str(next(entry["reason"] for entry in said if "reason" in entry))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def setup(
    folder: Path, store: str, left: str
) -> AsyncIterator[tuple[Node, FakeWorker, FakeWorker]]:
    """The stores that the two workers have."""
    fakes = []
    for number, its in enumerate((store, left)):
        (folder / str(number)).mkdir()
        fake = FakeWorker(folder / str(number))
        fake.store_id, fake.instance = its, f"{number}.1" if its else ""
        await fake.start()
        fakes.append(fake)
    node = Node(folder, fakes)
    try:
        yield node, fakes[0], fakes[1]
    finally:
        await node.cleanup.stop()
        await node.workers.close()
        node.data.close()
        for fake in fakes:
            fake.deletes.set()
            await fake.stop()


Test = Callable[[Path], Coroutine[None, None, None]]


def run(test: Test) -> Callable[[Path], None]:
    """A coroutine as a test."""

    def wrapped(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    wrapped.__doc__ = test.__doc__
    return wrapped


@run
async def test_the_deletion_names_the_place_and_the_store(tmp_path: Path) -> None:
    async with setup(tmp_path, STORE, LOCAL) as (node, used, left):
        await node.cleaned()
        (request,) = left.deletions
        assert (request.place, request.HasField("store_id")) == ("left", True)
        assert request.store_id == LOCAL
        assert used.deletions == []


@run
async def test_another_shared_store(tmp_path: Path) -> None:
    async with setup(tmp_path, STORE, OTHER) as (node, _, left):
        node.left.store_id = OTHER
        await node.cleaned()
        assert [request.store_id for request in left.deletions] == [OTHER]


@run
async def test_the_store_that_the_volume_is_in(tmp_path: Path) -> None:
    """Neither place is known to have one: both were away when the migration was tried."""
    async with setup(tmp_path, STORE, STORE) as (node, used, left):
        await node.cleaned()
        assert left.deletions == used.deletions == []


@run
async def test_nothing_is_deleted_before_it_is_known_where_the_volume_is(tmp_path: Path) -> None:
    async with setup(tmp_path, STORE, STORE) as (node, used, left):
        await used.stop()
        assert str(used.address) in await node.kept()
        await used.start()
        await node.cleaned()
        assert left.deletions == []


@run
async def test_a_worker_that_has_another_store_than_it_had(tmp_path: Path) -> None:
    async with setup(tmp_path, LOCAL, OTHER) as (node, _, left):
        node.left.store_id = STORE
        assert "store that is known" in await node.kept()
        assert left.deletions == []
        left.store_id = STORE
        await node.cleaned()
        assert len(left.deletions) == 1


@run
async def test_what_is_planned_meanwhile_waits_for_the_answer(tmp_path: Path) -> None:
    async with setup(tmp_path, LOCAL, STORE) as (node, _, left):
        left.deletes.clear()
        node.cleanup.begin()
        await until(lambda: bool(left.deletions))
        assert node.cleanup.held.locked()
        kept = json.loads((node.data.path / "catalog.json").read_text())["volumes"][NAME]
        (place,) = kept["retired"]
        assert (place["store_id"], place["doomed"]) == (STORE, True), "for the next life"
        left.deletes.set()
        async with node.cleanup.held:
            assert node.record.retired == []


@run
async def test_what_becomes_a_place_while_it_is_waited_for_is_not_deleted(tmp_path: Path) -> None:
    async with setup(tmp_path, LOCAL, LOCAL) as (node, _, left):
        async with node.cleanup.held:  # as a migration does
            node.cleanup.begin()
            await asyncio.sleep(0)
            node.record.retired = []
        await until(lambda: not node.cleanup.held.locked())
        await node.cleanup.stop()
        assert left.deletions == []


@run
async def test_a_share_that_its_worker_refuses_is_not_in_its_store(tmp_path: Path) -> None:
    """One volume is served from the store of this address, another one was in another store."""
    async with setup(tmp_path, STORE, LOCAL) as (node, used, _):
        wanted = VolumeConfig(name="moved", size_bytes=SIZE)
        address = str(used.address)
        other = node.data.create(wanted, SIZE, [address], 1)
        assert other.workers is not None
        (place,) = other.workers
        place.created, place.store_id = True, OTHER
        volumes = [
            node.workers.open(NAME, node.record, read_only=False),
            node.workers.open("moved", other, read_only=False),
        ]
        node.workers.begin()
        await until(lambda: node.place.instance != "")
        assert (node.place.store_id, node.place.instance) == (STORE, "0.1")
        assert (place.store_id, place.instance) == (OTHER, "")
        for volume in volumes:
            volume.close()
