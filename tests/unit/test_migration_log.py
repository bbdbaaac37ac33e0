"""The journal of a migration: what is found again after a crash, and what is not believed."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from target.block.migration import JournalInDoubt
from target.datadir import DataDirError
from target.migration_log import MigrationLog

ID = uuid.UUID(int=7)
HEADER_BYTES = 20
RECORD_BYTES = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v.migration"


def written(path: Path, *chunks: int) -> None:
    log = MigrationLog.create(path, ID)
    for chunk in chunks:
        asyncio.run(log.append(chunk))
    log.close()


def moved(path: Path) -> int:
    log = MigrationLog(path, ID)
    log.close()
    return log.moved


def test_what_was_appended_is_found_again(path: Path) -> None:
    written(path)
    assert moved(path) == 0
    written(path, 0, 3, 4)
    assert moved(path) == 5
    assert path.stat().st_size == HEADER_BYTES + 3 * RECORD_BYTES


@pytest.mark.parametrize("cut", range(1, RECORD_BYTES + 1))
def test_a_torn_record_at_the_end_is_cut_off_and_written_anew(path: Path, cut: int) -> None:
    written(path, 1, 2)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    assert moved(path) == 2
    log = MigrationLog(path, ID)
    asyncio.run(log.append(2))
    log.close()
    assert path.read_bytes() == data


@pytest.mark.parametrize("at", range(HEADER_BYTES, HEADER_BYTES + RECORD_BYTES))
def test_a_damaged_record_before_others_is_no_torn_one(path: Path, at: int) -> None:
    written(path, 1, 2)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataDirError, match=f"damaged at byte {HEADER_BYTES}"):
        moved(path)


def test_a_damaged_last_record_counts_as_torn(path: Path) -> None:
    written(path, 1, 2)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert moved(path) == 2


def test_the_journal_of_another_migration_is_refused(path: Path) -> None:
    written(path, 1)
    with pytest.raises(DataDirError, match="not the journal of this migration"):
        MigrationLog(path, uuid.UUID(int=8))


def test_a_missing_journal_is_not_an_empty_one(path: Path) -> None:
    with pytest.raises(DataDirError, match="is missing"):
        MigrationLog(path, ID)


def test_a_record_that_cannot_be_synced_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    log = MigrationLog.create(path, ID)
    asyncio.run(log.append(0))
    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        asyncio.run(log.append(1))
    assert path.stat().st_size == HEADER_BYTES + RECORD_BYTES
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(JournalInDoubt):
        asyncio.run(log.append(1))
    monkeypatch.undo()
    asyncio.run(log.revoke())
    asyncio.run(log.append(1))
    log.remove()
    assert not path.exists()
