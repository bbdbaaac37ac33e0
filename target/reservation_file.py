"""Reservations that outlive the loss of power, for a node that serves its volumes alone.

``reservations/UUID.json`` of the data directory has what APTPL asks to keep of one volume; without
that there is no file.  The node's own restart counts as loss of power.  The file goes by the UUID
of the volume: it stays with it when its LUN changes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from target.datadir import DataDirError, read_bounded, sync_directory, write_atomically
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


class _Format(msgspec.Struct):
    """Of whatever version the rest is."""

    format: int


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    state: ReservationState


class ReservationFile(DocumentStore):
    """The reservations of one volume: all of them in memory, what has to last at ``path``."""

    def __init__(self, path: Path, executor: BlockingExecutor) -> None:
        """Raises DataDirError."""
        self._path = path
        self._executor = executor
        self._lasting: ReservationState | None = _read(path)  # None: nobody knows what is there
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
                _write(self._path, lasting)
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


def _read(path: Path) -> ReservationState:
    try:
        raw = read_bounded(path, FILE_BYTES_MAX)
        if raw is None:
            return EMPTY
        version = msgspec.json.decode(raw, type=_Format).format
        if version != FORMAT:
            raise DataDirError(f"{path} has format {version}, this version knows {FORMAT}")
        return msgspec.json.decode(raw, type=_File).state
    except OSError as exc:
        raise DataDirError(f"{path}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise DataDirError(f"{path} cannot be read: {exc}") from exc


def _write(path: Path, state: ReservationState) -> None:
    if state == EMPTY:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    else:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(_File(state=state))))
