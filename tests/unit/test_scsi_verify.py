"""VERIFY, WRITE AND VERIFY, COMPARE AND WRITE."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from target.block.pool import SEGMENT_BYTES
from target.scsi import sense as s
from target.scsi.limits import TRANSFER_BYTES_MAX, WINDOW_BYTES
from target.scsi.sense import Sense, Status
from target.scsi.verify import first_difference
from tests.support.cdb import compare_and_write, read16, write16
from tests.support.scsi_disk import Initiator, Rig, invalid_cdb, rig
from tests.support.stores import FailingStore, RecordingStore
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus

SIZE = 8 << 20
BLOCKS = SIZE // 512
MEDIUM, COMPARE, RESERVED, COMPARE_ONE = (n << 1 for n in range(4))
EARLY = [0, 1000, SEGMENT_BYTES]
SIZES = [10, 12, 16]
Make = Callable[[int, int, int, int], bytes]


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig(SIZE) as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def ranged(opcodes: tuple[int, int, int], size: int, lba: int, blocks: int, flags: int) -> bytes:
    opcode = opcodes[SIZES.index(size)]
    match size:
        case 10:
            rest = lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"
        case 12:
            rest = lba.to_bytes(4) + blocks.to_bytes(4) + bytes(2)
        case _:
            rest = lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
    return bytes([opcode, flags]) + rest


def verify(lba: int, blocks: int, flags: int = MEDIUM, size: int = 16) -> bytes:
    return ranged((0x2F, 0xAF, 0x8F), size, lba, blocks, flags)


def write_and_verify(lba: int, blocks: int, flags: int = MEDIUM, size: int = 16) -> bytes:
    return ranged((0x2E, 0xAE, 0x8E), size, lba, blocks, flags)


# --- scatter lists --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, 0, 1, 99, 100, 254])
def test_where_two_scatter_lists_differ(at: int | None) -> None:
    wanted = pattern(255)
    found = bytearray(wanted)
    if at is not None:
        found[at] ^= 1
        found[-1] ^= 2
    a, b = memoryview(found), memoryview(wanted)
    assert first_difference([a[:100], a[100:]], [b[:7], b[7:240], b[240:]]) == at


# --- VERIFY ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_verify_of_the_medium_moves_no_data(one: Initiator, size: int) -> None:
    result = one.execute(verify(0, 100, size=size), expected_in=0)
    assert (result.status, result.residual) == (Status.GOOD, 0)


def test_verify_of_the_medium_reads_it() -> None:
    store = FailingStore(MemoryStore(SIZE), {IoKind.READ: StoreStatus.READ_FAILED})
    with rig(stores=[store]) as it:
        assert it.initiator().sense(verify(0, 1)) == s.READ_ERROR


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("nbytes", [512, 20 * 512, 2 * WINDOW_BYTES + 512])
def test_verify_compares(it: Rig, size: int, early: int, nbytes: int) -> None:
    one = it.initiator(early_bytes_max=early)
    data = pattern(nbytes)
    blocks = nbytes // 512
    one.good(write16(5, blocks), data)
    one.good(verify(5, blocks, COMPARE, size), data)
    for wrong in (0, nbytes // 2, nbytes - 1):
        bad = bytearray(data)
        bad[wrong] ^= 0xFF
        assert one.sense(verify(5, blocks, COMPARE, size), bytes(bad)) == s.MISCOMPARE.at(wrong)


@pytest.mark.parametrize("size", SIZES)
def test_verify_compares_each_block_with_one(one: Initiator, size: int) -> None:
    blocks = 2 * WINDOW_BYTES // 512 + 3
    block = pattern(512)
    one.good(write16(7, blocks), block * blocks)
    one.good(verify(7, blocks, COMPARE_ONE, size), block)
    one.good(write16(7 + blocks - 1, 1), bytes(512))
    at = (blocks - 1) * 512
    assert one.sense(verify(7, blocks, COMPARE_ONE, size), block) == s.MISCOMPARE.at(at)


@pytest.mark.parametrize("nbytes", [0, 511, 513, 1024])
def test_one_block_is_one_block(one: Initiator, nbytes: int) -> None:
    result = one.execute(verify(0, 4, COMPARE_ONE), bytes(nbytes))
    assert result.sense == s.INVALID_FIELD_IN_COMMAND_IU


def test_what_the_initiator_does_not_send_is_not_compared(one: Initiator) -> None:
    one.good(write16(0, 2), b"x" * 1024)
    result = one.execute(verify(0, 2, COMPARE), b"x" * 600)
    assert (result.status, result.residual) == (Status.GOOD, 600 - 1024)


@pytest.mark.parametrize("flags", [MEDIUM, COMPARE, COMPARE_ONE])
def test_verify_of_no_blocks(one: Initiator, flags: int) -> None:
    one.good(verify(BLOCKS, 0, flags))
    assert one.sense(verify(BLOCKS + 1, 0, flags)) == s.LBA_OUT_OF_RANGE.at(BLOCKS + 1)


# --- WRITE AND VERIFY -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("flags", [MEDIUM, COMPARE])
@pytest.mark.parametrize("nbytes", [512, 8 * 512, 2 * WINDOW_BYTES + 1024])
def test_write_and_verify(it: Rig, size: int, early: int, flags: int, nbytes: int) -> None:
    one = it.initiator(early_bytes_max=early)
    data = pattern(nbytes)
    one.good(write_and_verify(3, nbytes // 512, flags, size), data)
    assert one.good(read16(3, nbytes // 512), expected_in=nbytes) == data


def test_write_and_verify_is_on_stable_storage_before_it_is_read_back() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        it.initiator().good(write_and_verify(0, 8), bytes(4096))
        assert store.log == [(IoKind.WRITE, 0, 4096, True), (IoKind.READ, 0, 4096, False)]


class Forgetful(RecordingStore):
    """A store that loses a bit of what it is given."""

    def submit(self, io: StoreIo) -> None:
        super().submit(io)
        if io.kind is IoKind.READ and io.offset <= 1234 < io.offset + io.length:
            io.buffers[0][1234 - io.offset] ^= 4


def test_write_and_verify_notices_what_a_store_has_lost() -> None:
    with rig(stores=[Forgetful(MemoryStore(SIZE), at_hand=False)]) as it:
        one = it.initiator()
        one.good(write_and_verify(0, 8, MEDIUM), bytes(4096))
        for early in EARLY:
            other = it.initiator(f"early {early}", early_bytes_max=early)
            assert other.sense(write_and_verify(0, 8, COMPARE), bytes(4096)) == s.MISCOMPARE.at(
                1234
            )


@pytest.mark.parametrize("make", [verify, write_and_verify])
@pytest.mark.parametrize("size", SIZES)
def test_fields_that_are_refused(one: Initiator, make: Make, size: int) -> None:
    assert one.sense(make(0, 1, RESERVED, size), bytes(512)) == invalid_cdb(1, 2)
    assert one.sense(make(0, 1, 0x20, size), bytes(512)) == invalid_cdb(1, 5)
    assert one.sense(make(BLOCKS, 1, MEDIUM, size)) == s.LBA_OUT_OF_RANGE.at(BLOCKS)


def test_write_and_verify_against_one_block(one: Initiator) -> None:
    assert one.sense(write_and_verify(0, 1, COMPARE_ONE), bytes(512)) == invalid_cdb(1, 2)


def test_more_than_the_announced_maximum() -> None:
    with rig(TRANSFER_BYTES_MAX + 4096) as it:
        one = it.initiator()
        for make in (verify, write_and_verify):
            assert one.sense(make(0, TRANSFER_BYTES_MAX // 512 + 1)) == invalid_cdb(10)


def test_a_read_only_disk_can_be_verified() -> None:
    with rig(SIZE, read_only=True) as it:
        one = it.initiator()
        one.good(verify(0, 8))
        assert one.sense(write_and_verify(0, 1), bytes(512)) == s.WRITE_PROTECTED
        assert one.sense(compare_and_write(0, 1), bytes(1024)) == s.WRITE_PROTECTED


# --- COMPARE AND WRITE ----------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("early", EARLY)
def test_compare_and_write(block_bytes: int, early: int) -> None:
    with rig(SIZE, block_bytes=block_bytes) as it:
        one = it.initiator(early_bytes_max=early)
        for blocks in (1, 2, it.disk.compare_and_write_blocks_max):
            nbytes = blocks * block_bytes
            old, new = pattern(nbytes, 1), pattern(nbytes, 2)
            one.good(write16(1, blocks), old)
            one.good(compare_and_write(1, blocks), old + new)
            assert one.good(read16(1, blocks), expected_in=nbytes) == new
            for wrong in (0, nbytes - 1):
                bad = bytearray(new)
                bad[wrong] ^= 1
                sense = one.sense(compare_and_write(1, blocks), bytes(bad) + old)
                assert sense == s.MISCOMPARE.at(wrong)
            assert one.good(read16(1, blocks), expected_in=nbytes) == new


def test_compare_and_write_with_fua() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        it.initiator().good(compare_and_write(0, 1, 0x08), bytes(1024))
        assert store.log == [(IoKind.COMPARE_AND_WRITE, 0, 512, True)]


def test_no_blocks_and_no_data_do_nothing(one: Initiator) -> None:
    one.good(compare_and_write(0, 0))
    assert one.sense(compare_and_write(BLOCKS + 1, 0)) == s.LBA_OUT_OF_RANGE.at(BLOCKS + 1)


@pytest.mark.parametrize(
    ("blocks", "nbytes"), [(0, 256 * 1024), (1, 0), (1, 512), (1, 1023), (1, 2048), (2, 1024)]
)
def test_data_that_is_not_two_halves_of_the_range(one: Initiator, blocks: int, nbytes: int) -> None:
    """256 blocks do not fit in the CDB's one byte: 0 blocks, 256 KiB."""
    result = one.execute(compare_and_write(0, blocks), bytes(nbytes), expected_in=0)
    assert result.sense == invalid_cdb(13)
    assert one.good(read16(0, 4)) == bytes(2048)


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        (compare_and_write(0, 1, 0x20), invalid_cdb(1, 7)),
        (compare_and_write(0, 1)[:15] + b"\4", invalid_cdb(15, 2)),
        (compare_and_write(BLOCKS, 1), s.LBA_OUT_OF_RANGE.at(BLOCKS)),
        (compare_and_write(BLOCKS - 1, 2), s.LBA_OUT_OF_RANGE.at(BLOCKS)),
    ],
)
def test_what_compare_and_write_refuses(one: Initiator, cdb: bytes, sense: Sense) -> None:
    assert one.sense(cdb, bytes(1024)) == sense


def test_more_blocks_than_two_copies_of_which_fit() -> None:
    with rig(SIZE, block_bytes=4096) as it:
        most = it.disk.compare_and_write_blocks_max
        assert most == WINDOW_BYTES // 2 // 4096
        sense = it.initiator().sense(compare_and_write(0, most + 1), bytes(2 * 4096 * (most + 1)))
        assert sense == invalid_cdb(13)
