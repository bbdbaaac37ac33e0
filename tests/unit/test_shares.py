"""Shares of volumes in a directory: what survives, what is refused, what is left alone."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers import metadata, share_dir
from workers.executor import BlockingExecutor
from workers.fences import FenceError, Fences
from workers.share_dir import ShareDir, ShareDirError
from workers.shares import MemoryShares, ShareError, ShareFault, ShareInfo, Shares
from workers.store import IoKind, StoreIo, StoreStatus
from workers.worker import Worker

INFO = ShareInfo("disk", bytes(range(16)), 1 << 20, 1 << 16, 512)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


class Opened:
    """A share directory and what it needs, for one block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> ShareDir:
        loop = asyncio.get_running_loop()
        self._executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        self.shares = ShareDir(self._path, self._executor)
        self.warnings = await self.shares.load()
        return self.shares

    async def __aexit__(self, *_: object) -> None:
        self._executor.close()
        self.shares.close()


async def fault_of(coroutine: Coroutine[Any, Any, object]) -> ShareFault:
    with pytest.raises(ShareError) as caught:
        await coroutine
    return caught.value.fault


def test_a_share_is_there_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
            share = await shares.open(INFO.uuid)
            assert share.store is not None
            assert share.store.write_now(4096, [memoryview(b"kept")], 4)
            await shares.resize(INFO.uuid, 2 << 20)
            assert share.store.size == 2 << 20
        async with Opened(tmp_path) as shares:
            assert shares.list_after("", 10) == [replace(INFO, size=2 << 20)]
            store = (await shares.open(INFO.uuid)).store
            assert store is not None
            found = bytearray(4)
            done = asyncio.Event()
            io = StoreIo(IoKind.READ, 4096, 4, lambda _: done.set(), [memoryview(found)])
            store.submit(io)
            await done.wait()
            assert (io.status, bytes(found)) == (StoreStatus.OK, b"kept")

    run(main())


def test_the_raw_file_is_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
        raw = tmp_path / "volumes" / "disk" / f"{INFO.uuid.hex()}.raw"
        assert (raw.stat().st_size, raw.stat().st_blocks) == (1 << 20, 0)

    run(main())


def test_a_second_worker_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path):
            with pytest.raises(ShareDirError, match=f"in use by process {os.getpid()}$"):
                async with Opened(tmp_path):
                    pass
        async with Opened(tmp_path):
            pass

    run(main())


def test_a_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ShareDirError, match=r"^store directory [^\n]+$"):
            async with Opened(tmp_path / "file"):
                pass

    run(main())


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_create_is_safe_to_repeat_and_refuses_another(tmp_path: Path, kind: str) -> None:
    async def check(shares: Shares) -> None:
        await shares.create(INFO)
        await shares.create(INFO)
        for other in (
            replace(INFO, uuid=bytes(16)),
            replace(INFO, name="b"),
            replace(INFO, size=512),
        ):
            assert await fault_of(shares.create(other)) is ShareFault.EXISTS
        assert shares.list_after("", 10) == [INFO]

    async def main() -> None:
        if kind == "memory":
            await check(MemoryShares())
        else:
            async with Opened(tmp_path) as shares:
                await check(shares)

    run(main())


@pytest.mark.parametrize(
    "bad",
    [
        replace(INFO, name=name)
        for name in ("", ".", "..", "a/b", "a\0b", "-x", "é", "x" * 65, "a\n")
    ]
    + [
        replace(INFO, uuid=b""),
        replace(INFO, size=0),
        replace(INFO, size=513),
        replace(INFO, size=1 << 61),
        replace(INFO, chunk_bytes=0),
        replace(INFO, chunk_bytes=65537),
        replace(INFO, chunk_bytes=128 << 20),
        replace(INFO, block_bytes=1024),
        replace(INFO, block_bytes=0),
    ],
)
def test_what_is_out_of_bounds_is_refused(bad: ShareInfo) -> None:
    run_fault = fault_of(MemoryShares().create(bad))
    assert asyncio.run(run_fault) is ShareFault.INVALID


def test_delete_is_safe_to_repeat_and_leaves_what_is_not_ours(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            for _ in range(2):
                await shares.create(INFO)
                await shares.open(INFO.uuid)
                note = tmp_path / "volumes" / "disk" / "README"
                note.touch()
                await shares.delete(INFO.uuid)
                await shares.delete(INFO.uuid)
                assert os.listdir(note.parent) == ["README"]
            note.unlink()
            await shares.create(INFO)
            await shares.delete(INFO.uuid)
            assert os.listdir(tmp_path / "volumes") == []

    run(main())


def test_a_creation_that_comes_after_the_deletion_makes_nothing(tmp_path: Path) -> None:
    """It was on its way to a worker that was stopped; its caller has given it up."""

    async def main() -> None:
        async with Opened(tmp_path) as shares:
            worker = Worker(shares, buffer_memory_bytes=64 << 20, io_threads=1)
            here, elsewhere = replace(INFO, place="a"), replace(INFO, place="b")
            await worker.delete(INFO.uuid, "a")
            assert await fault_of(shares.create(here)) is ShareFault.MISSING
            await shares.create(elsewhere)
            await worker.delete(INFO.uuid)
            assert await fault_of(shares.create(elsewhere)) is ShareFault.MISSING
            assert os.listdir(tmp_path / "volumes") == []
            await shares.create(replace(elsewhere, uuid=bytes(16)))  # another of that name

    run(main())


def test_shrinking_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
            assert await fault_of(shares.resize(INFO.uuid, 512)) is ShareFault.INVALID
            assert await fault_of(shares.resize(bytes(16), 1 << 21)) is ShareFault.MISSING

    run(main())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"format": 2, "name": "disk", "uuid": "00", "size_bytes": 512}',
        "x" * 70000,
        "\0",
    ],
)
def test_metadata_that_cannot_be_read_is_said_and_left(tmp_path: Path, text: str) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
            await shares.create(replace(INFO, name="other", uuid=bytes(16)))
        file = tmp_path / "volumes" / "disk" / "share.json"
        file.write_text(text)
        opened = Opened(tmp_path)
        async with opened as shares:
            assert [info.name for info in shares.list_after("", 10)] == ["other"]
            assert [str(file) in warning for warning in opened.warnings] == [True]
            assert await fault_of(shares.create(INFO)) is ShareFault.EXISTS
        assert file.read_text() == text

    run(main())


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("name", "else"), ("uuid", "zz"), ("size_bytes", -1), ("colour", "blue")],
)
def test_metadata_that_contradicts_itself_is_said(tmp_path: Path, key: str, value: object) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
        file = tmp_path / "volumes" / "disk" / "share.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        opened = Opened(tmp_path)
        async with opened as shares:
            assert shares.list_after("", 10) == []
            assert len(opened.warnings) == 1

    run(main())


def test_a_raw_file_that_is_too_short_is_not_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
            raw = tmp_path / "volumes" / "disk" / f"{INFO.uuid.hex()}.raw"
            os.truncate(raw, 4096)
            with pytest.raises(OSError, match="4096 bytes long"):
                await shares.open(INFO.uuid)

    run(main())


def test_leftovers_of_a_crash_are_used_only_while_they_are_empty(tmp_path: Path) -> None:
    async def main() -> None:
        folder = tmp_path / "volumes" / "disk"
        folder.mkdir(parents=True)
        raw = folder / f"{INFO.uuid.hex()}.raw"
        raw.write_bytes(b"somebody's data")
        os.sync()
        opened = Opened(tmp_path)
        async with opened as shares:
            assert len(opened.warnings) == 1
            assert await fault_of(shares.create(INFO)) is ShareFault.EXISTS
            assert raw.read_bytes() == b"somebody's data"
            raw.write_bytes(b"")
            os.truncate(raw, 512)
            await shares.create(INFO)
            assert raw.stat().st_size == INFO.size

    run(main())


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        file = tmp_path / "file"
        await metadata.write_atomically(file, b"old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            await metadata.write_atomically(file, b"new")
        assert file.read_bytes() == b"old"

    run(main())


def test_fences_are_kept_and_only_rise(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:
            fences = Fences(shares.save_fences)
            fences.load(await shares.load_fences())
            await fences.add("a", 7)
            await fences.add("b", 0)
            await fences.add("a", 3)
        async with Opened(tmp_path) as shares:
            fences = Fences(shares.save_fences)
            fences.load(await shares.load_fences())
            assert fences.some(10) == [("a", 7), ("b", 0)]
            assert [fences.refuses("a", epoch) for epoch in (0, 7, 8)] == [True, True, False]
            assert not fences.refuses("c", 0)

    run(main())


def test_a_fence_that_cannot_be_kept_is_in_force_and_tried_again() -> None:
    kept: list[bytes] = []
    broken = True

    async def save(data: bytes) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        kept.append(data)

    async def main() -> None:
        nonlocal broken
        fences = Fences(save)
        with pytest.raises(OSError, match="No space"):
            await fences.add("a", 1)
        assert fences.refuses("a", 1)
        assert not kept
        broken = False
        await fences.add("a", 1)
        await fences.add("a", 1)
        assert len(kept) == 1

    run(main())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format": 2, "fences": {}}', b"\xff"])
def test_fences_that_cannot_be_read_stop_the_worker(data: bytes) -> None:
    async def save(_: bytes) -> None:
        raise AssertionError

    with pytest.raises(FenceError):
        Fences(save).load(data)


def left(path: Path) -> list[str]:
    """What is in the folder of volumes."""
    return sorted(str(it.relative_to(path / "volumes")) for it in (path / "volumes").rglob("*"))


def test_what_a_crash_has_left_without_a_byte_goes_at_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with Opened(tmp_path):
            pass
        folder = tmp_path / "volumes" / "disk"
        folder.mkdir()
        os.truncate(os.open(folder / f"{INFO.uuid.hex()}.raw", os.O_CREAT | os.O_RDWR), 1 << 20)
        (folder / "share.json.new").write_text("{")
        async with Opened(tmp_path):
            assert left(tmp_path) == []
        folder.mkdir()
        (folder / f"{INFO.uuid.hex()}.raw").write_bytes(b"data" * 4096)
        async with Opened(tmp_path):
            assert left(tmp_path) == ["disk", f"disk/{INFO.uuid.hex()}.raw"]

    run(main())


@pytest.mark.parametrize("step", range(4))
def test_a_deletion_that_stopped_is_ended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    steps = 0

    async def broken(path: Path) -> None:
        nonlocal steps
        if steps == step:
            raise OSError(5, "Input/output error", str(path))
        steps += 1

    async def main() -> None:
        async with Opened(tmp_path) as shares:
            await shares.create(INFO)
            share = await shares.open(INFO.uuid)
            assert share.store is not None
            assert share.store.write_now(0, [memoryview(b"x" * 65536)], 65536)
            with monkeypatch.context() as patch:
                patch.setattr(share_dir, "sync_directory", broken)
                with pytest.raises(OSError, match="Input/output"):
                    await shares.delete(INFO.uuid)
        assert left(tmp_path)
        async with Opened(tmp_path) as shares:
            assert shares.list_after("", 10) == []
            assert left(tmp_path) == []

    run(main())


def test_what_could_not_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Opened(tmp_path) as shares:

            def full(fd: int) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                with pytest.raises((OSError, ShareError)):
                    await shares.create(INFO)
            assert left(tmp_path) == []
            await shares.create(INFO)
            (tmp_path / "volumes" / "disk" / "share.json.new").write_text("{")
            await shares.delete(INFO.uuid)
            assert left(tmp_path) == []

    run(main())


@pytest.mark.parametrize("repeated", [True, False], ids=["and is repeated", "at the end"])
def test_a_change_whose_caller_has_gone_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    """gRPC cancels the call of a caller that has gone."""
    begun, may = asyncio.Event(), asyncio.Event()

    async def slow(path: Path, data: bytes) -> None:
        begun.set()
        await may.wait()
        await metadata.write_atomically(path, data)

    monkeypatch.setattr(share_dir, "write_atomically", slow)

    async def main() -> None:
        async with Opened(tmp_path) as shares:
            call = asyncio.ensure_future(shares.create(INFO))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            asyncio.get_running_loop().call_soon(may.set)
            if repeated:
                await shares.create(INFO)
            else:
                await shares.settle(10)
            assert shares.list_after("", 10) == [INFO]
        async with Opened(tmp_path) as shares:
            assert shares.list_after("", 10) == [INFO]

    run(main())


def test_a_creation_that_failed_after_its_last_step_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    async def main() -> None:
        async with Opened(tmp_path) as shares:
            with monkeypatch.context() as patch:
                patch.setattr(metadata, "sync_directory", broken)  # share.json has its name by then
                with pytest.raises(OSError, match="Input/output"):
                    await shares.create(INFO)
            assert await fault_of(shares.create(replace(INFO, size=512))) is ShareFault.EXISTS
            await shares.create(INFO)
            assert (await shares.open(INFO.uuid)).store is not None

    run(main())


def test_one_look_at_a_shared_store_is_for_all_who_have_come_before_it() -> None:
    class Looked(MemoryShares):
        looks = 0
        begun, may = asyncio.Event(), asyncio.Event()

        async def _refresh(self) -> None:
            self.looks += 1
            self.begun.set()
            await self.may.wait()

    async def main() -> None:
        shares = Looked()
        infos = [replace(INFO, name=f"disk{n}", uuid=bytes([n] * 16)) for n in range(8)]
        shares.may.set()
        for info in infos:
            await shares.create(info)
        shares.may.clear()
        shares.begun.clear()
        before = shares.looks
        first = asyncio.ensure_future(shares.refresh())
        await shares.begun.wait()
        opens = [asyncio.ensure_future(shares.open(info.uuid)) for info in infos]
        given_up = asyncio.ensure_future(shares.refresh())
        await asyncio.sleep(0)
        given_up.cancel()
        shares.may.set()
        await asyncio.gather(first, *opens)
        assert shares.looks == before + 2, "what was going on is too old for who comes meanwhile"

    run(main())
