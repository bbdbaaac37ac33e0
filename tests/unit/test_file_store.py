"""The file store beyond what every store promises: errors of the system, the gate, locks."""

from __future__ import annotations

import errno
import os
import queue
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from workers import file_store
from workers.executor import BlockingExecutor
from workers.file_store import (
    GATE_CLOSED_SECONDS,
    GATE_CLOSED_SECONDS_MAX,
    INLINE_BYTES_MAX,
    INLINE_SECONDS_MAX,
    FileStore,
    create_sparse,
)
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus
from workers.sync_mark import ErrorRecord, SyncMark

SIZE = 4 << 20
BLOCK = b"\xa5" * 4096
CHANGES = [IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE]


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A store in a file, and the loop that its completions come back to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.executor = BlockingExecutor(2, self.calls.put)
        self.store = self.open()

    def open(self, *, size: int | None = None, read_only: bool = False) -> FileStore:
        return FileStore(self.path, self.executor, size=size, read_only=read_only, clock=self.clock)

    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    def run(self, kind: IoKind, data: bytes = BLOCK, *, fua: bool = False) -> StoreIo:
        """An I/O of as many bytes as ``data`` has, at the front."""
        done: list[StoreIo] = []
        views = [memoryview(bytearray(data))]
        io = StoreIo(kind, 0, len(data), done.append, views, views, fua)
        self.store.submit(io)
        while not done:
            self.calls.get(timeout=10)()
        return io

    def status(self, kind: IoKind, *, fua: bool = False) -> StoreStatus:
        return self.run(kind, fua=fua).status

    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "image"
    create_sparse(path, SIZE)
    bench = Bench(path)
    yield bench
    bench.store.close()
    bench.executor.close()


def raising(code: int) -> Callable[..., int]:
    def call(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


# --- errors of the system -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.ENOSPC, StoreStatus.NO_SPACE),
        (errno.EDQUOT, StoreStatus.NO_SPACE),
        (errno.EFBIG, StoreStatus.NO_SPACE),
        (errno.EROFS, StoreStatus.READ_ONLY),
        (errno.EIO, StoreStatus.WRITE_FAILED),
        (errno.ENXIO, StoreStatus.WRITE_FAILED),
    ],
)
@pytest.mark.parametrize("fua", [False, True])
def test_a_change_that_fails_says_why(
    it: Bench, monkeypatch: pytest.MonkeyPatch, code: int, status: StoreStatus, fua: bool
) -> None:
    assert it.status(IoKind.ZERO) is StoreStatus.OK
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", raising(code))
        patch.setattr(file_store, "fallocate", raising(code))
        for kind in CHANGES:
            io = it.run(kind, bytes(4096), fua=fua)
            assert io.status is status
            assert str(it.path) in io.detail
            assert os.strerror(code) in io.detail
    # The write itself failed: nothing that was acknowledged is lost.
    assert it.status(IoKind.FLUSH) is StoreStatus.OK


@pytest.mark.parametrize("kind", [IoKind.READ, IoKind.COMPARE_AND_WRITE])
def test_a_read_that_fails(it: Bench, monkeypatch: pytest.MonkeyPatch, kind: IoKind) -> None:
    monkeypatch.setattr(os, "preadv", raising(errno.EIO))
    assert not it.store.read_now(0, [memoryview(bytearray(512))], 512)
    assert it.status(kind) in (StoreStatus.READ_FAILED, StoreStatus.WRITE_FAILED)


def test_a_block_status_that_fails(it: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lseek", raising(errno.EIO))
    assert it.status(IoKind.BLOCK_STATUS) is StoreStatus.READ_FAILED


def test_a_file_that_was_cut_short(it: Bench) -> None:
    """By somebody else, behind our back."""
    os.truncate(it.path, 1000)
    data = memoryview(bytearray(4096))
    assert not it.store.read_now(0, [data], 4096)
    io = it.run(IoKind.READ)
    assert io.status is StoreStatus.READ_FAILED
    assert "ends at 1000" in io.detail


def test_a_bug_of_ours_is_an_error_of_the_io(it: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> int:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(os, "pwritev", broken)
    io = it.run(IoKind.WRITE)
    assert io.status is StoreStatus.WRITE_FAILED
    assert "broken on purpose" in io.detail


# --- a flush that fails (rule 3) ------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_after_a_failed_flush_nothing_is_durable_any_more(
    it: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The kernel reports lost pages once, and the next fdatasync "succeeds"."""
    assert it.status(IoKind.WRITE) is StoreStatus.OK
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", raising(code))
        assert it.status(IoKind.FLUSH) is StoreStatus.SYNC_LOST
    for kind in (IoKind.FLUSH, *CHANGES):
        io = it.run(kind, fua=True)
        assert io.status is StoreStatus.SYNC_LOST
        assert os.strerror(code) in io.detail
    # What promises nothing goes on, so that what is there can be read.
    assert it.status(IoKind.WRITE) is StoreStatus.OK
    assert it.status(IoKind.READ) is StoreStatus.OK
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)
    it.reopen()
    assert it.status(IoKind.FLUSH) is StoreStatus.OK


def test_the_mark_stands_while_the_kernel_syncs_and_after_it_has_failed(
    it: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that is killed then, the next one cannot know how it went."""
    path = tmp_path / "mark"
    fd = os.open(tmp_path, os.O_RDONLY)
    mark = SyncMark(path, ErrorRecord(fd))
    it.store.close()
    it.store = FileStore(it.path, it.executor, mark=mark)
    seen: list[bytes] = []

    def fdatasync(_: int) -> None:
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert it.status(IoKind.FLUSH) is StoreStatus.OK
    assert b"syncing" in seen[0]
    assert b"idle" in path.read_bytes()
    assert it.status(IoKind.WRITE, fua=True) is StoreStatus.OK
    assert b"idle" in path.read_bytes()
    with monkeypatch.context() as patch:  # nothing was done, and so nothing lost
        patch.setattr(os, "pwritev", raising(errno.ENOSPC))
        assert it.status(IoKind.WRITE, fua=True) is StoreStatus.NO_SPACE
    assert b"idle" in path.read_bytes()
    monkeypatch.setattr(os, "fdatasync", raising(errno.EIO))
    assert it.status(IoKind.FLUSH) is StoreStatus.SYNC_LOST
    assert b"syncing" in path.read_bytes()
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_durable_write_whose_sync_fails(
    it: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The data was written, and could not be made durable: told from a write that failed."""
    real = os.pwritev

    def pwritev(fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_DSYNC:
            raise OSError(code, os.strerror(code))
        return real(fd, views, offset, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        assert it.status(IoKind.WRITE, fua=True) is StoreStatus.SYNC_LOST
    assert it.status(IoKind.FLUSH) is StoreStatus.SYNC_LOST


@pytest.mark.parametrize("kind", [IoKind.ZERO, IoKind.UNMAP])
def test_a_durable_zero_whose_sync_fails(
    it: Bench, monkeypatch: pytest.MonkeyPatch, kind: IoKind
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", raising(errno.EIO))
        assert it.status(kind) is StoreStatus.OK
        assert it.status(kind, fua=True) is StoreStatus.SYNC_LOST
    assert it.status(IoKind.FLUSH) is StoreStatus.SYNC_LOST


def test_an_io_for_which_there_is_no_thread_ends(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(it.executor, "run", refuse)
        assert it.status(IoKind.FLUSH) is StoreStatus.UNAVAILABLE
    assert it.status(IoKind.FLUSH) is StoreStatus.OK


# --- what the system does in part -----------------------------------------------------------------


def test_short_reads_and_writes_are_gone_on_with(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.preadv, os.pwritev

    def preadv(fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        return read(fd, [views[0][:700]], offset, flags)

    def pwritev(fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        return write(fd, [views[0][:1000]], offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pwritev", pwritev)
    data = random.Random(1).randbytes(10_000)
    assert not it.store.write_now(0, [memoryview(data)], len(data))  # all or no promise
    assert it.run(IoKind.WRITE, data).status is StoreStatus.OK
    assert it.content()[: len(data)] == data
    assert it.run(IoKind.COMPARE_AND_WRITE, data).status is StoreStatus.OK
    into = bytearray(len(data))
    done: list[StoreIo] = []
    views = [memoryview(into)[:300], memoryview(into)[300:]]
    it.store.submit(StoreIo(IoKind.READ, 0, len(data), done.append, views))
    while not done:
        it.calls.get(timeout=10)()
    assert into == data


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("kind", [IoKind.ZERO, IoKind.UNMAP])
def test_a_file_system_that_cannot_punch_holes_gets_zeros_written(
    it: Bench, monkeypatch: pytest.MonkeyPatch, code: int, kind: IoKind
) -> None:
    data = random.Random(1).randbytes(3 << 20)
    assert it.run(IoKind.WRITE, data).status is StoreStatus.OK
    monkeypatch.setattr(file_store, "fallocate", raising(code))
    zeroed = (1 << 20) + 12345
    assert it.run(kind, bytes(zeroed)).status is StoreStatus.OK
    assert it.content()[: len(data)] == bytes(zeroed) + data[zeroed:]


def test_a_hole_up_to_the_end_of_the_file(it: Bench) -> None:
    io = it.run(IoKind.BLOCK_STATUS, bytes(SIZE))
    assert io.extents == [StatusExtent(0, SIZE, False)]


def test_a_device_that_does_not_tell_may_be_all_data(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As block devices do not."""
    monkeypatch.setattr(os, "lseek", raising(errno.EINVAL))
    io = it.run(IoKind.BLOCK_STATUS, bytes(SIZE))
    assert io.status is StoreStatus.OK
    assert io.extents == [StatusExtent(0, SIZE, True)]


# --- the gate (rules 1 and 2) ---------------------------------------------------------------------


class SlowWrites:
    """``os.pwritev`` that takes time on the test's clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._real = os.pwritev
        self.seconds = seconds

    def __call__(self, fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        self._clock.now += self.seconds
        return self._real(fd, views, offset, flags)


def test_a_slow_write_closes_the_gate_for_longer_and_longer(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = SlowWrites(it.clock, 2 * INLINE_SECONDS_MAX)
    monkeypatch.setattr(os, "pwritev", writes)
    closed = GATE_CLOSED_SECONDS
    for _ in range(8):
        assert it.store.write_now(0, [memoryview(BLOCK)], 4096)  # it was done all the same
        it.clock.now += closed * 0.99
        assert not it.store.write_now(0, [memoryview(BLOCK)], 4096)
        it.clock.now += closed * 0.02
        closed = min(2 * closed, GATE_CLOSED_SECONDS_MAX)
    writes.seconds = INLINE_SECONDS_MAX / 2
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)
    writes.seconds = 2 * INLINE_SECONDS_MAX
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)
    it.clock.now += GATE_CLOSED_SECONDS * 1.01  # a quick one made the store forget
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)


def test_a_slow_write_that_fails_closes_the_gate_too(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_error(*args: object) -> int:
        it.clock.now += 1
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", slow_error)
        assert not it.store.write_now(0, [memoryview(BLOCK)], 4096)
    assert not it.store.write_now(0, [memoryview(BLOCK)], 4096)
    it.clock.now += GATE_CLOSED_SECONDS * 1.01
    assert it.store.write_now(0, [memoryview(BLOCK)], 4096)


def test_a_long_write_is_not_done_on_the_spot(it: Bench) -> None:
    data = memoryview(bytes(INLINE_BYTES_MAX + 1))
    assert it.store.write_now(0, [data[:-1]], INLINE_BYTES_MAX)
    assert not it.store.write_now(0, [data], len(data))


def test_without_nowait_reads_go_through_the_gate(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def preadv(fd: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise OSError(errno.EOPNOTSUPP, "")
        it.clock.now += 2 * INLINE_SECONDS_MAX
        return real(fd, views, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    it.reopen()
    data = memoryview(bytearray(512))
    assert it.store.read_now(0, [data], 512)
    assert not it.store.read_now(0, [data], 512)
    assert not it.store.write_now(0, [data], 512)


def test_what_is_not_cached_is_not_read_on_the_spot(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preadv(fd: int, views: object, offset: int, flags: int = 0) -> int:
        assert flags == os.RWF_NOWAIT
        raise BlockingIOError(errno.EAGAIN, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        it.reopen()
        assert not it.store.read_now(0, [memoryview(bytearray(512))], 512)


# --- opening --------------------------------------------------------------------------------------


def test_reading_does_not_renew_the_time_of_access(it: Bench) -> None:
    os.utime(it.path, ns=(1, 2))  # older than that of the change: a read would renew it
    assert it.status(IoKind.READ) is StoreStatus.OK
    lent = it.store.open_for_reading()
    try:
        assert os.pread(lent, 1, 0) == bytes(1)
    finally:
        os.close(lent)
    assert it.path.stat().st_atime_ns == 1


def test_a_file_of_somebody_else_is_served_all_the_same(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def for_owners_only(path: Path, flags: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return really(path, flags)

    monkeypatch.setattr(os, "open", for_owners_only)
    it.reopen()
    assert it.status(IoKind.READ) is StoreStatus.OK
    assert it.status(IoKind.WRITE) is StoreStatus.OK


def test_one_writer_or_any_number_of_readers(it: Bench) -> None:
    for read_only in (False, True):
        with pytest.raises(OSError, match="in use by another process") as caught:
            it.open(read_only=read_only)
        assert caught.value.errno == errno.EBUSY
    it.store.close()
    readers = [it.open(read_only=True) for _ in range(2)]
    with pytest.raises(OSError, match="in use"):
        it.open()
    for reader in readers:
        reader.close()
    it.store = it.open()


def test_a_file_shorter_than_the_volume(it: Bench) -> None:
    it.store.close()
    with pytest.raises(OSError, match=f"is {SIZE} bytes long, not {SIZE + 1}"):
        it.open(size=SIZE + 1)
    it.store = it.open(size=SIZE - 512)  # and it was unlocked again
    assert it.store.size == SIZE - 512


def test_what_is_not_a_disk(it: Bench, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (Path("/dev/null"), tmp_path / "missing", tmp_path):
        with pytest.raises(OSError, match=r"neither a regular file|No such file|Is a directory"):
            FileStore(path, it.executor)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_made_is_not_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    path = tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(OSError, match="File too large") as raised:
            create_sparse(path, 1 << 62)
    assert raised.value.filename == str(path)
    create_sparse(path, 512)


def test_a_new_file_is_sparse_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new"
    create_sparse(path, 1 << 40)
    info = path.stat()
    assert (info.st_size, info.st_blocks) == (1 << 40, 0)
    assert stat.S_IMODE(info.st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_sparse(path, 512)
    assert path.stat().st_size == 1 << 40
