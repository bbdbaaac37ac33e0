"""Reservations that outlive the loss of power, beside a node's data.

``reservations/UUID.json`` of the data directory has what APTPL asks to keep of one volume.  The
file goes by the UUID of the volume: it stays with it when its LUN changes.

Of a node that serves its volumes alone it is all that there is (``ReservationFile``), and its
restart counts as loss of power; without APTPL there is no file.  Where nodes serve a volume
together each has a copy of what they keep in their registry (``ReservationCopy``), with its
version, and also of the fact that there is nothing to keep any more.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from target.datadir import (
    DataDirError,
    check_format,
    read_bounded,
    sync_directory,
    write_atomically,
)
from target.scsi.documents import DocumentStore, Kept
from target.scsi.reservations.state import (
    EMPTY,
    ReservationState,
    after_power_loss,
    decode_state,
    encode_state,
)
from workers.executor import BlockingExecutor
from workers.store import StoreError, StoreStatus

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 1 << 20

_STATUS: Final = {
    errno.ENOSPC: StoreStatus.NO_SPACE,
    errno.EDQUOT: StoreStatus.NO_SPACE,
    errno.EROFS: StoreStatus.READ_ONLY,
}


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    version: int = 0  # of what nodes keep together; 0: it was a node alone that wrote it
    state: ReservationState = EMPTY


class ReservationFile(DocumentStore):
    """The reservations of one volume: all of them in memory, what has to last at ``path``."""

    def __init__(self, path: Path, executor: BlockingExecutor) -> None:
        """Raises DataDirError."""
        self._path = path
        self._executor = executor
        self._lasting: ReservationState | None = _read(path).state  # None: nobody knows
        self.kept = Kept(0, b"")
        if self._lasting != EMPTY:
            self.kept = Kept(1, encode_state(after_power_loss(self._lasting)))

    def load(self, done: Callable[[Kept | Exception], None]) -> None:
        done(self.kept)

    def replace(
        self, version: int, document: bytes, done: Callable[[bool | Exception], None]
    ) -> None:
        if version != self.kept.version:
            done(False)
            return
        lasting = after_power_loss(decode_state(document))
        if lasting == self._lasting:
            self.kept = Kept(version + 1, document)
            done(True)
            return
        self._lasting = None
        failure: OSError | None = None

        def work() -> None:
            nonlocal failure
            try:
                _write(self._path, _File(state=lasting))
            except OSError as exc:
                failure = exc

        def written() -> None:
            if failure is not None:
                status = _STATUS.get(failure.errno or 0, StoreStatus.WRITE_FAILED)
                done(StoreError(status, f"{self._path}: {failure.strerror}"))
                return
            self._lasting = lasting
            self.kept = Kept(version + 1, document)
            done(True)

        self._executor.run(work, written)


class ReservationCopy:
    """What a node has of the reservations that nodes keep together."""

    def __init__(self, path: Path, executor: BlockingExecutor) -> None:
        """Raises DataDirError."""
        self._path = path
        self._executor = executor
        self._file = _read(path)

    @property
    def version(self) -> int:
        """As of which it is; later ones may have changed nothing that lasts."""
        return self._file.version

    @property
    def state(self) -> ReservationState:
        """What is left of it when all have been off."""
        return self._file.state

    def keeps(self, kept: Kept) -> bool:
        """Whether it has what is to last of that version."""
        return kept.version <= self.version or _lasting(kept) == self.state

    async def write(self, kept: Kept) -> None:
        """Have it on stable storage.  Raises OSError."""
        file = _File(version=kept.version, state=_lasting(kept))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failure: OSError | None = None

        def work() -> None:
            nonlocal failure
            try:
                _write(self._path, file)
            except OSError as exc:
                failure = exc

        self._executor.run(work, lambda: None if written.done() else written.set_result(None))
        await written
        if failure is not None:
            raise failure
        self._file = file


def _lasting(kept: Kept) -> ReservationState:
    return after_power_loss(decode_state(kept.document))


def _read(path: Path) -> _File:
    try:
        raw = read_bounded(path, FILE_BYTES_MAX)
        if raw is None:
            return _File()
        check_format(path, raw, FORMAT)
        return msgspec.json.decode(raw, type=_File)
    except OSError as exc:
        raise DataDirError(f"{path}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise DataDirError(f"{path} cannot be read: {exc}") from exc


def _write(path: Path, file: _File) -> None:
    if file == _File():
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    else:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(file)))
