"""workers/uring.py on a real ring: what it reads, what it leaves to threads, and its bounds."""

from __future__ import annotations

import asyncio
import os
import platform
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest
import uvloop

from workers.executor import BlockingExecutor
from workers.file_store import FileStore
from workers.store import IoKind, StoreIo, StoreStatus
from workers.uring import ENTRIES, Uring, UringUnavailable, open_uring

BLOCK = 4096
BLOCKS = 512
DATA = random.Random(7).randbytes(BLOCK * BLOCKS)


@pytest.fixture(autouse=True)
def _available() -> None:
    try:
        uvloop.run(_open_and_close())
    except UringUnavailable as exc:
        pytest.skip(f"no io_uring here: {exc}")


async def _open_and_close() -> None:
    Uring(asyncio.get_running_loop()).close()


def run(main: Callable[[FileStore, Uring], Coroutine[None, None, None]], file: Path) -> None:
    async def inner() -> None:
        async with _store(file) as (store, uring):
            await main(store, uring)

    uvloop.run(inner())


@asynccontextmanager
async def _store(file: Path) -> AsyncIterator[tuple[FileStore, Uring]]:
    loop = asyncio.get_running_loop()
    uring = Uring(loop)
    executor = BlockingExecutor(2, loop.call_soon_threadsafe, uring)
    store = FileStore(file, executor)
    try:
        yield store, uring
    finally:
        store.close()
        executor.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(DATA)
    return path


def evict(path: Path) -> None:
    with path.open("rb") as image:
        os.fsync(image.fileno())
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reads(
    store: FileStore, blocks: list[int], length: int = BLOCK
) -> list[asyncio.Future[StoreIo]]:
    futures = []
    for block in blocks:
        future: asyncio.Future[StoreIo] = asyncio.get_running_loop().create_future()
        view = memoryview(bytearray(length))
        io = StoreIo(IoKind.READ, block * BLOCK, length, future.set_result, [view])
        store.submit(io)
        futures.append(future)
    return futures


def test_reads_what_is_on_the_disk(file: Path) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        for _ in range(4):  # more than the ring has places, so that it goes round
            evict(file)
            blocks = random.Random(1).sample(range(BLOCKS), ENTRIES)
            for block, io in zip(blocks, await asyncio.gather(*reads(store, blocks)), strict=True):
                assert io.status is StoreStatus.OK
                assert io.buffers[0] == DATA[block * BLOCK : (block + 1) * BLOCK]
        assert store._executor.jobs == 0

    run(main, file)


def test_one_system_call_for_what_is_queued_in_a_turn(file: Path) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        with mock.patch.object(uring, "_syscall", wraps=uring._syscall) as syscall:
            await asyncio.gather(*reads(store, list(range(32))))
        assert syscall.call_count == 1

    run(main, file)


def test_more_than_the_ring_has_places_for_goes_to_threads(file: Path) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        blocks = list(range(ENTRIES + 50))
        done = await asyncio.gather(*reads(store, blocks))
        assert [bytes(io.buffers[0]) for io in done] == [
            DATA[block * BLOCK : (block + 1) * BLOCK] for block in blocks
        ]
        assert store._executor.jobs == 50

    run(main, file)


def test_several_buffers_go_to_a_thread(file: Path) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        done = asyncio.get_running_loop().create_future()
        views = [memoryview(bytearray(BLOCK)) for _ in range(2)]
        store.submit(StoreIo(IoKind.READ, 0, 2 * BLOCK, done.set_result, views))
        await done
        assert b"".join(views) == DATA[: 2 * BLOCK]
        assert store._executor.jobs == 1

    run(main, file)


def test_what_cannot_be_read_is_said_by_a_thread(file: Path) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        (io,) = await asyncio.gather(*reads(store, [BLOCKS - 1], 2 * BLOCK))
        assert io.status is StoreStatus.READ_FAILED
        assert "ends at" in io.detail
        assert store._executor.jobs == 1

    run(main, file)


@pytest.mark.parametrize("taken", [-1, 0, 5])
def test_what_the_kernel_does_not_take_goes_to_threads(file: Path, taken: int) -> None:
    async def main(store: FileStore, uring: Uring) -> None:
        real = uring._syscall

        def some(number: int, fd: int, count: int, *rest: object) -> int:
            return int(real(number, fd, taken, *rest)) if taken > 0 else taken

        with mock.patch.object(uring, "_syscall", some):
            done = await asyncio.gather(*reads(store, list(range(16))))
        assert store._executor.jobs == 16 - max(taken, 0)
        done += await asyncio.gather(*reads(store, list(range(16, 32))))
        assert b"".join(io.buffers[0] for io in done) == DATA[: 32 * BLOCK]
        assert store._executor.jobs == 16 - max(taken, 0)

    run(main, file)


def test_without_one_there_are_threads(file: Path) -> None:
    with mock.patch.object(platform, "machine", return_value="armv7l"):
        assert open_uring(mock.Mock()) is None


def test_nothing_is_left_open(file: Path) -> None:
    kept = []

    async def main(store: FileStore, uring: Uring) -> None:
        await asyncio.gather(*reads(store, [0]))
        kept.append(uring)

    before = os.listdir("/proc/self/fd")
    run(main, file)
    assert len(os.listdir("/proc/self/fd")) == len(before)
