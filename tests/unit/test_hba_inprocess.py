"""The in-process HBA: one command at a time through a bounce buffer."""

from __future__ import annotations

import asyncio

import pytest

from target.block.pool import POOL_BYTES_MIN, SEGMENT_BYTES, BufferPool
from target.hba.inprocess import BOUNCE_BYTES, InProcessHba
from target.scsi.bus import SCSIBus
from target.scsi.sense import Status
from tests.support.cdb import read10, read16, write10, write16
from tests.support.scsi_disk import TEST_UNIT_READY, rig
from tests.support.stores import HeldStore
from workers.memory_store import MemoryStore

SIZE = 4 << 20


def test_it_says_what_it_cannot_do() -> None:
    caps = InProcessHba.caps
    assert not caps.tagged_queueing
    assert not caps.scatter_gather
    assert caps.segment_bytes_max == BOUNCE_BYTES


def test_no_piece_is_longer_than_the_bounce_buffer() -> None:
    with rig(SIZE) as it:
        one = it.initiator()
        pieces: list[int] = []

        def source(nbytes: int) -> bytes:
            pieces.append(nbytes)
            return b"\x17" * nbytes

        def sink(view: memoryview) -> None:
            pieces.append(len(view))
            assert view == b"\x17" * len(view)

        it.run(one.hba.execute(write16(0, 4096), source, expected_out=2 << 20))
        assert sum(pieces) == 2 << 20
        it.run(one.hba.execute(read16(0, 4096), expected_in=2 << 20, data_in=sink))
        assert sum(pieces) == 4 << 20
        assert max(pieces) <= BOUNCE_BYTES


def test_a_second_command_is_refused_while_one_runs() -> None:
    store = HeldStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()

        async def scenario() -> None:
            task = asyncio.create_task(one.hba.execute(read10(0, 1), expected_in=512))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one command at a time"):
                await one.hba.execute(TEST_UNIT_READY)
            store.release()
            assert (await task).status is Status.GOOD
            assert (await one.hba.execute(TEST_UNIT_READY)).status is Status.GOOD

        it.run(scenario())


def test_a_cancelled_call_aborts_its_command() -> None:
    store = HeldStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator()

        async def scenario() -> None:
            task = asyncio.create_task(one.hba.execute(read10(0, 1), expected_in=512))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(RuntimeError, match="one command at a time"):
                await one.hba.execute(TEST_UNIT_READY)
            store.release()
            assert (await one.hba.execute(TEST_UNIT_READY)).status is Status.GOOD

        it.run(scenario())


def fails(nbytes: object) -> bytes:
    raise OSError("the pipe is broken")


def short(nbytes: int) -> bytes:
    return bytes(nbytes - 1)


@pytest.mark.parametrize("early", [0, 1000, SEGMENT_BYTES])
def test_an_error_of_the_source_ends_the_command(early: int) -> None:
    with rig(SIZE) as it:
        one = it.initiator(early_bytes_max=early)
        with pytest.raises(OSError, match="broken"):
            it.run(one.hba.execute(write10(0, 64), fails, expected_out=32768))
        with pytest.raises(ValueError, match="gave"):
            it.run(one.hba.execute(write10(0, 64), short, expected_out=32768))
        assert one.good(read10(0, 64)) == bytes(32768)


def test_an_error_of_the_sink_ends_the_command() -> None:
    with rig(SIZE) as it:
        one = it.initiator()
        with pytest.raises(OSError, match="broken"):
            it.run(one.hba.execute(read10(0, 64), expected_in=32768, data_in=fails))
        one.good(TEST_UNIT_READY)


def test_calls_that_make_no_sense() -> None:
    with rig(SIZE) as it:
        one = it.initiator()
        with pytest.raises(ValueError, match="empty"):
            it.run(one.hba.execute(b""))
        with pytest.raises(ValueError, match="how long"):
            it.run(one.hba.execute(write10(0, 1), short))


def test_short_cdbs_are_padded() -> None:
    with rig(SIZE) as it:
        assert it.initiator().good(b"\x12\0\0\0\x24")[8:16] == b"LUNMESH "


def test_a_pool_without_room_for_it() -> None:
    pool = BufferPool(POOL_BYTES_MIN)
    share = pool.open_share()
    assert share.reserve(pool.reserve_limit)
    with pytest.raises(MemoryError):
        InProcessHba(SCSIBus(), pool)
    assert pool.shares == [share]


def test_closing_takes_the_nexus_off_the_bus() -> None:
    with rig(SIZE) as it:
        pool = BufferPool(POOL_BYTES_MIN)
        hba = InProcessHba(it.bus, pool)
        assert hba.nexus in it.bus.nexuses
        hba.close()
        assert it.bus.nexuses == []
        assert it.unit.attachments == []
        assert (pool.shares, pool.spare) == ([], pool.unreserved_total)


def test_data_the_command_does_not_take() -> None:
    with rig(SIZE) as made:
        result = made.initiator().execute(TEST_UNIT_READY, b"x" * 100, expected_in=0)
        assert (result.status, result.residual) == (Status.GOOD, 100)
