"""A small file that can be replaced on a full disk, and is whole after a crash.

Beside ``NAME`` lies ``NAME.new``.  A replacement is written into the one that is not in force, in
place, synced, and the two are exchanged: no step of that asks for space.  Both end in white space
up to a multiple of ``ROOM_BYTES``, so that there is room for what is longer by and by.

Where the file system cannot exchange two files (NFS), or they were not there yet, one is renamed
over the other and a new one made while there is space.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

ROOM_BYTES: Final = 64 << 10
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


class KeptFile:
    """The file at ``path``: text to which white space may be added.  Waits for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = path.with_name(path.name + ".new")

    def replace(self, data: bytes) -> None:
        """On stable storage when this returns.  Raises OSError: then the old one is as it was."""
        size = -(-len(data) // ROOM_BYTES) * ROOM_BYTES
        _write(self._new, data.ljust(size))
        if not _exchange(self._new, self.path):
            os.replace(self._new, self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._reserve(size)

    def _reserve(self, size: int) -> None:
        """Room for the next one, if there is any left."""
        with contextlib.suppress(OSError):
            if not self._new.exists() or self._new.stat().st_size < size:
                _write(self._new, b"".ljust(size))


def _write(path: Path, data: bytes) -> None:
    """In place, and no shorter than it was: what is written over has its space."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        data = data.ljust(os.fstat(fd).st_size)
        at = 0
        while at < len(data):
            at += os.pwrite(fd, data[at:], at)
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(one: Path, other: Path) -> bool:
    done = _renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)
