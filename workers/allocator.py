"""What the C library does with memory that has been freed.

glibc gives it back to the kernel, and each page of it that is asked for again is a fault: with
messages and pieces of data of 256 KiB that come and go, more than all that is done with them
(`make bench ARGS='--suite workers --row "256 KiB seq read d32"'`, through TCP).  So the process
keeps up to ``KEPT_BYTES`` of each of its heaps.
"""

from __future__ import annotations

import ctypes
from typing import Final

from workers.limits import MESSAGE_BYTES_MAX

KEPT_BYTES: Final = 32 << 20
# What is larger is mapped by itself, and goes at once: messages are not.
MAPPED_BYTES_MIN: Final = 8 << 20
assert MAPPED_BYTES_MIN > MESSAGE_BYTES_MAX
# malloc.h
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> None:
    """For the whole process; where the C library is another one, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
