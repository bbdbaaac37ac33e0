"""What the C library does with memory that has been freed.

glibc gives it back to the kernel, and each page of it that is asked for again is a fault: with
messages and pieces of data of 256 KiB that come and go, more than all that is done with them
(`make bench ARGS='--suite memstore'`, 256 KiB reads through a worker).  So the process keeps up to
``KEPT_BYTES`` of each of its heaps.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 16 << 20
MAPPED_BYTES_MIN: Final = 4 << 20  # what is larger is mapped by itself, and goes at once
# malloc.h
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> None:
    """For the whole process; where the C library is another one, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
