"""Memory that a worker lends to a node on its own machine, for the payload of writes.

What is written there has not to go through gRPC, which copies a payload several times on each side.
The node gets the descriptor as it gets one for reading (workers/grants.py), maps it, and says with
each I/O where in it the payload lies (worker.proto, rule 11).

1. It is of one stream: a node's next stream has another one.  So what an I/O of an old stream still
   reads from is never written over by the next.
2. Its size cannot be changed by who has the descriptor (it is sealed), so nothing that a node does
   can make the worker touch what is not there.
3. It is part of the buffer memory, and takes no node's credit (workers/buffers.py, rule 3).
"""

from __future__ import annotations

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class LentMemory:
    """``nbytes`` of memory behind a descriptor.  Raises OSError."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._fd = os.memfd_create("lunmesh-lent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, nbytes)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
            self.view = memoryview(mmap.mmap(self._fd, nbytes, prot=mmap.PROT_READ))
        except BaseException:
            os.close(self._fd)
            raise

    def open(self) -> int:
        """A descriptor for the node.  Raises OSError once it is closed."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Lend it to nobody any more.  The memory goes with the last I/O that has a part of it."""
        os.close(self._fd)
        self._fd = -1  # the number may soon be another file's
        self.view = memoryview(b"")
