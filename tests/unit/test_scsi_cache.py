"""SYNCHRONIZE CACHE and PRE-FETCH."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from target.scsi import sense as s
from target.scsi.limits import TRANSFER_BYTES_MAX
from target.scsi.sense import Status
from tests.support.cdb import write10
from tests.support.scsi_disk import Initiator, Rig, invalid_cdb, rig
from tests.support.stores import FailingStore, RecordingStore
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreStatus

SIZE = 8 << 20
BLOCKS = SIZE // 512
IMMED = 0x02


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig(SIZE) as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def ten(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def sixteen(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)


def synchronize10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return ten(0x35, lba, blocks, flags)


def synchronize16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return sixteen(0x91, lba, blocks, flags)


def prefetch10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return ten(0x34, lba, blocks, flags)


def prefetch16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return sixteen(0x90, lba, blocks, flags)


Make = Callable[[int, int, int], bytes]
SYNCHRONIZE = pytest.mark.parametrize("make", [synchronize10, synchronize16])
PREFETCH = pytest.mark.parametrize("make", [prefetch10, prefetch16])
ALL = pytest.mark.parametrize("make", [synchronize10, synchronize16, prefetch10, prefetch16])


@SYNCHRONIZE
@pytest.mark.parametrize("flags", [0, IMMED])
def test_synchronize_cache_flushes_before_it_answers(make: Make, flags: int) -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(make(0, 0, flags))
        one.good(make(5, 1, flags))
        assert [entry[0] for entry in store.log] == [IoKind.FLUSH] * 2


@SYNCHRONIZE
@pytest.mark.parametrize("flags", [0, IMMED])
def test_a_flush_that_fails_is_reported(make: Make, flags: int) -> None:
    store = FailingStore(MemoryStore(SIZE), {IoKind.FLUSH: StoreStatus.SYNC_LOST})
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(write10(0, 1), bytes(512))
        assert one.sense(make(0, 0, flags)) == s.SYNC_LOST


@SYNCHRONIZE
def test_a_read_only_disk_has_nothing_to_flush(make: Make) -> None:
    store = RecordingStore(MemoryStore(SIZE, read_only=True))
    with rig(stores=[store], read_only=True) as it:
        it.initiator().good(make(0, 0, 0))
        assert store.log == []


@PREFETCH
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (0, 0), (BLOCKS - 1, 1), (BLOCKS, 0)])
def test_what_was_fetched_as_a_whole_meets_the_condition(
    one: Initiator, make: Make, lba: int, blocks: int
) -> None:
    for flags in (0, IMMED):
        result = one.execute(make(lba, blocks, flags), expected_in=0)
        assert (result.status, result.residual) == (Status.CONDITION_MET, 0)


@PREFETCH
def test_prefetch_reads_the_range(make: Make) -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        it.initiator().execute(make(8, 16, 0))
        assert store.log == [(IoKind.READ, 4096, 8192, False)]


@PREFETCH
def test_the_rest_of_a_large_disk_is_fetched_in_part(make: Make) -> None:
    store = RecordingStore(MemoryStore(TRANSFER_BYTES_MAX + 4096))
    with rig(stores=[store]) as it:
        one = it.initiator()
        assert one.execute(make(0, 0, 0)).status is Status.GOOD
        assert sum(length for _, _, length, _ in store.log) == TRANSFER_BYTES_MAX
        assert one.execute(make(8, 0, 0)).status is Status.CONDITION_MET


def test_prefetch_past_the_announced_maximum() -> None:
    with rig(TRANSFER_BYTES_MAX + 4096) as it:
        one = it.initiator()
        assert one.sense(prefetch16(0, TRANSFER_BYTES_MAX // 512 + 1)) == invalid_cdb(10)


@PREFETCH
def test_a_prefetch_that_fails(make: Make) -> None:
    store = FailingStore(MemoryStore(SIZE), {IoKind.READ: StoreStatus.READ_FAILED})
    with rig(stores=[store]) as it:
        assert it.initiator().sense(make(0, 1, 0)) == s.READ_ERROR


@ALL
@pytest.mark.parametrize(
    ("lba", "blocks", "first"),
    [(BLOCKS, 1, BLOCKS), (BLOCKS - 1, 2, BLOCKS), (BLOCKS + 1, 0, BLOCKS + 1)],
)
def test_ranges_past_the_end(one: Initiator, make: Make, lba: int, blocks: int, first: int) -> None:
    assert one.sense(make(lba, blocks, 0)) == s.LBA_OUT_OF_RANGE.at(first)
