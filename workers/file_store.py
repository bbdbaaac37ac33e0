"""The file store: a volume's bytes in one sparse raw file, chunk ``n`` at ``n * chunk_bytes``.

There is no index that could be corrupted, and with one store the file *is* the raw disk image, for
``qemu-img``, ``losetup`` and ``dd`` as well as for us.

Rules:

1. A cached read is done on the spot with ``RWF_NOWAIT``, which never waits for the disk.  Where the
   file system has no such thing (tmpfs, overlayfs of old kernels), the gate of rule 2 decides.
2. A write into the page cache is done on the spot while such writes are quick.  ``pwritev`` has no
   NOWAIT on ext4 and may be throttled by the kernel when too much is dirty; after a slow one the
   gate stays closed for a while and I/O goes to the threads, where it holds up nobody.
3. FUA is ``RWF_DSYNC``; a flush is ``fdatasync``.  Once one of these fails, whatever the error, the
   kernel has dropped dirty pages that were acknowledged, and it says so only once: nothing that
   promises durability succeeds any more until the store is opened anew.  A process that opens it
   then learns of it by the mark (workers/sync_mark.py), if there is one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from workers.executor import BlockingExecutor
from workers.fallocate import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    fallocate,
)
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore
from workers.sync_mark import SyncMark

# An I/O on the spot that took longer was not "at hand".  Less would take a preempted process for a
# slow disk; a throttled write sleeps for 10 to 200 ms.
INLINE_SECONDS_MAX: Final = 0.010
GATE_CLOSED_SECONDS: Final = 0.1  # at first; doubled while the disk stays slow
GATE_CLOSED_SECONDS_MAX: Final = 1.6
INLINE_BYTES_MAX: Final = 1 << 20
ZERO_BUFFER: Final = bytes(1 << 18)
STATUS_BY_ERRNO: Final = {
    errno.ENOSPC: StoreStatus.NO_SPACE,
    errno.EDQUOT: StoreStatus.NO_SPACE,
    errno.EFBIG: StoreStatus.NO_SPACE,
    errno.EROFS: StoreStatus.READ_ONLY,
    errno.EPERM: StoreStatus.READ_ONLY,
    errno.EBADF: StoreStatus.READ_ONLY,  # written through a descriptor opened for reading
}
_HOLE_ERRNOS: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class FileStore(VolumeStore):
    """A volume in ``path``, an existing regular file or block device of at least ``size`` bytes."""

    has_file = True

    def __init__(
        self,
        path: Path,
        executor: BlockingExecutor,
        *,
        size: int | None = None,
        read_only: bool = False,
        clock: Callable[[], float] = monotonic,
        mark: SyncMark | None = None,
    ) -> None:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        self._fd = _open(path, flags)
        try:
            _lock(self._fd, path, read_only)
            actual = _size_of(self._fd)
            self.size = actual if size is None else size
            if actual < self.size:
                raise OSError(errno.EINVAL, f"is {actual} bytes long, not {self.size}", str(path))
        except OSError:
            os.close(self._fd)
            raise
        self.path = path
        self.read_only = read_only
        self._executor = executor
        self._clock = clock
        self._nowait = os.RWF_NOWAIT if _has_nowait(self._fd) else 0
        self._gate_opens_at = 0.0
        self._gate_closed_seconds = GATE_CLOSED_SECONDS
        self._sync_lost = ""  # the first failure of a flush (rule 3)
        self._mark = mark

    def open_for_reading(self) -> int:
        # This very file, whatever has its name by now.
        return _open(f"/proc/self/fd/{self._fd}", os.O_RDONLY)

    # --- on the spot ----------------------------------------------------------------------------

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if not self._nowait:
            return self._gated(os.preadv, offset, buffers, nbytes)
        try:
            return os.preadv(self._fd, buffers, offset, self._nowait) == nbytes
        except OSError:  # EAGAIN: not cached; anything else is reported by submit
            return False

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if self.read_only:
            return False
        return self._gated(os.pwritev, offset, buffers, nbytes)

    def _gated(
        self,
        call: Callable[[int, Sequence[memoryview], int], int],
        offset: int,
        buffers: Sequence[memoryview],
        nbytes: int,
    ) -> bool:
        """Rule 2."""
        clock = self._clock
        started = clock()
        if started < self._gate_opens_at or nbytes > INLINE_BYTES_MAX:
            return False
        try:
            done = call(self._fd, buffers, offset) == nbytes
        except OSError:
            done = False  # a disk that is about to die takes its time to say so
        ended = clock()
        if ended - started > INLINE_SECONDS_MAX:
            self._gate_opens_at = ended + self._gate_closed_seconds
            self._gate_closed_seconds = min(2 * self._gate_closed_seconds, GATE_CLOSED_SECONDS_MAX)
        else:
            self._gate_closed_seconds = GATE_CLOSED_SECONDS
        return done

    # --- in a thread, or in the ring --------------------------------------------------------------

    def submit(self, io: StoreIo) -> None:
        uring = self._executor.uring
        if (
            uring is None
            or io.kind is not IoKind.READ
            or not uring.read(self._fd, io, self._submit)
        ):
            self._submit(io)

    def _submit(self, io: StoreIo) -> None:
        executor = self._executor.syncs if io.kind is IoKind.FLUSH else self._executor
        try:
            executor.run(lambda: self._perform(io), lambda: io.done(io))
        except RuntimeError as exc:  # no thread
            io.status, io.detail = StoreStatus.UNAVAILABLE, str(exc)
            io.done(io)

    def _perform(self, io: StoreIo) -> None:
        durable = io.fua or io.kind is IoKind.FLUSH
        try:
            if durable and self._sync_lost:
                raise _Failed(StoreStatus.SYNC_LOST, self._sync_lost)
            _PERFORM[io.kind](self, io)
        except _Failed as failed:
            io.status, io.detail = failed.status, failed.detail
        except OSError as exc:
            io.detail = f"{self.path}: {exc.strerror}"
            io.status = self._status_of(exc, io)
        except Exception as bug:  # a bug of ours is an I/O error, not a dead thread
            io.status, io.detail = StoreStatus.WRITE_FAILED, repr(bug)

    @staticmethod
    def _status_of(exc: OSError, io: StoreIo) -> StoreStatus:
        if io.kind in (IoKind.READ, IoKind.BLOCK_STATUS):
            return StoreStatus.READ_FAILED
        return STATUS_BY_ERRNO.get(exc.errno or 0, StoreStatus.WRITE_FAILED)

    def _read(self, io: StoreIo) -> None:
        self._read_into(io.buffers, io.offset)

    def _read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        rest = list(buffers)
        while rest:
            got = os.preadv(self._fd, rest, offset)
            if got == 0:
                raise _Failed(StoreStatus.READ_FAILED, f"{self.path} ends at {offset}")
            offset += got
            rest = _after(rest, got)

    def _write(self, io: StoreIo) -> None:
        self._write_from(io.buffers, io.offset, io.fua)

    def _write_from(self, buffers: Sequence[memoryview], offset: int, fua: bool) -> None:
        if fua:
            with self._marked():
                self._write_all(buffers, offset, fua)
        else:
            self._write_all(buffers, offset, fua)

    def _write_all(self, buffers: Sequence[memoryview], offset: int, fua: bool) -> None:
        flags = os.RWF_DSYNC if fua else 0
        rest = list(buffers)
        while rest:
            try:
                put = os.pwritev(self._fd, rest, offset, flags)
            except OSError as exc:
                if not fua:
                    raise
                # A write that cannot be done leaves everything as it was, and fails here too.
                os.pwritev(self._fd, rest, offset)
                raise self._lost(exc) from exc
            offset += put
            rest = _after(rest, put)

    def _zero(self, io: StoreIo) -> None:
        mode = FALLOC_FL_PUNCH_HOLE if io.kind is IoKind.UNMAP else FALLOC_FL_ZERO_RANGE
        try:
            fallocate(self._fd, mode | FALLOC_FL_KEEP_SIZE, io.offset, io.length)
        except OSError as exc:
            if exc.errno not in _HOLE_ERRNOS:
                raise
            self._write_zeros(io.offset, io.length)
        if io.fua:
            self._sync()

    def _write_zeros(self, offset: int, length: int) -> None:
        while length:
            piece = memoryview(ZERO_BUFFER)[: min(length, len(ZERO_BUFFER))]
            put = os.pwrite(self._fd, piece, offset)
            offset += put
            length -= put

    def _compare_and_write(self, io: StoreIo) -> None:
        at = 0
        for expected in io.compare:
            found = bytearray(len(expected))
            self._read_into([memoryview(found)], io.offset + at)
            if found != expected:
                io.miscompare_offset = at + _first_difference(found, expected)
                raise _Failed(StoreStatus.MISCOMPARE)
            at += len(expected)
        self._write(io)

    def _flush(self, io: StoreIo) -> None:
        self._sync()

    def _sync(self) -> None:
        with self._marked():
            try:
                os.fdatasync(self._fd)
            except OSError as exc:
                raise self._lost(exc) from exc

    @contextlib.contextmanager
    def _marked(self) -> Iterator[None]:
        """Around what asks the kernel for durability; after one that was lost the mark stays."""
        if self._mark is None:
            yield
            return
        self._mark.begin()
        try:
            yield
        except OSError:  # nothing was done
            self._mark.end()
            raise
        self._mark.end()

    def _lost(self, exc: OSError) -> _Failed:
        """Rule 3."""
        self._sync_lost = f"{self.path}: {exc.strerror}"
        return _Failed(StoreStatus.SYNC_LOST, self._sync_lost)

    def _block_status(self, io: StoreIo) -> None:
        extents: list[StatusExtent] = []
        io.extents = extents
        at, end = io.offset, io.offset + io.length
        while at < end and len(extents) < io.extents_max:
            try:
                data = min(os.lseek(self._fd, at, os.SEEK_DATA), end)
            except OSError as exc:
                if exc.errno == errno.EINVAL:  # a block device does not tell: it may all be data
                    extents.append(StatusExtent(at, end - at, True))
                    return
                if exc.errno != errno.ENXIO:
                    raise
                data = end  # a hole up to the end of the file
            if data > at:
                extents.append(StatusExtent(at, data - at, False))
                at = data
                continue
            hole = min(os.lseek(self._fd, at, os.SEEK_HOLE), end)
            extents.append(StatusExtent(at, hole - at, True))
            at = hole

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1  # the number may soon be another file's, and a token still be out
        if self._mark is not None:
            self._mark.close()


_PERFORM: Final[dict[IoKind, Callable[[FileStore, StoreIo], None]]] = {
    IoKind.READ: FileStore._read,
    IoKind.WRITE: FileStore._write,
    IoKind.ZERO: FileStore._zero,
    IoKind.UNMAP: FileStore._zero,
    IoKind.COMPARE_AND_WRITE: FileStore._compare_and_write,
    IoKind.FLUSH: FileStore._flush,
    IoKind.BLOCK_STATUS: FileStore._block_status,
}


class _Failed(Exception):
    def __init__(self, status: StoreStatus, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _open(path: Path | str, flags: int) -> int:
    """A descriptor whose reads do not keep the time of access: that is a tenth of a cached one.

    It takes the owner of the file to ask for that; anybody else gets one that does.
    """
    flags |= os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _lock(fd: int, path: Path, read_only: bool) -> None:
    """One writer, or any number of readers: two targets over one image would destroy it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "is in use by another process", str(path)) from None


def _size_of(fd: int) -> int:
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode):
        return info.st_size
    if stat.S_ISBLK(info.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    raise OSError(errno.EINVAL, "is neither a regular file nor a block device")


def _has_nowait(fd: int) -> bool:
    try:
        os.preadv(fd, [memoryview(bytearray(1))], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _after(buffers: list[memoryview], done: int) -> list[memoryview]:
    """What is left of a scatter list once ``done`` bytes of it are through."""
    for i, view in enumerate(buffers):
        if done < len(view):
            return [view[done:], *buffers[i + 1 :]]
        done -= len(view)
    return []


def _first_difference(a: bytes | bytearray | memoryview, b: bytes | bytearray | memoryview) -> int:
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def create_sparse(path: Path, size: int) -> None:
    """A new sparse file of ``size`` bytes, on stable storage; raises FileExistsError.

    Where it cannot be made none is left, whose name would be taken.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError as exc:  # a full disk, or more than a file can have there
        path.unlink(missing_ok=True)
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
    finally:
        os.close(fd)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
