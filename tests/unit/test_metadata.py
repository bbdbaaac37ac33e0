"""Small files that are whole after a crash, and leave nothing when there is no room."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from workers.metadata import read_bounded, write_atomically


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "share.json"
    for data in (b"old", b"new"):
        asyncio.run(write_atomically(file, data))
    assert asyncio.run(read_bounded(file, 3)) == b"new"
    assert os.listdir(tmp_path) == [file.name]


def test_what_could_not_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "share.json"
    asyncio.run(write_atomically(file, b"old"))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(write_atomically(file, b"new"))
    assert os.listdir(tmp_path) == [file.name]
    assert file.read_bytes() == b"old"
