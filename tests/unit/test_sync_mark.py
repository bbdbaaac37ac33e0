"""What a worker's next process knows of flushes that failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.small_disk import CannotMount, LosingDisk, SmallDisk
from workers.executor import BlockingExecutor
from workers.share_dir import ShareDir
from workers.shares import ShareInfo
from workers.sync_mark import NEVER, ErrorRecord, SyncMark

MIB = 1 << 20
D = TypeVar("D", SmallDisk, LosingDisk)
INFOS = [ShareInfo(f"disk{n}", bytes([n] * 16), MIB, 1 << 16, 512) for n in range(2)]


class Errors(ErrorRecord):
    """A file system that had errors, or none."""

    def __init__(self, clean: bool = True) -> None:
        self._clean = clean

    def clean(self) -> bool:
        assert self._clean is not None
        return self._clean


@contextlib.contextmanager
def mark_at(path: Path, errors: ErrorRecord | None = None) -> Iterator[SyncMark]:
    """As one process has it."""
    mark = SyncMark(path / "mark", errors or Errors())
    try:
        yield mark
    finally:
        mark.close()


def test_where_nothing_failed_nothing_is_in_doubt(tmp_path: Path) -> None:
    for _ in range(2):
        with mark_at(tmp_path, Errors(clean=False)) as mark:
            assert mark.lost == NEVER
            mark.begin()
            mark.begin()
            mark.end()
            mark.end()


def test_a_flush_that_failed_is_known_to_all_later_processes(tmp_path: Path) -> None:
    with mark_at(tmp_path) as mark:
        mark.begin()
        assert mark.lose()
        lost = mark.lost
        assert lost != NEVER
    for _ in range(2):
        with mark_at(tmp_path) as mark:
            assert mark.lost == lost
    with mark_at(tmp_path) as mark:
        assert mark.lose()
        assert mark.lost not in (lost, NEVER), "another one each time"


@pytest.mark.parametrize("clean", [True, False])
def test_of_a_sync_that_was_cut_short_the_file_system_knows(tmp_path: Path, clean: bool) -> None:
    with mark_at(tmp_path) as mark:
        mark.begin()  # and killed
    with mark_at(tmp_path, Errors(clean)) as mark:
        assert (mark.lost == NEVER) is clean
        lost = mark.lost
    with mark_at(tmp_path, Errors(clean=False)) as mark:
        assert mark.lost == lost, "it was asked once"


@pytest.mark.parametrize("content", [b"garbage", b"lunmesh sync 2 idle    " + b"0" * 16, bytes(40)])
def test_a_mark_that_cannot_be_read_is_in_doubt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mark").write_bytes(content)
    with mark_at(tmp_path) as mark:
        lost = mark.lost
        assert lost != NEVER
    with mark_at(tmp_path) as mark:
        assert mark.lost == lost, "and mended"


def test_where_no_mark_can_be_kept_each_process_is_in_doubt(tmp_path: Path) -> None:
    found = set()
    for _ in range(3):
        with mark_at(tmp_path / "missing") as mark:
            mark.begin()
            mark.end()
            assert not mark.lose()
            found.add(mark.lost)
    assert len(found | {NEVER}) == 4


def test_a_full_disk_does_not_keep_a_failure_from_being_kept(tmp_path: Path) -> None:
    with _mounted(SmallDisk(tmp_path / "disk", MIB)) as disk:
        with mark_at(disk.folder):
            pass
        disk.fill()
        with mark_at(disk.folder) as mark:
            mark.begin()
            assert mark.lose()
            lost = mark.lost
        with mark_at(disk.folder) as mark:
            assert mark.lost == lost


def test_linux_tells_a_later_process_of_an_error_that_fsync_has_told_already(
    tmp_path: Path,
) -> None:
    """All volumes hear of it, and it is asked once: they may all have been in the middle of it."""

    async def lost_in(folder: Path, *, sync: bool) -> list[str]:
        loop = asyncio.get_running_loop()
        executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        shares = ShareDir(folder, executor)
        try:
            assert await shares.load() == []
            found = []
            for info in INFOS:
                await shares.create(info)
                share = await shares.open(info.uuid)
                assert share.mark is not None
                found.append(share.mark.lost)
                if sync:
                    share.mark.begin()  # and killed
            return found
        finally:
            executor.close()
            shares.close()

    with _mounted(LosingDisk(tmp_path / "disk", 16 * MIB)) as disk:
        assert asyncio.run(lost_in(disk.folder, sync=True)) == [NEVER, NEVER]
        assert asyncio.run(lost_in(disk.folder, sync=True)) == [NEVER, NEVER]
        fd = os.open(disk.folder / "file", os.O_RDWR | os.O_CREAT)
        os.fsync(fd)
        disk.lose()
        os.pwrite(fd, bytes(MIB), 0)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            os.fdatasync(fd)
        os.fdatasync(fd)  # it has been told, and is told no more
        os.close(fd)
        first = asyncio.run(lost_in(disk.folder, sync=False))
        assert NEVER not in first
        assert asyncio.run(lost_in(disk.folder, sync=False)) == first


@contextlib.contextmanager
def _mounted(disk: D) -> Iterator[D]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(disk)
        except CannotMount as exc:
            pytest.skip(f"a small file system cannot be mounted: {exc}")
        yield disk
