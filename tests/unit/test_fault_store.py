"""The store that misbehaves does so as it was told, and otherwise behaves."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from workers.executor import disk_threads
from workers.fault_store import UNDO_BYTES_MAX, Faults, FaultStore, parse_faults
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus


def test_a_spec_is_read() -> None:
    assert parse_faults("delay=200ms,error=0.01,torn=1,lost-flush=.5,seed=7") == Faults(
        delay_seconds=0.2, error=0.01, torn=1.0, lost_flush=0.5, seed=7
    )
    assert parse_faults("delay=1.5s") == Faults(delay_seconds=1.5)
    assert parse_faults("stall=20ms,drop=.5,volume=disk-0.a") == Faults(
        stall_seconds=0.02, drop=0.5, volume="disk-0.a"
    )


@pytest.mark.parametrize(
    "spec",
    ["", "delay", "delay=1", "delay=-1s", "delay=2h", "delay=9999s", "error=2", "error=1.5",
     "error=x", "error=nan", "torn=-0.1", "lost_flush=1", "seed=-1", "seed=x", "magic=1",
     "error=0,error=1", "error=0.1,", "stall=1", "drop=2", "volume=", "delay_seconds=1s"],
)  # fmt: skip
def test_a_bad_spec_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="bad"):
        parse_faults(spec)


class Disk:
    """A fault store on a memory store, with a clock that is turned by hand."""

    def __init__(self, faults: Faults) -> None:
        self.inner = MemoryStore(1 << 20)
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.store = FaultStore(self.inner, faults, lambda *call: self.later.append(call))

    def run(self, kind: IoKind, data: bytes = b"", *, fua: bool = False) -> StoreIo:
        ended: list[StoreIo] = []
        length = len(data) or 4096
        io = StoreIo(kind, 0, length, ended.append, [memoryview(data)] if data else (), fua=fua)
        if kind is IoKind.READ:
            io.buffers = [memoryview(bytearray(length))]
        self.store.submit(io)
        while self.later:
            self.later.pop()[1]()
        assert ended == [io]
        return io

    def bytes(self, length: int) -> bytes:
        found = bytearray(length)
        assert self.inner.read_now(0, [memoryview(found)], length)
        return bytes(found)


def test_without_faults_it_is_the_store_behind_it() -> None:
    disk = Disk(Faults())
    assert disk.store.write_now(0, [memoryview(b"x" * 512)], 512)
    assert disk.run(IoKind.FLUSH).status is StoreStatus.OK
    disk.store.size = 1 << 21
    assert disk.inner.size == disk.store.size == 1 << 21


def test_errors_do_nothing() -> None:
    disk = Disk(Faults(error=1.0))
    assert not disk.store.write_now(0, [memoryview(b"x" * 512)], 512)
    assert disk.run(IoKind.WRITE, b"x" * 512).status is StoreStatus.WRITE_FAILED
    assert disk.run(IoKind.READ).status is StoreStatus.READ_FAILED
    assert disk.bytes(512) == bytes(512)


def test_a_torn_write_has_written_its_first_sectors() -> None:
    """Any number of them, but not all."""
    written = set()
    for seed in range(40):
        disk = Disk(Faults(torn=1.0, seed=seed))
        assert disk.run(IoKind.WRITE, b"x" * 2048).status is StoreStatus.WRITE_FAILED
        found = disk.bytes(2048)
        written.add(found.count(b"x"))
        assert found == b"x" * found.count(b"x") + bytes(found.count(b"\0"))
        assert disk.run(IoKind.WRITE, b"y" * 512).status is StoreStatus.WRITE_FAILED
        assert b"y" not in disk.bytes(512)
    assert written == {0, 512, 1024, 1536}


def test_a_lost_flush_takes_what_it_was_for_along() -> None:
    disk = Disk(Faults(lost_flush=0.5, drop=1.0, seed=2))
    assert not disk.store.write_now(0, [memoryview(b"x" * 512)], 512)
    flushed = bytes(4096)
    for number in range(20):
        for kind, data in (
            (IoKind.WRITE, bytes([number + 1]) * 4096),
            (IoKind.UNMAP, b""),
            (IoKind.WRITE, bytes([number + 101]) * 512),
        ):
            assert disk.run(kind, data).status is StoreStatus.OK
        written = disk.bytes(4096)
        assert written == bytes([number + 101]) * 512 + bytes(3584), "read as it was written"
        if disk.run(IoKind.FLUSH).status is StoreStatus.SYNC_LOST:
            break
        flushed = written
    assert number > 0
    assert disk.bytes(4096) == flushed
    # Only once: from then on nothing is flushed, and nothing lost behind anybody's back.
    assert disk.run(IoKind.WRITE, b"z" * 512).status is StoreStatus.OK
    assert disk.run(IoKind.FLUSH).status is StoreStatus.SYNC_LOST
    assert disk.bytes(512) == b"z" * 512


def test_what_is_undone_has_a_bound() -> None:
    disk = Disk(Faults(lost_flush=1.0, drop=1.0))
    disk.store._undo_bytes = UNDO_BYTES_MAX - 512
    assert disk.run(IoKind.WRITE, b"x" * 1024).status is StoreStatus.OK
    assert disk.run(IoKind.WRITE, b"y" * 512).status is StoreStatus.OK
    assert disk.run(IoKind.FLUSH).status is StoreStatus.SYNC_LOST
    assert disk.bytes(1024) == b"x" * 1024


def test_a_stall_keeps_a_thread() -> None:
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    executor = disk_threads(1, calls.put)
    where: list[str] = []

    class Inner(MemoryStore):
        def submit(self, io: StoreIo) -> None:
            where.append(io.kind.name)
            super().submit(io)

    def later(*_: object) -> None:
        raise AssertionError("nothing waits for a clock")

    store = FaultStore(Inner(4096), Faults(stall_seconds=0.001), later, executor)
    assert not store.read_now(0, [memoryview(bytearray(512))], 512)
    assert not store.write_now(0, [memoryview(bytes(512))], 512)
    ended: list[StoreIo] = []
    for kind in (IoKind.ZERO, IoKind.FLUSH):
        store.submit(StoreIo(kind, 0, 512, ended.append))
    assert (executor.jobs, executor.syncs.jobs, where) == (1, 1, [])
    while len(ended) < 2:
        calls.get(timeout=10)()
    assert sorted(where) == ["FLUSH", "ZERO"]
    executor.close()


def test_a_lost_flush_is_never_forgotten() -> None:
    disk = Disk(Faults(lost_flush=0.5, seed=1))
    statuses = [disk.run(IoKind.FLUSH).status for _ in range(50)]
    first = statuses.index(StoreStatus.SYNC_LOST)
    assert set(statuses[first:]) == {StoreStatus.SYNC_LOST}
    assert disk.run(IoKind.WRITE, b"x" * 512, fua=True).status is StoreStatus.SYNC_LOST
    assert disk.run(IoKind.WRITE, b"x" * 512).status is StoreStatus.OK


def test_a_delay_is_of_every_io_and_blocks_nobody() -> None:
    disk = Disk(Faults(delay_seconds=0.2))
    assert not disk.store.read_now(0, [memoryview(bytearray(512))], 512)
    ended: list[StoreIo] = []
    disk.store.submit(StoreIo(IoKind.FLUSH, 0, 1, ended.append))
    assert not ended
    assert disk.later[0][0] == 0.2
    disk.later.pop()[1]()
    assert ended
