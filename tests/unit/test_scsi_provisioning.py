"""UNMAP, WRITE SAME, GET LBA STATUS."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Iterator

import pytest

from target.block.volume import Volume
from target.scsi import sense as s
from target.scsi.capacity import whole_blocks
from target.scsi.disk import DiskDevice
from target.scsi.limits import (
    UNMAP_BYTES_MAX,
    UNMAP_DESCRIPTORS_MAX,
    WINDOW_BYTES,
    WRITE_SAME_BYTES_MAX,
    ZERO_BYTES_MAX,
)
from target.scsi.provisioning import joined, unmap_ranges
from target.scsi.sense import CheckCondition, Sense
from tests.support.cdb import read16, unmap, write16, write_same16
from tests.support.scsi_disk import UUID, Initiator, Rig, invalid_cdb, invalid_parameter, rig
from tests.support.stores import FailingStore, RecordingStore
from workers.memory_store import MemoryStore
from workers.store import IoKind, StatusExtent, StoreStatus

SIZE = 8 << 20
BLOCKS = SIZE // 512
PAGE_BLOCKS = 8
ANCHOR, UNMAP, PBDATA, LBDATA, NDOB = 0x10, 0x08, 0x04, 0x02, 0x01


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig(SIZE) as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def unmap_list(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", *r) for r in ranges)
    return struct.pack(">HH4x", 6 + len(body), len(body)) + body


def do_unmap(one: Initiator, *ranges: tuple[int, int]) -> None:
    data = unmap_list(*ranges)
    one.good(unmap(len(data)), data)


def write_same10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([0x41, flags]) + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def get_lba_status(lba: int, length: int = 4096) -> bytes:
    return b"\x9e\x12" + lba.to_bytes(8) + length.to_bytes(4) + bytes(2)


def status(one: Initiator, lba: int = 0) -> list[tuple[int, int, int]]:
    data = one.good(get_lba_status(lba))
    (length,) = struct.unpack_from(">I", data)
    assert length == len(data) - 4
    return [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]


def huge_disk() -> DiskDevice:
    """Nothing of it is there but its size."""
    return DiskDevice(Volume("huge", UUID, [MemoryStore(16 << 40)]))


# --- UNMAP ----------------------------------------------------------------------------------------


def test_unmapped_blocks_read_as_zeros_and_take_no_space(it: Rig, one: Initiator) -> None:
    one.good(write16(0, 128), pattern(65536))
    do_unmap(one, (8, 16), (64, 1))
    data = bytearray(pattern(65536))
    data[4096:12288] = bytes(8192)
    data[64 * 512 : 65 * 512] = bytes(512)
    assert one.good(read16(0, 128), expected_in=65536) == data
    assert status(one) == [(0, 8, 0), (8, 16, 1), (24, 104, 0), (128, BLOCKS - 128, 1)]


def test_the_whole_disk_and_the_same_blocks_twice(it: Rig, one: Initiator) -> None:
    one.good(write16(0, 128), pattern(65536))
    do_unmap(one, (0, BLOCKS), (0, BLOCKS), (5, 0))
    assert status(one) == [(0, BLOCKS, 1)]


def test_lists_without_descriptors(one: Initiator) -> None:
    one.good(write16(0, 8), b"x" * 4096)
    one.good(unmap(0))
    one.good(unmap(8), bytes(8))
    do_unmap(one)
    # An incomplete descriptor is ignored (SBC-3 5.28.2).
    data = struct.pack(">HH4x", 21, 15) + struct.pack(">QI", 0, 8) + bytes(3)
    one.good(unmap(len(data)), data)
    assert one.good(read16(0, 8)) == b"x" * 4096


@pytest.mark.parametrize("length", [1, 7])
def test_a_list_shorter_than_its_header(one: Initiator, length: int) -> None:
    assert one.sense(unmap(length), bytes(length)) == s.PARAMETER_LIST_LENGTH_ERROR


def test_descriptors_past_the_end_of_the_list(one: Initiator) -> None:
    data = unmap_list((0, 8), (8, 8))
    assert one.sense(unmap(24), data[:24]) == s.PARAMETER_LIST_LENGTH_ERROR


def test_an_initiator_that_sends_less_than_it_says(one: Initiator) -> None:
    data = unmap_list((0, 8))
    assert one.sense(unmap(len(data)), data[:-1]) == s.PARAMETER_LIST_LENGTH_ERROR


@pytest.mark.parametrize(
    ("bad", "first"),
    [((BLOCKS, 1), BLOCKS), ((BLOCKS - 1, 2), BLOCKS), ((BLOCKS + 5, 0), BLOCKS + 5)],
)
def test_nothing_is_unmapped_when_one_range_is_wrong(
    one: Initiator, bad: tuple[int, int], first: int
) -> None:
    one.good(write16(0, 8), b"x" * 4096)
    data = unmap_list((0, 8), bad)
    assert one.sense(unmap(len(data)), data) == s.LBA_OUT_OF_RANGE.at(first)
    assert one.good(read16(0, 8)) == b"x" * 4096


def test_the_announced_limits_hold() -> None:
    disk = huge_disk()
    most = UNMAP_BYTES_MAX // 512
    ranges = [(n, 1) for n in range(UNMAP_DESCRIPTORS_MAX)]
    data = unmap_list(*ranges)
    assert unmap_ranges(disk, data, len(data)) == ranges
    data = unmap_list((0, most - 1), (most, 1))
    assert len(unmap_ranges(disk, data, len(data))) == 2

    def sense(data: bytes) -> Sense:
        with pytest.raises(CheckCondition) as caught:
            unmap_ranges(disk, data, len(data))
        return caught.value.sense

    assert sense(unmap_list(*ranges, (0, 1))) == invalid_parameter(2)
    assert sense(unmap_list((0, most), (most, 1))) == invalid_parameter(8 + 16 + 8)


def test_unmap_flags_and_states(it: Rig, one: Initiator) -> None:
    data = unmap_list((0, 1))
    anchored = bytes([0x42, 1]) + unmap(len(data))[2:]
    assert one.sense(anchored, data) == invalid_cdb(1, 0)
    with rig(SIZE, read_only=True) as other:
        assert other.initiator().sense(unmap(len(data)), data) == s.WRITE_PROTECTED
    failing = FailingStore(MemoryStore(SIZE), {IoKind.UNMAP: StoreStatus.WRITE_FAILED})
    with rig(stores=[failing]) as other:
        assert other.initiator().sense(unmap(len(data)), data) == s.WRITE_ERROR


# --- WRITE SAME -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [write_same10, write_same16])
@pytest.mark.parametrize("flags", [0, UNMAP])
@pytest.mark.parametrize("blocks", [1, 33, 3 * WINDOW_BYTES // 512 + 1])
def test_a_pattern_is_written_with_and_without_unmap(
    one: Initiator, command: Callable[[int, int, int], bytes], flags: int, blocks: int
) -> None:
    block = pattern(512)
    one.good(command(9, blocks, flags), block)
    data = one.good(read16(8, blocks + 2), expected_in=(blocks + 2) * 512)
    assert data == bytes(512) + block * blocks + bytes(512)


def test_a_pattern_of_large_blocks() -> None:
    with rig(SIZE, block_bytes=4096) as it:
        one = it.initiator()
        block = pattern(4096)
        one.good(write_same16(1, 300), block)
        assert one.good(read16(1, 300), expected_in=300 * 4096) == block * 300


@pytest.mark.parametrize("command", [write_same10, write_same16])
def test_zeros_stay_allocated_without_unmap(
    one: Initiator, command: Callable[[int, int, int], bytes]
) -> None:
    one.good(write16(0, 32), pattern(32 * 512))
    one.good(command(8, 8, 0), bytes(512))
    assert status(one) == [(0, 32, 0), (32, BLOCKS - 32, 1)]
    one.good(command(8, 8, UNMAP), bytes(512))
    assert status(one)[:2] == [(0, 8, 0), (8, 8, 1)]
    assert one.good(read16(8, 8)) == bytes(4096)


def test_no_data_out_buffer(one: Initiator) -> None:
    one.good(write16(0, 32), pattern(32 * 512))
    result = one.execute(write_same16(0, 8, NDOB), expected_in=0)
    assert (result.sense, result.residual) == (None, 0)
    one.good(write_same16(8, 8, NDOB | UNMAP))
    assert one.good(read16(0, 16)) == bytes(8192)
    assert status(one)[:3] == [(0, 8, 0), (8, 8, 1), (16, 16, 0)]


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        (write_same10(0, 0), invalid_cdb(7)),
        (write_same16(0, 0), invalid_cdb(10)),
        (write_same10(0, 1, ANCHOR), invalid_cdb(1, 4)),
        (write_same16(0, 1, ANCHOR | UNMAP), invalid_cdb(1, 4)),
        (write_same10(0, 1, LBDATA), invalid_cdb(1, 1)),
        (write_same16(0, 1, PBDATA), invalid_cdb(1, 2)),
        (write_same10(0, 1, NDOB), invalid_cdb(1, 0)),
        (write_same16(0, 1, 0x20), invalid_cdb(1, 5)),
        (write_same10(BLOCKS, 1), s.LBA_OUT_OF_RANGE.at(BLOCKS)),
        (write_same16(BLOCKS - 1, 2), s.LBA_OUT_OF_RANGE.at(BLOCKS)),
        (write_same16(BLOCKS + 1, 0), s.LBA_OUT_OF_RANGE.at(BLOCKS + 1)),
    ],
)
def test_what_write_same_refuses(one: Initiator, cdb: bytes, sense: Sense) -> None:
    assert one.sense(cdb, bytes(512)) == sense


@pytest.mark.parametrize("nbytes", [0, 256, 1024])
def test_data_that_is_not_one_block(one: Initiator, nbytes: int) -> None:
    result = one.execute(write_same16(0, 8), b"x" * nbytes)
    assert result.sense == s.INVALID_FIELD_IN_COMMAND_IU
    assert one.good(read16(0, 8)) == bytes(4096)


def test_the_announced_maximum_of_write_same() -> None:
    with rig(stores=[MemoryStore(WRITE_SAME_BYTES_MAX + 4096)]) as it:
        one = it.initiator()
        most = WRITE_SAME_BYTES_MAX // 512
        assert one.sense(write_same16(0, most + 1), bytes(512)) == invalid_cdb(10)
        one.good(write_same16(0, most, NDOB | UNMAP))


def test_zeroing_goes_in_pieces() -> None:
    store = RecordingStore(MemoryStore(2 * ZERO_BYTES_MAX + 4096))
    with rig(stores=[store]) as it:
        it.initiator().good(write_same16(0, 2 * ZERO_BYTES_MAX // 512 + 1, NDOB | UNMAP))
        assert store.log == [
            (IoKind.UNMAP, 0, ZERO_BYTES_MAX, False),
            (IoKind.UNMAP, ZERO_BYTES_MAX, ZERO_BYTES_MAX, False),
            (IoKind.UNMAP, 2 * ZERO_BYTES_MAX, 512, False),
        ]


def test_a_long_write_same_needs_one_segment_and_lets_others_go_on() -> None:
    """On a store that answers at once, too."""
    store = RecordingStore(MemoryStore(64 << 20))
    with rig(stores=[store]) as it:
        one, other = it.initiator("one"), it.initiator("other")
        turns = 0

        async def scenario() -> None:
            nonlocal turns
            loop = asyncio.get_running_loop()
            it.disk._defer = loop.call_soon
            task = asyncio.create_task(
                one.hba.execute(write_same16(0, (64 << 20) // 512), b"\x5a" * 512)
            )
            while not task.done():
                assert it.segments_used <= 1 + 1  # the pattern, and the block on its way to it
                result = await other.hba.execute(read16(0, 1), expected_in=512)
                assert result.data in (bytes(512), b"\x5a" * 512)
                turns += 1
                await asyncio.sleep(0)
            assert (await task).sense is None

        it.run(scenario())
        assert turns >= 3
        assert max(length for _, _, length, _ in store.log) <= WINDOW_BYTES


def test_durable_without_a_write_cache() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store], write_cache=False) as it:
        one = it.initiator()
        one.good(write_same16(0, 8), b"x" * 512)
        one.good(write_same16(0, 8, UNMAP), bytes(512))
        do_unmap(one, (0, 8))
        assert all(fua for _, _, _, fua in store.log)


@pytest.mark.parametrize("kind", [IoKind.ZERO, IoKind.UNMAP, IoKind.WRITE])
def test_a_write_same_that_fails_says_so(kind: IoKind) -> None:
    with rig(stores=[FailingStore(MemoryStore(SIZE), {kind: StoreStatus.NO_SPACE})]) as it:
        cdb = write_same16(0, 8, UNMAP if kind is IoKind.UNMAP else 0)
        block = bytes([kind is IoKind.WRITE]) * 512
        assert it.initiator().sense(cdb, block) == s.SPACE_ALLOCATION_FAILED


# --- GET LBA STATUS -------------------------------------------------------------------------------


def test_status_from_the_middle_of_a_run(one: Initiator) -> None:
    one.good(write16(16, 16), pattern(16 * 512))
    assert status(one, 20) == [(20, 12, 0), (32, BLOCKS - 32, 1)]
    assert status(one, BLOCKS - 1) == [(BLOCKS - 1, 1, 1)]


def test_status_past_the_end(one: Initiator) -> None:
    assert one.sense(get_lba_status(BLOCKS)) == s.LBA_OUT_OF_RANGE.at(BLOCKS)


@pytest.mark.parametrize(("length", "descriptors"), [(24, 1), (39, 1), (40, 2), (4096, 21)])
def test_as_many_descriptors_as_fit(one: Initiator, length: int, descriptors: int) -> None:
    for number in range(10):
        one.good(write16(2 * number * PAGE_BLOCKS + 8, 8), pattern(4096))
    data = one.good(get_lba_status(0, length))
    assert len(data) == 8 + 16 * descriptors
    assert int.from_bytes(data[:4], "big") == len(data) - 4


@pytest.mark.parametrize("length", [0, 4, 8, 23])
def test_an_allocation_length_without_room_for_one(one: Initiator, length: int) -> None:
    assert len(one.good(get_lba_status(0, length))) == length


def test_a_run_of_more_than_32_bits_of_blocks() -> None:
    """Descriptors are contiguous (SBC-3 5.6)."""
    blocks = (4 << 40) // 512
    with rig(stores=[MemoryStore(4 << 40)]) as it:
        one = it.initiator()
        one.good(write16(blocks - 8, 8), pattern(4096))
        assert status(one) == [
            (0, 0xFFFFFFFF, 1),
            (0xFFFFFFFF, blocks - 8 - 0xFFFFFFFF, 1),
            (blocks - 8, 8, 0),
        ]
        assert len(one.good(get_lba_status(0, 24))) == 24


def test_a_block_that_is_mapped_in_part_is_mapped() -> None:
    extents = [
        StatusExtent(0, 1000, False),
        StatusExtent(1000, 100, True),
        StatusExtent(1100, 948, False),
        StatusExtent(2048, 512, True),
    ]
    assert whole_blocks(extents, 512) == [(0, 1, False), (1, 2, True), (3, 1, False), (4, 1, True)]
    extents = [
        StatusExtent(512, 100, True),
        StatusExtent(612, 300, False),
        StatusExtent(912, 9, True),
    ]
    assert whole_blocks(extents, 512) == [(1, 1, True)]
    assert whole_blocks([], 512) == []


def test_unmapped_ranges_that_follow_one_another_are_one() -> None:
    assert joined([]) == []
    assert joined([(0, 1), (1, 1), (2, 6), (9, 1), (8, 1), (10, 1)]) == [
        *((0, 8), (9, 1), (8, 1), (10, 1)),
    ]
