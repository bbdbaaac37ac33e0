"""The store that misbehaves does so as it was told, and otherwise behaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workers.fault_store import Faults, FaultStore, parse_faults
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus


def test_a_spec_is_read() -> None:
    assert parse_faults("delay=200ms,error=0.01,torn=1,lost-flush=.5,seed=7") == Faults(
        delay_seconds=0.2, error=0.01, torn=1.0, lost_flush=0.5, seed=7
    )
    assert parse_faults("delay=1.5s") == Faults(delay_seconds=1.5)


@pytest.mark.parametrize(
    "spec",
    ["", "delay", "delay=1", "delay=-1s", "delay=2h", "delay=9999s", "error=2", "error=1.5",
     "error=x", "error=nan", "torn=-0.1", "lost_flush=1", "seed=-1", "seed=x", "magic=1",
     "error=0,error=1", "error=0.1,"],
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


def test_a_torn_write_has_written_its_first_half() -> None:
    disk = Disk(Faults(torn=1.0))
    assert disk.run(IoKind.WRITE, b"x" * 2048).status is StoreStatus.WRITE_FAILED
    assert disk.bytes(2048) == b"x" * 1024 + bytes(1024)
    assert disk.run(IoKind.WRITE, b"y" * 512).status is StoreStatus.WRITE_FAILED
    assert disk.bytes(512) == b"x" * 512


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
