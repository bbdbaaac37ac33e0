"""Descriptors for reading: to whom, how often, and what can be done with them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import workers.grants
from target.block.direct_reads import DirectFile, ask_for
from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse
from workers.grants import CLIENTS_MAX, GRANTS_MAX, Grants
from workers.limits import grant_path
from workers.memory_store import MemoryStore

SIZE = 1 << 20


def play(folder: Path, story: Callable[[Grants, FileStore, str], Awaitable[None]]) -> None:
    async def main() -> None:
        executor = BlockingExecutor(1, asyncio.get_running_loop().call_soon_threadsafe)
        create_sparse(folder / "raw", SIZE)
        store = FileStore(folder / "raw", executor)
        path = str(folder / "worker")
        grants = Grants(path)
        grants.start()
        try:
            await story(grants, store, path)
        finally:
            await grants.stop()
            store.close()
            executor.close()

    asyncio.run(main())
    assert not Path(grant_path(str(folder / "worker"))).exists()


def test_a_token_is_good_once_and_for_reading(tmp_path: Path) -> None:
    async def story(grants: Grants, store: FileStore, path: str) -> None:
        token = grants.offer(store)
        fd = await ask_for(path, token)
        assert fd is not None
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.pwrite(fd, b"x", 0)
        buffer = bytearray(8)
        assert store.write_now(4096, [memoryview(b"abcdefgh")], 8)
        file = DirectFile(fd)
        assert file.read_now(4096, [memoryview(buffer)], 8)
        assert buffer == b"abcdefgh"
        assert not file.read_now(SIZE - 4, [memoryview(buffer)], 8), "past the end"
        file.close()
        assert await ask_for(path, token) is None
        assert await ask_for(path, bytes(16)) is None

    play(tmp_path, story)


def test_a_node_that_has_no_descriptor_to_spare_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def story(grants: Grants, store: FileStore, path: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            assert await ask_for(path, grants.offer(store)) is None

    play(tmp_path, story)


def test_it_is_the_file_that_the_store_has(tmp_path: Path) -> None:
    async def story(grants: Grants, store: FileStore, path: str) -> None:
        token = grants.offer(store)
        (tmp_path / "raw").rename(tmp_path / "old")
        (tmp_path / "raw").write_bytes(b"another")
        fd = await ask_for(path, token)
        assert fd is not None
        assert os.fstat(fd).st_size == SIZE
        os.close(fd)

    play(tmp_path, story)


def test_a_token_of_a_file_that_was_closed_is_good_for_no_other(tmp_path: Path) -> None:
    async def story(grants: Grants, store: FileStore, path: str) -> None:
        create_sparse(tmp_path / "deleted", SIZE)
        deleted = FileStore(tmp_path / "deleted", store._executor)
        token = grants.offer(deleted)
        deleted.close()
        taken = os.open(tmp_path / "raw", os.O_RDONLY)  # the lowest number that is free
        assert await ask_for(path, token) is None
        os.close(taken)
        fd = await ask_for(path, grants.offer(store))
        assert fd is not None
        os.close(fd)

    play(tmp_path, story)


def test_a_worker_that_has_no_descriptor_to_spare_does_not_look_for_one_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, failures, tries = socket.socket.accept, 2, 0
    tried = asyncio.Event()

    def none_left(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal tries
        tries += 1
        tried.set()
        if tries <= failures:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listener)

    async def story(grants: Grants, store: FileStore, path: str) -> None:
        nonlocal failures
        monkeypatch.setattr(workers.grants, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(socket.socket, "accept", none_left)
        fd = await ask_for(path, grants.offer(store))
        assert fd is not None
        os.close(fd)
        failures = 1 << 60
        monkeypatch.setattr(workers.grants, "RETRY_SECONDS", 3600)
        before = tries
        tried.clear()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(grant_path(path))
            await tried.wait()
            for _ in range(100):
                await asyncio.sleep(0)
        assert tries == before + 1

    play(tmp_path, story)


def test_what_has_no_file_is_not_granted(tmp_path: Path) -> None:
    async def story(grants: Grants, store: FileStore, path: str) -> None:
        assert grants.offer(MemoryStore(SIZE)) == b""

    play(tmp_path, story)


def test_bounds(tmp_path: Path) -> None:
    async def story(grants: Grants, store: FileStore, path: str) -> None:
        first = grants.offer(store)
        for _ in range(GRANTS_MAX):
            last = grants.offer(store)
        assert await ask_for(path, first) is None, "the oldest is forgotten"
        silent = [socket.socket(socket.AF_UNIX) for _ in range(CLIENTS_MAX)]
        for each in silent:
            each.connect(grant_path(path))
        silent[0].close()  # makes room; the others are sent away in time
        fd = None
        while fd is None:
            fd = await ask_for(path, last)
        os.close(fd)
        for each in silent[1:]:
            each.close()

    play(tmp_path, story)
