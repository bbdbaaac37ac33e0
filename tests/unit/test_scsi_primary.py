"""Commands that ask or steer; unit attentions; START STOP UNIT and what it stops."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from target.block.volume import Volume
from target.scsi import sense as s
from target.scsi.disk import DiskDevice
from target.scsi.lun import encode_lun
from target.scsi.sense import Sense, Status
from tests.support.cdb import read10, read_capacity16, report_luns, request_sense, write10
from tests.support.scsi_disk import TEST_UNIT_READY, UUID, Initiator, Rig, invalid_cdb, rig
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus

BLOCK = b"\x5a" * 512
START, LOEJ, NO_FLUSH, IMMED = 0x01, 0x02, 0x04, 0x01


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def start_stop(flags: int, immediate: int = 0) -> bytes:
    return bytes((0x1B, immediate, 0, 0, flags, 0))


def prevent(value: int) -> bytes:
    return bytes((0x1E, 0, 0, 0, value, 0))


# --- unit attentions ------------------------------------------------------------------------------


def test_a_new_nexus_learns_of_the_power_on(it: Rig) -> None:
    one = it.initiator(settled=False)
    one.good(bytes.fromhex("12000000ff00"))
    one.good(report_luns())
    assert one.sense(TEST_UNIT_READY) == s.UA_POWER_ON
    one.good(TEST_UNIT_READY)


def test_request_sense_reports_a_unit_attention_and_clears_it(it: Rig, one: Initiator) -> None:
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    it.unit.attend_all(s.UA_MODE_PARAMETERS_CHANGED)
    assert one.good(request_sense()) == s.UA_CAPACITY_CHANGED.encode(False)
    assert one.good(request_sense(descriptor=True)) == s.UA_MODE_PARAMETERS_CHANGED.encode(True)
    assert one.good(request_sense()) == s.NO_SENSE.encode(False)
    one.good(TEST_UNIT_READY)


def test_sense_data_in_both_formats(one: Initiator) -> None:
    assert one.good(request_sense()) == bytes.fromhex("70 00 00 00000000 0a") + bytes(10)
    assert one.good(request_sense(descriptor=True)) == bytes.fromhex("72 00 00 00 000000 00")
    assert one.good(request_sense(4)) == bytes.fromhex("70 00 00 00")


def test_a_unit_attention_comes_before_what_is_wrong_with_the_command(
    it: Rig, one: Initiator
) -> None:
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    assert one.sense(read10(1 << 30, 1)) == s.UA_CAPACITY_CHANGED
    assert one.sense(read10(1 << 30, 1)).asc == s.LBA_OUT_OF_RANGE.asc


# --- REPORT LUNS ----------------------------------------------------------------------------------


def test_report_luns() -> None:
    with rig() as it:
        for number in (300, 3, 255, 256):
            volume = Volume(f"disk{number}", UUID, [MemoryStore(1 << 20)])
            it.bus.add(number, DiskDevice(volume))
        one = it.initiator()
        luns = b"".join(encode_lun(n) for n in (0, 3, 255, 256, 300))
        assert luns[8:10] == b"\0\3"
        assert luns[24:26] == b"\x41\0"
        data = one.good(report_luns())
        assert data == struct.pack(">I4x", 40) + luns
        assert one.good(report_luns(16)) == data[:16]
        for lun in (bytes(8), encode_lun(9), b"\xc1\x01" + bytes(6)):
            assert one.execute(report_luns(), lun=lun).data == data


def test_select_report(one: Initiator) -> None:
    def select(value: int) -> bytes:
        cdb = bytearray(report_luns())
        cdb[2] = value
        return bytes(cdb)

    assert one.good(select(0)) == one.good(select(2)) == struct.pack(">I12x", 8)
    assert one.good(select(1)) == bytes(8)  # no well known logical units
    for value in (0x03, 0x10, 0x12, 0xFF):
        assert one.sense(select(value)) == invalid_cdb(2)


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_an_allocation_length_below_16(one: Initiator, length: int) -> None:
    assert one.sense(report_luns(length)) == invalid_cdb(6)


def test_report_luns_clears_its_unit_attention_and_no_other(it: Rig, one: Initiator) -> None:
    other = it.initiator("other")
    it.unit.attend_all(s.UA_LUNS_CHANGED)
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    one.good(report_luns())
    assert one.sense(TEST_UNIT_READY) == s.UA_CAPACITY_CHANGED
    one.good(TEST_UNIT_READY)
    assert other.sense(TEST_UNIT_READY) == s.UA_LUNS_CHANGED


# --- START STOP UNIT ------------------------------------------------------------------------------


def test_a_stopped_unit_does_not_touch_its_medium(it: Rig, one: Initiator) -> None:
    other = it.initiator("other")
    one.good(start_stop(0))
    for initiator in (one, other):
        for cdb, data in (
            (TEST_UNIT_READY, b""),
            (read10(0, 1), b""),
            (write10(0, 1), BLOCK),
            (bytes.fromhex("35") + bytes(9), b""),
            (bytes.fromhex("9e12") + bytes(8) + bytes.fromhex("00000100 0000"), b""),
            (bytes.fromhex("42000000000000001800"), struct.pack(">HH4xQI4x", 22, 16, 0, 8)),
        ):
            assert initiator.sense(cdb, data) == s.NOT_READY_STOPPED, cdb.hex()
    assert one.good(request_sense()) == s.NOT_READY_STOPPED.encode(False)
    one.good(bytes.fromhex("12000000ff00"))
    one.good(report_luns())
    one.good(start_stop(START))
    one.good(write10(0, 1), BLOCK)
    assert other.good(read10(0, 1)) == BLOCK


def test_start_and_stop_twice(one: Initiator) -> None:
    one.good(start_stop(START))
    one.good(start_stop(0))
    one.good(start_stop(0, IMMED))
    assert one.sense(TEST_UNIT_READY) == s.NOT_READY_STOPPED
    one.good(start_stop(START, IMMED))
    one.good(TEST_UNIT_READY)


def test_a_reset_starts_the_unit(it: Rig, one: Initiator) -> None:
    one.good(start_stop(0))
    it.unit.reset(lambda sure: None)
    one.settle()
    one.good(read10(0, 1))


class Flushing(MemoryStore):
    """Counts flushes; they may fail, and so may reads."""

    flushes = 0
    broken = False

    def read_now(self, offset: int, buffers: object, nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        self.flushes += io.kind is IoKind.FLUSH
        if self.broken and io.kind is IoKind.FLUSH:
            io.status = StoreStatus.SYNC_LOST
            io.done(io)
        elif self.broken and io.kind is IoKind.READ and io.offset:
            io.status = StoreStatus.READ_FAILED
            io.done(io)
        else:
            super().submit(io)


def test_a_stop_flushes_first_unless_told_not_to() -> None:
    store = Flushing(1 << 20)
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(start_stop(0))
        assert store.flushes == 1
        one.good(start_stop(START))
        one.good(start_stop(NO_FLUSH))
        assert store.flushes == 1
        one.good(start_stop(START))
        store.broken = True
        assert one.sense(start_stop(0)) == s.SYNC_LOST
        one.good(TEST_UNIT_READY)  # what could not be flushed is not put away


@pytest.mark.parametrize("condition", range(1, 16))
def test_power_conditions_are_not_supported(one: Initiator, condition: int) -> None:
    assert one.sense(start_stop(condition << 4)) == invalid_cdb(4, 7)
    one.good(TEST_UNIT_READY)


def test_the_medium_cannot_be_ejected(one: Initiator) -> None:
    assert one.sense(start_stop(LOEJ)) == invalid_cdb(4, 1)
    assert one.sense(start_stop(LOEJ | START)) == invalid_cdb(4, 1)
    one.good(TEST_UNIT_READY)


# --- PREVENT ALLOW MEDIUM REMOVAL -----------------------------------------------------------------


def test_removal_is_prevented_by_each_nexus_for_itself(it: Rig, one: Initiator) -> None:
    other = it.initiator("other")
    one.good(prevent(1))
    one.good(prevent(1))
    other.good(prevent(1))
    assert one.sense(start_stop(LOEJ)) == s.MEDIUM_REMOVAL_PREVENTED
    one.good(prevent(0))
    assert one.sense(start_stop(LOEJ)) == s.MEDIUM_REMOVAL_PREVENTED
    one.good(start_stop(0))  # stopping is no removal
    one.good(start_stop(START))
    other.good(prevent(0))
    assert one.sense(start_stop(LOEJ)) == invalid_cdb(4, 1)


def test_a_lost_nexus_and_a_reset_allow_removal(it: Rig, one: Initiator) -> None:
    one.good(prevent(1))
    it.disk.nexus_lost(one.hba.nexus)
    assert one.sense(start_stop(LOEJ)) == invalid_cdb(4, 1)
    one.good(prevent(1))
    it.unit.reset(lambda sure: None)
    one.settle()
    assert one.sense(start_stop(LOEJ)) == invalid_cdb(4, 1)


@pytest.mark.parametrize("value", [2, 3])
def test_prevent_values_of_media_changers(one: Initiator, value: int) -> None:
    assert one.sense(prevent(value)) == invalid_cdb(4, 1)


# --- SEND DIAGNOSTIC ------------------------------------------------------------------------------


def test_the_default_self_test() -> None:
    store = Flushing(1 << 20)
    with rig(stores=[store]) as it:
        one = it.initiator()
        one.good(bytes.fromhex("1d0400000000"))
        store.broken = True
        assert one.sense(bytes.fromhex("1d0400000000")) == s.FAILED_SELF_TEST


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        ("1d2400000000", invalid_cdb(1, 7)),
        ("1dc000000000", invalid_cdb(1, 7)),
        ("1d1000000400", invalid_cdb(3)),
        ("1d0400000004", invalid_cdb(5, 2)),
    ],
)
def test_other_self_tests_and_diagnostic_pages(one: Initiator, cdb: str, sense: Sense) -> None:
    assert one.sense(bytes.fromhex(cdb), bytes(4)) == sense


def test_nothing_asked_nothing_done(one: Initiator) -> None:
    one.good(bytes.fromhex("1d0000000000"))
    one.good(bytes.fromhex("1d1000000000"))


def test_a_self_test_of_a_stopped_unit(one: Initiator) -> None:
    one.good(start_stop(0))
    assert one.sense(bytes.fromhex("1d0400000000")) == s.NOT_READY_STOPPED


# --- READ CAPACITY --------------------------------------------------------------------------------


def test_read_capacity(one: Initiator) -> None:
    assert one.good(bytes((0x25,)) + bytes(9)) == struct.pack(">II", 2047, 512)
    data = one.good(read_capacity16())
    assert struct.unpack_from(">QI", data) == (2047, 512)
    assert data[14] & 0xC0 == 0xC0
    assert len(data) == 32


def test_read_capacity_of_a_large_disk() -> None:
    with rig(1 << 43) as it:
        one = it.initiator()
        assert one.good(bytes((0x25,)) + bytes(9)) == struct.pack(">II", 0xFFFFFFFF, 512)
        assert one.good(read_capacity16())[:8] == struct.pack(">Q", (1 << 34) - 1)


def test_residuals_where_there_is_no_data(one: Initiator) -> None:
    result = one.execute(TEST_UNIT_READY, expected_in=100)
    assert (result.status, result.residual) == (Status.GOOD, 100)
