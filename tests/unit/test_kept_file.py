"""A file that is replaced whole, on a full disk as well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.small_disk import CannotMount, SmallDisk
from workers import kept_file
from workers.kept_file import ROOM_BYTES, KeptFile


def read(path: Path) -> bytes:
    return path.read_bytes().rstrip()


def test_it_is_replaced_whole_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = KeptFile(path)
    texts = [b"a", b"b" * 100, b"c", b"d" * (ROOM_BYTES + 1), b"e"]
    for text in texts:
        file.replace(text)
        assert read(path) == text
        assert path.stat().st_size % ROOM_BYTES == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "file.new"]


def test_it_takes_over_one_that_was_written_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    KeptFile(path).replace(b"new")
    assert read(path) == b"new"
    KeptFile(path).replace(b"newer")
    assert read(path) == b"newer"


def test_one_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    file = KeptFile(path)
    file.replace(b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        file.replace(b"new")
    assert read(path) == b"old"


def test_without_an_exchange_one_is_renamed_over_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_file, "_exchange", lambda one, other: False)
    path = tmp_path / "file"
    file = KeptFile(path)
    for text in (b"a", b"b"):
        file.replace(text)
        assert read(path) == text
    assert (tmp_path / "file.new").stat().st_size == ROOM_BYTES


def test_a_full_disk_is_no_hindrance(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 1 << 20)
    try:
        disk.__enter__()
    except CannotMount as exc:
        pytest.skip(f"a small file system cannot be mounted: {exc}")
    try:
        path = disk.folder / "file"
        file = KeptFile(path)
        file.replace(b"first")
        disk.fill()
        for number in range(5):
            file.replace(b"%d" % number)
            assert read(path) == b"%d" % number
        with pytest.raises(OSError, match="No space"):
            file.replace(bytes(ROOM_BYTES + 1))
        assert read(path) == b"4"
    finally:
        disk.__exit__(None, None, None)
