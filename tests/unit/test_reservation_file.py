"""What outlives a node of its volumes' reservations."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from target import reservation_file
from target.config import VolumeConfig
from target.datadir import DataDir, DataDirError
from target.reservation_file import ReservationFile
from target.scsi.documents import Kept
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import (
    EMPTY,
    Registration,
    ReservationState,
    Type,
    decode_state,
    encode_state,
)
from workers.executor import BlockingExecutor
from workers.store import StoreError, StoreStatus

A = NexusName("iqn.test:a", b"\x80\0\0\0\0\1", 1)
HELD = ReservationState(
    generation=5, registrations=(Registration(A, 0xA),), type=Type.EXCLUSIVE_ACCESS, holder=A
)
LASTING = replace(HELD, aptpl=True)


class Inline(BlockingExecutor):
    """Does it on the spot."""

    def __init__(self) -> None:
        self.jobs = 0

    def run(self, work: object, done: object) -> None:
        assert callable(work)
        assert callable(done)
        self.jobs += 1
        work()
        done()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.json"


@pytest.fixture
def executor() -> Inline:
    return Inline()


def put(file: ReservationFile, state: ReservationState) -> bool | Exception:
    """Replace what ``file`` has now."""
    answers: list[bool | Exception] = []
    file.replace(file.kept.version, encode_state(state), answers.append)
    assert len(answers) == 1
    return answers[0]


def reread(path: Path) -> ReservationState:
    return decode_state(ReservationFile(path, Inline()).kept.document)


def test_only_what_is_to_last_is_written(path: Path, executor: Inline) -> None:
    file = ReservationFile(path, executor)
    for state in (HELD, EMPTY, replace(EMPTY, reserved_by=A)):
        assert put(file, state) is True
        assert decode_state(file.kept.document) == state
    assert not path.exists()
    assert executor.jobs == 0
    assert put(file, LASTING) is True
    assert reread(path) == replace(LASTING, generation=0)
    assert put(file, replace(LASTING, generation=6)) is True
    assert executor.jobs == 1, "PRGENERATION does not last"
    assert put(file, HELD) is True
    assert not path.exists()
    assert reread(path) == EMPTY


def test_what_was_there_is_restored(path: Path, executor: Inline) -> None:
    put(ReservationFile(path, executor), LASTING)
    file = ReservationFile(path, executor)
    kept: list[Kept | Exception] = []
    file.load(kept.append)
    assert kept == [Kept(1, encode_state(replace(LASTING, generation=0)))]
    assert put(file, replace(LASTING, generation=0, type=None, holder=None)) is True
    assert reread(path).type is None


def test_another_version_is_not_replaced(path: Path, executor: Inline) -> None:
    file = ReservationFile(path, executor)
    answers: list[bool | Exception] = []
    file.replace(7, encode_state(LASTING), answers.append)
    assert answers == [False]
    assert not path.exists()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, StoreStatus.NO_SPACE),
        (errno.EROFS, StoreStatus.READ_ONLY),
        (errno.EIO, StoreStatus.WRITE_FAILED),
    ],
)
def test_what_cannot_be_written_is_an_error_and_changes_nothing(
    path: Path,
    executor: Inline,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: StoreStatus,
) -> None:
    file = ReservationFile(path, executor)
    put(file, HELD)
    before = file.kept

    def full(path: Path, file: object) -> None:
        raise OSError(number, "on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(reservation_file, "_write", full)
        failure = put(file, LASTING)
    assert isinstance(failure, StoreError)
    assert failure.status is status
    assert file.kept == before
    # Nobody knows what is in the file now: it is made anew, even for what was in it.
    jobs = executor.jobs
    assert put(file, EMPTY) is True
    assert executor.jobs == jobs + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ('{"format": 1, "state": {"generation"', "cannot be read"),
        ('{"format": 1, "state": {"type": 2}}', "cannot be read"),
        ('{"format": 2, "other": 1}', "has format 2, this version knows 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_taken_for_none(
    path: Path, executor: Inline, text: str, reason: str
) -> None:
    path.write_text(text)
    with pytest.raises(DataDirError, match=reason):
        ReservationFile(path, executor)


def test_the_file_goes_with_its_volume(tmp_path: Path, executor: Inline) -> None:
    data = DataDir(tmp_path)
    record = data.create(VolumeConfig(name="disk0", size_bytes=1 << 20), 1 << 20, [], 0)
    path = data.reservations_of(record)
    put(ReservationFile(path, executor), LASTING)
    assert path.exists()
    data.begin_delete("disk0")
    data.forget("disk0")
    assert not path.exists()
    data.close()
