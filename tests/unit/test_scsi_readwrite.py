"""READ and WRITE: sizes, ranges, residuals, durability, abort."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from target.block.pool import SEGMENT_BYTES
from target.hba.inprocess import CommandAborted, Result
from target.scsi import sense as s
from target.scsi.limits import TRANSFER_BYTES_MAX, WINDOW_BYTES
from target.scsi.sense import Sense, Status
from tests.support.cdb import read10, read16, write10, write16
from tests.support.scsi_disk import Initiator, Rig, invalid_cdb, rig
from tests.support.stores import FailingStore, HeldStore, RecordingStore
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreStatus

SIZE = 8 << 20
BLOCKS = SIZE // 512
FUA, DPO = 0x08, 0x10
EARLY = [0, 1000, 4096, SEGMENT_BYTES]


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig(SIZE) as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def cdb6(opcode: int, lba: int, blocks: int) -> bytes:
    return bytes([opcode]) + lba.to_bytes(3) + bytes([blocks, 0])


def cdb12(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(4) + blocks.to_bytes(4) + bytes(2)


def reads(lba: int, blocks: int) -> list[bytes]:
    return [
        cdb6(0x08, lba, blocks),
        read10(lba, blocks),
        cdb12(0xA8, lba, blocks),
        read16(lba, blocks),
    ]


def writes(lba: int, blocks: int) -> list[bytes]:
    return [
        cdb6(0x0A, lba, blocks),
        write10(lba, blocks),
        cdb12(0xAA, lba, blocks),
        write16(lba, blocks),
    ]


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(4))
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (7, 8), (BLOCKS - 255, 255), (100, 33)])
def test_what_is_written_is_read(one: Initiator, size: int, lba: int, blocks: int) -> None:
    data = pattern(blocks * 512)
    one.good(writes(lba, blocks)[size], data)
    for cdb in reads(lba, blocks):
        assert one.good(cdb, expected_in=len(data)) == data


def test_six_byte_commands_of_no_blocks_are_of_256(one: Initiator) -> None:
    data = pattern(256 * 512)
    one.good(cdb6(0x0A, 5, 0), data)
    assert one.good(cdb6(0x08, 5, 0), expected_in=1 << 20) == data


def test_six_byte_commands_reach_21_bits(one: Initiator) -> None:
    assert one.sense(cdb6(0x08, 0x1FFFFF, 1)) == s.LBA_OUT_OF_RANGE.at(0x1FFFFF)
    # The upper three bits of byte 1 are reserved.
    assert one.good(bytes([0x08, 0xE0, 0, 0, 1, 0]), expected_in=512) == bytes(512)


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize(
    "nbytes", [4096, SEGMENT_BYTES + 4096, WINDOW_BYTES, 3 * WINDOW_BYTES + 4096]
)
def test_commands_of_several_windows(block_bytes: int, early: int, nbytes: int) -> None:
    with rig(SIZE, block_bytes=block_bytes) as it:
        one = it.initiator(early_bytes_max=early)
        data = pattern(nbytes)
        one.good(write16(3, nbytes // block_bytes), data)
        assert one.good(read16(3, nbytes // block_bytes), expected_in=nbytes) == data
        assert one.good(read16(0, 3), expected_in=3 * block_bytes) == bytes(3 * block_bytes)


def test_the_longest_command_costs_no_more_memory_than_a_window() -> None:
    with rig(TRANSFER_BYTES_MAX) as it:
        one = it.initiator()
        blocks = TRANSFER_BYTES_MAX // 512
        most = 0
        seen = 0

        def source(nbytes: int) -> bytes:
            nonlocal most
            most = max(most, it.segments_used)
            return b"\xa5" * nbytes

        def sink(view: memoryview) -> None:
            nonlocal most, seen
            most = max(most, it.segments_used)
            assert view == b"\xa5" * len(view)
            seen += len(view)

        result = it.run(
            one.hba.execute(write16(0, blocks), source, expected_out=TRANSFER_BYTES_MAX)
        )
        assert result.status is Status.GOOD
        result = it.run(
            one.hba.execute(read16(0, blocks), expected_in=TRANSFER_BYTES_MAX, data_in=sink)
        )
        assert (result.status, result.residual) == (Status.GOOD, 0)
        assert seen == TRANSFER_BYTES_MAX
        assert most <= WINDOW_BYTES // SEGMENT_BYTES + 1


def test_what_is_at_hand_never_goes_through_submit() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(write10(0, 8), pattern(4096))
        one.good(read10(0, 8))
        one.good(read10(0, 1024), expected_in=1 << 19)
        assert store.log == []


def test_what_is_not_at_hand_is_submitted() -> None:
    store = RecordingStore(MemoryStore(SIZE), at_hand=False)
    with rig(stores=[store]) as it:
        one = it.initiator()
        data = pattern(4096)
        one.good(write10(8, 8), data)
        assert one.good(read10(8, 8)) == data
        assert store.log == [
            (IoKind.WRITE, 4096, 4096, False),
            (IoKind.READ, 4096, 4096, False),
        ]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 4))
@pytest.mark.parametrize(
    ("lba", "blocks", "first"),
    [(BLOCKS, 1, BLOCKS), (BLOCKS - 1, 2, BLOCKS), (BLOCKS + 9, 1, BLOCKS + 9)],
)
def test_lba_out_of_range(one: Initiator, size: int, lba: int, blocks: int, first: int) -> None:
    for cdb in (reads(lba, blocks)[size], writes(lba, blocks)[size]):
        result = one.execute(cdb, b"x" * 1024)
        assert result.sense == s.LBA_OUT_OF_RANGE.at(first)


def test_an_lba_of_64_bits(one: Initiator) -> None:
    assert one.sense(read16((1 << 64) - 1, 1)) == s.LBA_OUT_OF_RANGE.at((1 << 64) - 1)


@pytest.mark.parametrize("size", range(1, 4))
def test_no_blocks(one: Initiator, size: int) -> None:
    for lba in (0, BLOCKS):
        for cdb in (reads(lba, 0)[size], writes(lba, 0)[size]):
            assert one.good(cdb) == b""
    for cdb in (reads(BLOCKS + 1, 0)[size], writes(BLOCKS + 1, 0)[size]):
        assert one.sense(cdb) == s.LBA_OUT_OF_RANGE.at(BLOCKS + 1)


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        (read10(0, 1, 0x20), invalid_cdb(1, 5)),
        (write10(0, 1, 0x80), invalid_cdb(1, 7)),
        (cdb12(0xA8, 0, 1, 0x40), invalid_cdb(1, 6)),
        (write16(0, 1, 0xE0), invalid_cdb(1, 7)),
        (read10(0, 1)[:9] + b"\4", invalid_cdb(9, 2)),
        (cdb6(0x08, 0, 1)[:5] + b"\4", invalid_cdb(5, 2)),
        (write16(0, 1)[:15] + b"\4", invalid_cdb(15, 2)),
    ],
)
def test_fields_that_are_not_supported(one: Initiator, cdb: bytes, sense: Sense) -> None:
    assert one.sense(cdb, bytes(512)) == sense


def test_more_than_the_announced_maximum() -> None:
    with rig(TRANSFER_BYTES_MAX + 4096) as it:
        one = it.initiator()
        blocks = TRANSFER_BYTES_MAX // 512 + 1
        assert one.sense(read16(0, blocks)) == invalid_cdb(10)
        assert one.sense(cdb12(0xAA, 0, blocks)) == invalid_cdb(6)


def test_a_read_only_disk() -> None:
    with rig(SIZE, read_only=True) as it:
        one = it.initiator()
        for cdb in writes(0, 1):
            assert one.sense(cdb, bytes(512)) == s.WRITE_PROTECTED
        assert one.good(read10(0, 1)) == bytes(512)


# --- residuals (RFC 7143 11.4.5) ------------------------------------------------------------------


@pytest.mark.parametrize("expected", [0, 1, 200, 512, 1000, 1024, 10000])
def test_reading_less_or_more_than_the_cdb_says(one: Initiator, expected: int) -> None:
    data = pattern(1024)
    one.good(write10(0, 2), data)
    result = one.execute(read10(0, 2), expected_in=expected)
    assert (result.status, result.sense) == (Status.GOOD, None)
    assert result.data == data[:expected]
    assert result.residual == expected - 1024


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("expected", [0, 1, 200, 512, 1000, 1024, 1500, 10000])
def test_writing_less_or_more_than_the_cdb_says(it: Rig, early: int, expected: int) -> None:
    """Whole blocks of what the initiator sends are written, and nothing else."""
    one = it.initiator(early_bytes_max=early)
    one.good(write10(0, 4), b"o" * 2048)
    result = one.execute(write10(0, 2), b"n" * expected)
    assert (result.status, result.sense) == (Status.GOOD, None)
    assert result.residual == expected - 1024
    written = min(expected, 1024) // 512 * 512
    assert one.good(read10(0, 4)) == b"n" * written + b"o" * (2048 - written)


def test_a_refused_command_has_no_data(one: Initiator) -> None:
    assert one.execute(read10(BLOCKS, 1), expected_in=512).residual == 512
    assert one.execute(write10(BLOCKS, 1), b"x" * 512, expected_in=0).residual == 512


def test_what_came_with_a_write_goes_to_the_store_with_the_rest() -> None:
    """Where it cannot be written on the spot: one I/O, not two in turn."""
    store = RecordingStore(MemoryStore(SIZE), at_hand=False)
    with rig(stores=[store]) as it:
        one = it.initiator(early_bytes_max=1000)
        data = pattern(100 * 512)
        one.good(write10(3, 100), data)
        assert store.log == [(IoKind.WRITE, 3 * 512, 100 * 512, False)]
        assert one.good(read10(3, 100)) == data


def test_a_large_write_whose_beginning_ends_in_the_middle_of_a_block_never_tears_it() -> None:
    """Data that came with the command ends at byte 1000: block 1 is written in one go."""
    store = RecordingStore(MemoryStore(SIZE), at_hand=False)
    with rig(stores=[store]) as it:
        one = it.initiator(early_bytes_max=1000)
        blocks = WINDOW_BYTES // 512 + 8
        data = pattern(blocks * 512)
        one.good(write10(0, blocks), data)
        assert store.log[0] == (IoKind.WRITE, 0, 512, False)
        at = 0
        for kind, offset, length, fua in store.log:
            assert (kind, offset, fua, length % 512) == (IoKind.WRITE, at, False, 0)
            at += length
        assert at == blocks * 512
        assert one.good(read10(0, blocks), expected_in=len(data)) == data


# --- durability -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cdb", [write10(0, 1, FUA), cdb12(0xAA, 0, 1, FUA), write16(0, 1, FUA | DPO)]
)
def test_a_fua_write_is_durable(cdb: bytes) -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        it.initiator().good(cdb, bytes(512))
        assert store.log == [(IoKind.WRITE, 0, 512, True)]


def test_bit_3_of_a_six_byte_cdb_is_an_address(one: Initiator) -> None:
    assert one.sense(bytes([0x0A, 0x08, 0, 0, 1, 0]), bytes(512)) == s.LBA_OUT_OF_RANGE.at(0x80000)


def test_a_fua_read_returns_what_the_medium_has() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(write10(0, 1), b"x" * 512)
        assert one.good(read10(0, 1, FUA)) == b"x" * 512
        assert [entry[0] for entry in store.log] == [IoKind.FLUSH]


def test_a_fua_read_needs_no_flush_without_a_write_cache() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store], write_cache=False) as it:
        it.initiator().good(read10(0, 1, FUA))
        assert store.log == []


def test_without_a_write_cache_every_write_is_durable() -> None:
    store = RecordingStore(MemoryStore(SIZE))
    with rig(stores=[store], write_cache=False) as it:
        it.initiator().good(write10(0, 1), bytes(512))
        assert store.log == [(IoKind.WRITE, 0, 512, True)]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sense"),
    [
        (StoreStatus.NO_SPACE, s.SPACE_ALLOCATION_FAILED),
        (StoreStatus.WRITE_FAILED, s.WRITE_ERROR),
        (StoreStatus.SYNC_LOST, s.SYNC_LOST),
        (StoreStatus.UNAVAILABLE, s.NOT_READY_UNAVAILABLE),
    ],
)
def test_a_write_that_fails(status: StoreStatus, sense: Sense) -> None:
    with rig(stores=[FailingStore(MemoryStore(SIZE), {IoKind.WRITE: status})]) as it:
        for early in EARLY:
            one = it.initiator(f"early {early}", early_bytes_max=early)
            assert one.sense(write10(0, 64), bytes(64 * 512)) == sense


def test_a_node_that_was_shut_out_answers_no_error() -> None:
    """Its sessions end; an error would be final for who could go another way."""
    store = FailingStore(MemoryStore(SIZE), {IoKind.WRITE: StoreStatus.STALE_EPOCH})
    with rig(stores=[store]) as it:
        assert it.initiator().execute(write10(0, 1), bytes(512)).status == Status.BUSY


def test_a_read_that_fails() -> None:
    store = FailingStore(MemoryStore(SIZE), {IoKind.READ: StoreStatus.READ_FAILED})
    with rig(stores=[store]) as it:
        result = it.initiator().execute(read10(0, 8), expected_in=4096)
        assert (result.sense, result.data, result.residual) == (s.READ_ERROR, b"", 4096)


def test_a_read_that_fails_in_its_second_window() -> None:
    """The residual counts what was not sent."""
    store = HeldStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()
        blocks = 2 * WINDOW_BYTES // 512

        async def scenario() -> Result:
            loop = asyncio.get_running_loop()
            store.on_submit = lambda: loop.call_soon(
                lambda: (
                    store.release() if len(store.log) == 1 else store.fail(StoreStatus.READ_FAILED)
                )
            )
            return await one.hba.execute(read16(0, blocks), expected_in=2 * WINDOW_BYTES)

        result = it.run(scenario())
        assert result.sense == s.READ_ERROR
        assert len(result.data) == WINDOW_BYTES
        assert result.residual == WINDOW_BYTES


# --- abort ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cdb", [read10(0, 4096), write10(0, 4096)])
@pytest.mark.parametrize("windows", [0, 1])
def test_an_abort_waits_for_the_store_and_frees_everything(cdb: bytes, windows: int) -> None:
    """While a store uses the buffers of a command they cannot be taken away from it."""
    store = HeldStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()

        async def scenario() -> None:
            held = asyncio.Event()
            store.on_submit = held.set
            task = asyncio.create_task(
                one.hba.execute(cdb, bytes(4096 * 512), expected_in=4096 * 512)
            )
            for _ in range(windows):
                await held.wait()
                held.clear()
                store.release()
            await held.wait()
            one.hba.abort()
            await asyncio.sleep(0)
            assert not task.done()
            store.release()
            with pytest.raises(CommandAborted):
                await task

        it.run(scenario())
        assert it.segments_used == 0
        assert it.volume._ranges.idle
        store.on_submit = lambda: store.release()
        one.good(read10(0, 1))


def test_an_abort_while_data_is_being_solicited(it: Rig) -> None:
    one = it.initiator(early_bytes_max=512)

    async def scenario() -> None:
        task = asyncio.create_task(one.hba.execute(write10(0, 8), b"x" * 4096))
        await asyncio.sleep(0)
        one.hba.abort()
        with pytest.raises(CommandAborted):
            await task

    it.run(scenario())
    assert it.segments_used == 0
    assert one.good(read10(1, 7)) == bytes(7 * 512)


def test_an_abort_while_waiting_for_buffers(it: Rig) -> None:
    one = it.initiator()
    share = one.hba.share

    async def scenario() -> None:
        taken = share.take(share.limit)
        assert taken is not None
        task = asyncio.create_task(one.hba.execute(read10(0, 8), expected_in=4096))
        await asyncio.sleep(0)
        assert not task.done()
        one.hba.abort()
        with pytest.raises(CommandAborted):
            await task
        share.give(taken)

    it.run(scenario())


def test_a_command_waits_for_buffers_and_goes_on(it: Rig) -> None:
    one = it.initiator()
    share = one.hba.share
    one.good(write10(0, 8), b"w" * 4096)

    async def scenario() -> Result:
        taken = share.take(share.limit)
        assert taken is not None
        task = asyncio.create_task(one.hba.execute(read10(0, 8), expected_in=4096))
        await asyncio.sleep(0)
        share.give(taken)
        return await task

    assert it.run(scenario()).data == b"w" * 4096
