"""A file in the kernel's page cache: brought in, thrown out, and how much of it is there."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_PIECE_BYTES = 1 << 30  # is mapped at a time
_TRIES = 3
_libc = ctypes.CDLL(None, use_errno=True)


def warm(path: Path, block_bytes: int) -> None:
    """Nothing dirty, everything cached."""
    with path.open("rb", buffering=0) as image:
        os.fsync(image.fileno())
        # What must come from the disk comes in blocks, not in the large folios of a read-ahead.
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while image.read(block_bytes):
            pass


def evict(path: Path) -> int:
    """Nothing dirty, nothing cached; returns the bytes that stay in memory all the same.

    The kernel takes the advice for a hint: what somebody has mapped, or is just reading, stays.
    """
    stays = 0
    with path.open("rb", buffering=0) as image:
        os.fsync(image.fileno())
        for _ in range(_TRIES):
            os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            stays = cached_bytes(path)
            if not stays:
                break
    return stays


def cached_bytes(path: Path) -> int:
    """How much of a file is in memory (mincore), in whole pages."""
    pages = 0
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for at in range(0, size, _PIECE_BYTES):
            length = min(_PIECE_BYTES, size - at)
            # Private, so that it can be writable, as ctypes wants it: nothing is ever written.
            with mmap.mmap(
                file.fileno(), length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=at
            ) as mapped:
                pages += _resident_pages(mapped, length)
    return pages * mmap.PAGESIZE


def _resident_pages(mapped: mmap.mmap, length: int) -> int:
    found = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    start = (ctypes.c_char * length).from_buffer(mapped)
    try:
        address = ctypes.c_void_p(ctypes.addressof(start))
        if _libc.mincore(address, ctypes.c_size_t(length), found):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        del start  # else the mapping cannot be closed
    return sum(page & 1 for page in bytes(found))
