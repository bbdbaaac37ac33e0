"""Volumes of a node: none moves to where a deletion may still come, and all are flushed at once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from target import datadir
from target.block.pool import BufferPool
from target.block.volume import Volume
from target.block.wait import PENDING
from target.config import VolumeConfig
from target.config.load import load_serve_config
from target.config.options import Options
from target.datadir import DataDir, DataDirError, WorkerPlace
from target.scsi.bus import SCSIBus
from target.shared_catalog import Catalog
from target.volume_changes import VolumeChanges
from target.volume_errors import VolumeError, VolumeFault
from target.volumes import Volumes
from tests.support.fake_worker import FakeWorker
from workers.executor import BlockingExecutor

NAME = "db"
SIZE = 1 << 20
STORES = ("", "engine", "engine")  # of the worker that has the volume, one that had it, another


class Node:
    """With a volume that has left worker 1, which does not answer."""

    def __init__(self, folder: Path, fakes: list[FakeWorker]) -> None:
        self.addresses = [str(fake.address) for fake in fakes]
        options = Options(
            data_dir=str(folder / "data"), volume="disk0=1M", worker_timeout=1.0, worker_wait=5.0
        )
        config = load_serve_config(options)
        loop, log = asyncio.get_running_loop(), structlog.get_logger()
        self.data = DataDir(config.data_dir)
        wanted = VolumeConfig(name=NAME, size_bytes=SIZE)
        self.record = self.data.create(wanted, SIZE, self.addresses[:1], 1)
        self.left = WorkerPlace(key="left", address=self.addresses[1], store_id=STORES[1])
        self.record.retired = [self.left]
        self.executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        pool = BufferPool(config.buffer_memory_bytes)
        self.volumes = Volumes(
            config, self.data, self.executor, SCSIBus(), pool, log, port_designators=lambda _: []
        )
        self.changes = VolumeChanges(self.volumes, lambda _: 0, log)

    async def refused(self, *workers: int) -> str:
        """It cannot be moved there: why."""
        with pytest.raises(VolumeError) as raised:
            await self.changes.migrate(NAME, [self.addresses[n] for n in workers])
        assert raised.value.fault is VolumeFault.CONFLICT
        assert self.record.migration is None
        return str(raised.value)


@asynccontextmanager
async def setup(folder: Path) -> AsyncIterator[Node]:
    fakes = []
    for number, store in enumerate(STORES):
        (folder / str(number)).mkdir()
        fake = FakeWorker(folder / str(number))
        fake.store_id, fake.instance = store, f"{number}.1" if store else ""
        await fake.start()
        fakes.append(fake)
    fakes[1].runs.clear()
    node = Node(folder, fakes)
    await node.volumes.start(all_volumes=True)
    try:
        yield node
    finally:
        await node.volumes.stop()
        await node.volumes.close()
        node.executor.close()
        node.data.close()
        for fake in fakes:
            fake.runs.set()
            await fake.stop()


def test_what_was_left_of_an_attempt_is_in_the_way_only_if_something_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = DataDir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(datadir, "write_atomically", full)
        for name in ("empty", "full"):
            with pytest.raises(OSError, match="No space"):
                data.create(VolumeConfig(name=name, size_bytes=SIZE), SIZE, [], 1)
    (tmp_path / "volumes" / "full.raw").write_bytes(b"somebody's")
    data.create(VolumeConfig(name="empty", size_bytes=2 * SIZE), 2 * SIZE, [], 1)
    assert data.file_of("empty").stat().st_size == 2 * SIZE
    with pytest.raises(DataDirError, match="move it away"):
        data.create(VolumeConfig(name="full", size_bytes=2 * SIZE), 2 * SIZE, [], 2)
    data.close()


def test_to_a_worker_that_has_not_deleted_its_old_share(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as node:
            assert node.addresses[1] in await node.refused(1)

    asyncio.run(test())


def test_into_a_store_where_a_deletion_was_not_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as node:
            node.data.doom_retired(node.left, STORES[1])
            assert node.addresses[1] in await node.refused(2)

    asyncio.run(test())


def test_into_a_store_where_nothing_was_to_be_deleted_yet(tmp_path: Path) -> None:
    """Who had the volume there may be away for ever."""

    async def test() -> None:
        async with setup(tmp_path) as node:
            await node.changes.migrate(NAME, [node.addresses[2]])
            assert node.record.migration is not None
            assert [place.store_id for place in node.record.migration.workers] == [STORES[2]]

    asyncio.run(test())


def test_all_are_flushed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of each may be away, and its flush take the time that an I/O has."""
    begun: list[Callable[[None], None]] = []

    class AnswersWithTheLast:
        def begin(self, done: Callable[[None], None]) -> object:
            begun.append(done)
            if len(begun) == 2:
                for each in begun:
                    asyncio.get_running_loop().call_soon(each, None)
            return PENDING

    async def test() -> None:
        async with setup(tmp_path) as node:
            monkeypatch.setattr(Volume, "flush", lambda _: AnswersWithTheLast())
            async with asyncio.timeout(10):
                await node.volumes.flush()
            assert len(begun) == len(node.volumes.by_address) == 2

    asyncio.run(test())


def test_what_could_not_be_made_is_still_deleted_when_others_know_nothing_of_it(
    tmp_path: Path,
) -> None:
    async def catalog() -> Catalog:
        return Catalog()

    async def test() -> None:
        async with setup(tmp_path) as node:
            node.record.shared = True
            node.data.begin_delete(NAME)
            await node.changes.following.follow(catalog)
            assert node.data.is_deleting(NAME), "its data are there still"
            node.record.deleting = False
            await node.changes.following.follow(catalog)
            assert node.data.record(NAME) is None, "another node has deleted it"

    asyncio.run(test())
