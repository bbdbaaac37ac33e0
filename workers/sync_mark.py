"""Whether a flush of a volume has failed, kept for the process that comes after this one.

A flush that failed has lost data that was answered, and the kernel says so only once.  This process
remembers it (workers/store.py, rule 5); the next one learns of it here, and names another
``volatile_id``, from which nodes see that what they had not flushed is in doubt.

Rules:

1. The mark is for the next process on this boot of the machine: after another one everything that
   was not flushed is in doubt.  So it need not be synced itself, and costs no flush.
2. Before the kernel is asked to sync, SYNCING stands in the file, and IDLE when it has.  Who finds
   SYNCING follows a process that was killed meanwhile, or found out and could not say so.  It asks
   the file system (ErrorRecord), which tells one process only: all marks are read as it starts.
3. The record is written in place, where it has its space since the volume was made: a full disk
   does not keep it from being written.
4. What cannot be read or kept is in doubt: each process names itself anew.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import threading
from pathlib import Path
from typing import Final

_RECORD: Final = re.compile(rb"lunmesh sync 1 (idle   |syncing) ([0-9a-f]{16})\n")
_IDLE: Final = b"idle   "
_SYNCING: Final = b"syncing"
_RECORD_BYTES: Final = 40
NEVER: Final = "0" * 16

_libc = ctypes.CDLL(None, use_errno=True)


class ErrorRecord:
    """What the file system of ``fd`` knows of its errors; ``fd`` was opened by this process.

    Linux 5.8 keeps a record for syncfs, which a failed fsync leaves alone: who opens a file
    hears of what nobody has asked for since.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._clean: bool | None = None

    def clean(self) -> bool:
        """Whether all that there was has been written; asked once, for all volumes."""
        with self._lock:
            if self._clean is None:
                self._clean = _libc.syncfs(self._fd) == 0
            return self._clean


class SyncMark:
    """The mark at ``path``, which is made if it is not there.  Waits for the disk (rule 2)."""

    def __init__(self, path: Path, errors: ErrorRecord) -> None:
        self._lock = threading.Lock()
        self._syncing = 0
        self.lost = NEVER  # another one with each flush that failed
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self._fd = -1
        self.kept = self._load(errors)  # whether the next process will know
        if not self.kept:
            self.lost = secrets.token_hex(8)  # rule 4

    def _load(self, errors: ErrorRecord) -> bool:
        if self._fd < 0:
            return False
        try:
            found = os.pread(self._fd, _RECORD_BYTES + 1, 0)
        except OSError:
            return False
        if not found:
            return self._write(_IDLE)
        record = _RECORD.fullmatch(found)
        if record is None:
            return self.lose()
        self.lost = record[2].decode()
        if record[1] == _SYNCING and not errors.clean():
            return self.lose()
        return self._write(_IDLE)

    def begin(self) -> None:
        """A sync begins; called from any thread."""
        with self._lock:
            self._syncing += 1
            if self._syncing == 1:
                self._write(_SYNCING)

    def end(self) -> None:
        """It has succeeded.  One that has not is left as it stands (rule 2)."""
        with self._lock:
            self._syncing -= 1
            if not self._syncing:
                self._write(_IDLE)

    def lose(self) -> bool:
        """A flush has failed.  False: that could not be kept."""
        with self._lock:
            self.lost = secrets.token_hex(8)
            self.kept = self._write(_SYNCING if self._syncing else _IDLE)
            return self.kept

    def _write(self, state: bytes) -> bool:
        record = b"lunmesh sync 1 %b %b\n" % (state, self.lost.encode())
        try:
            return os.pwrite(self._fd, record, 0) == _RECORD_BYTES
        except OSError:  # EBADF as well, where there is no file
            return False

    def close(self) -> None:
        """The volume is closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
