"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from target.scsi import sense as s
from target.scsi.sense import CheckCondition, Status
from tests.support.scsi_disk import Initiator, Rig, invalid_cdb, invalid_parameter, rig
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus

CACHING, CONTROL = 0x08, 0x0A
WCE, D_SENSE, SWP = 0x04, 0x04, 0x08
PF, SP = 0x10, 0x01
CURRENT, CHANGEABLE, DEFAULT, SAVED = 0x00, 0x40, 0x80, 0xC0
WRITE10 = bytes.fromhex("2a000000000000000100")
BLOCK = b"\xa5" * 512


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def sense6(page: int, subpage: int = 0, *, flags: int = 0x08, length: int = 255) -> bytes:
    return bytes((0x1A, flags, page, subpage, length, 0))


def sense10(page: int, subpage: int = 0, *, flags: int = 0x08, length: int = 4096) -> bytes:
    return struct.pack(">BBBB3xHx", 0x5A, flags, page, subpage, length)


def select6(length: int, flags: int = PF) -> bytes:
    return bytes((0x15, flags, 0, 0, length, 0))


def select10(length: int, flags: int = PF) -> bytes:
    return struct.pack(">BB5xHx", 0x55, flags, length)


def page_of(one: Initiator, code: int, subpage: int = 0) -> bytearray:
    """The current bytes of a page."""
    return bytearray(one.good(sense6(code, subpage))[4:])


def changed(one: Initiator, code: int, byte: int, bits: int) -> bytes:
    """A parameter list (6) for a page with some bits turned over."""
    page = page_of(one, code)
    page[byte] ^= bits
    return bytes(4) + bytes(page)


def select(one: Initiator, data: bytes) -> None:
    one.good(select6(len(data)), data)


# --- MODE SENSE -----------------------------------------------------------------------------------


def test_all_pages_in_ascending_order(one: Initiator) -> None:
    data = one.good(sense6(0x3F, 0xFF))
    assert data[0] == len(data) - 1
    assert data[3] == 0
    keys = []
    at = 4
    while at < len(data):
        if data[at] & 0x40:
            keys.append((data[at] & 0x3F, data[at + 1]))
            at += 4 + int.from_bytes(data[at + 2 : at + 4])
        else:
            keys.append((data[at], 0))
            at += 2 + data[at + 1]
    assert keys == [(0x01, 0), (0x08, 0), (0x0A, 0), (0x0A, 1), (0x1C, 0)]
    assert len(one.good(sense6(0x3F))) == len(data) - 32  # without the control extension page


def test_the_subpages_of_one_page(one: Initiator) -> None:
    both = one.good(sense6(CONTROL, 0xFF))[4:]
    assert both == bytes(page_of(one, CONTROL) + page_of(one, CONTROL, 1))
    assert bytes(page_of(one, CONTROL, 1)[:4]) == bytes.fromhex("4a01001c")


def test_page_lengths_are_those_of_the_standards(one: Initiator) -> None:
    lengths = {code: page_of(one, code)[1] for code in (0x01, 0x08, 0x0A, 0x1C)}
    assert lengths == {0x01: 0x0A, 0x08: 0x12, 0x0A: 0x0A, 0x1C: 0x0A}


def test_page_control(one: Initiator) -> None:
    select(one, changed(one, CACHING, 2, WCE))
    current = one.good(sense6(CURRENT | CACHING))[4:]
    changeable = one.good(sense6(CHANGEABLE | CACHING))[4:]
    default = one.good(sense6(DEFAULT | CACHING))[4:]
    assert (current[2], changeable[2], default[2]) == (0, WCE, WCE)
    assert changeable == bytes((0x08, 0x12, WCE)) + bytes(17)
    assert one.sense(sense6(SAVED | CACHING)) == s.SAVING_PARAMETERS_NOT_SUPPORTED
    assert one.sense(sense10(SAVED | 0x3F)) == s.SAVING_PARAMETERS_NOT_SUPPORTED


def test_changeable_bits_are_those_that_do_something(one: Initiator) -> None:
    pages = one.good(sense6(CHANGEABLE | CONTROL))[4:]
    assert pages == bytes((0x0A, 0x0A, D_SENSE, 0, SWP)) + bytes(7)


@pytest.mark.parametrize(
    ("page", "subpage", "pointer"),
    [(0x00, 0, (2, 5)), (0x19, 0, (2, 5)), (0x08, 1, (3, None)), (0x3F, 1, (3, None))],
)
def test_pages_that_are_not_there(
    one: Initiator, page: int, subpage: int, pointer: tuple[int, int | None]
) -> None:
    assert one.sense(sense6(page, subpage)) == invalid_cdb(*pointer)
    assert one.sense(sense10(page, subpage)) == invalid_cdb(*pointer)


def test_block_descriptors(one: Initiator) -> None:
    short = one.good(sense6(CACHING, flags=0))
    assert short[3] == 8
    assert short[4:12] == struct.pack(">II", 2048, 512)
    ten = one.good(sense10(CACHING, flags=0))
    assert struct.unpack_from(">HBBBxH", ten) == (len(ten) - 2, 0, 0x10, 0, 8)
    assert ten[8:] == short[4:]
    long = one.good(sense10(CACHING, flags=0x10))
    assert struct.unpack_from(">HBBBxH", long) == (len(long) - 2, 0, 0x10, 1, 16)
    assert long[8:24] == struct.pack(">Q4xI", 2048, 512)
    without = one.good(sense10(CACHING, flags=0x18))  # DBD wins over LLBAA
    assert struct.unpack_from(">HBBBxH", without) == (len(without) - 2, 0, 0x10, 0, 0)


def test_a_disk_too_large_for_the_short_descriptor() -> None:
    with rig(1 << 42) as it:
        one = it.initiator()
        assert one.good(sense6(CACHING, flags=0))[4:12] == struct.pack(">II", 0xFFFFFFFF, 512)
        assert one.good(sense10(CACHING, flags=0x10))[8:16] == struct.pack(">Q", 1 << 33)


def test_the_allocation_length_cuts_but_changes_no_length_field(one: Initiator) -> None:
    whole = one.good(sense6(0x3F))
    for length in (0, 1, 4, 5, len(whole) - 1):
        result = one.execute(sense6(0x3F, length=length), expected_in=255)
        assert result.data == whole[:length]
        assert result.residual == 255 - length


def test_write_protect_bit_of_a_read_only_volume() -> None:
    with rig(read_only=True) as it:
        one = it.initiator()
        assert one.good(sense6(CACHING))[2] == 0x90
        assert one.sense(WRITE10, BLOCK) == s.WRITE_PROTECTED


# --- MODE SELECT: what it does --------------------------------------------------------------------


@pytest.mark.parametrize("ten", [False, True])
def test_what_mode_sense_gives_mode_select_takes(it: Rig, one: Initiator, ten: bool) -> None:
    other = it.initiator("other")
    for flags in (0x00, 0x08, 0x10) if ten else (0x00, 0x08):
        data = bytearray(one.good((sense10 if ten else sense6)(0x3F, 0xFF, flags=flags)))
        data[1 if ten else 0] = 0  # MODE DATA LENGTH is reserved
        one.good((select10 if ten else select6)(len(data)), bytes(data))
    other.good(bytes(6))  # nothing changed, so there is nothing to tell


def test_write_cache_off_and_on(it: Rig, one: Initiator) -> None:
    seen = [it.volume.write_cache]
    for _ in range(2):
        select(one, changed(one, CACHING, 2, WCE))
        seen.append(it.volume.write_cache)
        assert bool(page_of(one, CACHING)[2] & WCE) == seen[-1]
    assert seen == [True, False, True]


def test_a_write_cache_that_was_set_off_stays_off() -> None:
    with rig(write_cache=False) as it:
        one = it.initiator()
        assert page_of(one, CACHING)[2] == 0
        data = changed(one, CACHING, 2, WCE)
        assert one.sense(select6(len(data)), data) == invalid_parameter(4 + 2, 2)


def test_descriptor_sense(one: Initiator) -> None:
    unknown = bytes((0xFF,)) + bytes(5)
    assert one.execute(unknown).sense_data[0] == 0x70
    select(one, changed(one, CONTROL, 2, D_SENSE))
    assert one.execute(unknown).sense_data[0] == 0x72
    select(one, changed(one, CONTROL, 2, D_SENSE))
    assert one.execute(unknown).sense_data[0] == 0x70


def test_software_write_protect(one: Initiator) -> None:
    one.good(WRITE10, BLOCK)
    select(one, changed(one, CONTROL, 4, SWP))
    assert one.good(sense6(CACHING))[2] == 0x90
    assert one.sense(WRITE10, BLOCK) == s.SOFTWARE_WRITE_PROTECTED
    select(one, changed(one, CONTROL, 4, SWP))
    assert one.good(sense6(CACHING))[2] == 0x10
    one.good(WRITE10, BLOCK)


def test_a_change_is_told_to_the_others_once(it: Rig, one: Initiator) -> None:
    others = [it.initiator("second"), it.initiator("third")]
    select(one, changed(one, CACHING, 2, WCE))
    select(one, changed(one, CACHING, 2, WCE))
    one.good(bytes(6))
    for other in others:
        assert other.sense(bytes(6)) == s.UA_MODE_PARAMETERS_CHANGED
        other.good(bytes(6))


def test_a_reset_brings_the_defaults_back(it: Rig, one: Initiator) -> None:
    for code, byte, bit in ((CACHING, 2, WCE), (CONTROL, 2, D_SENSE), (CONTROL, 4, SWP)):
        select(one, changed(one, code, byte, bit))
    it.unit.reset(lambda sure: None)
    one.settle()
    assert it.volume.write_cache
    assert page_of(one, CONTROL) == one.good(sense6(DEFAULT | CONTROL))[4:]
    assert one.execute(bytes((0xFF,)) + bytes(5)).sense_data[0] == 0x70
    one.good(WRITE10, BLOCK)


class Flushing(MemoryStore):
    """Counts flushes; the next ones may fail."""

    flushes = 0
    broken = False

    def submit(self, io: StoreIo) -> None:
        if io.kind is IoKind.FLUSH:
            self.flushes += 1
            if self.broken:
                io.status = StoreStatus.SYNC_LOST
                io.done(io)
                return
        super().submit(io)


def test_switching_the_cache_off_flushes_it() -> None:
    store = Flushing(1 << 20)
    with rig(stores=[store]) as it:
        one = it.initiator()
        select(one, changed(one, CONTROL, 2, D_SENSE))
        assert store.flushes == 0
        select(one, changed(one, CACHING, 2, WCE))
        assert store.flushes == 1
        select(one, changed(one, CACHING, 2, WCE))
        assert store.flushes == 1


def test_a_cache_that_cannot_be_flushed_is_not_switched_off() -> None:
    store = Flushing(1 << 20)
    with rig(stores=[store]) as it:
        one, other = it.initiator(), it.initiator("other")
        store.broken = True
        data = changed(one, CACHING, 2, WCE)
        assert one.sense(select6(len(data)), data) == s.SYNC_LOST
        assert it.volume.write_cache
        assert page_of(one, CACHING)[2] == WCE
        assert other.sense(bytes(6)) == s.UA_MODE_PARAMETERS_CHANGED  # it was off for a while
        other.good(bytes(6))


# --- MODE SELECT: what it refuses -----------------------------------------------------------------


def test_an_empty_list_is_no_error(one: Initiator) -> None:
    one.good(select6(0))
    one.good(select10(0, 0))


@pytest.mark.parametrize(
    ("flags", "bit"), [(PF | SP, 0), (PF | 0x02, 1), (PF | 0x03, 1), (0, 4), (SP, 0)]
)
def test_flags_that_are_not_supported(one: Initiator, flags: int, bit: int) -> None:
    data = changed(one, CACHING, 2, WCE)
    assert one.sense(select6(len(data), flags), data) == invalid_cdb(1, bit)
    assert one.sense(select10(len(data), flags), data) == invalid_cdb(1, bit)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 11, 13, 14, 20, 31])
def test_a_list_that_ends_in_the_middle(it: Rig, one: Initiator, cut: int) -> None:
    data = bytes(one.good(sense6(CACHING, flags=0)))
    data = bytes((0, 0, 0, 8)) + data[4:14] + bytes((0,)) + data[15:]  # WCE off
    assert len(data) == 32
    assert one.sense(select6(cut), data[:cut]) == s.PARAMETER_LIST_LENGTH_ERROR
    assert it.volume.write_cache


def test_an_initiator_that_sends_less_than_it_says(it: Rig, one: Initiator) -> None:
    data = changed(one, CACHING, 2, WCE)
    result = one.execute(select6(len(data)), data[:-1])
    assert result.sense == s.PARAMETER_LIST_LENGTH_ERROR
    assert it.volume.write_cache


Spoil = Callable[[bytearray], object]


def _set(byte: int, value: int) -> Spoil:
    return lambda data: data.__setitem__(byte, value)


@pytest.mark.parametrize(
    ("spoil", "byte", "bit"),
    [
        (_set(1, 1), 1, None),  # medium type
        (_set(3, 7), 3, None),  # block descriptor length
        (_set(3, 16), 3, None),
        (_set(7, 1), 4, None),  # number of blocks
        (_set(10, 4), 9, None),  # block length
        (_set(12, 0x09), 12, 5),  # no such page
        (_set(12, 0x48), 13, None),  # no such subpage
        (_set(13, 0x11), 13, None),  # page length
        (_set(14, 0x05), 14, 0),  # RCD
        (_set(14, 0x84), 14, 7),  # IC
        (_set(31, 0x01), 31, 0),
        (_set(15, 0x10), 15, 4),
    ],
)
def test_fields_that_cannot_be_so(
    it: Rig, one: Initiator, spoil: Spoil, byte: int, bit: int | None
) -> None:
    data = bytearray(one.good(sense6(CACHING, flags=0)))
    data[0] = 0
    spoil(data)
    assert one.sense(select6(len(data)), bytes(data)) == invalid_parameter(byte, bit)
    assert page_of(one, CACHING)[2] == WCE


def test_fields_of_the_ten_byte_header(one: Initiator) -> None:
    data = bytearray(one.good(sense10(CONTROL, 1, flags=0x10)))
    data[0:2] = bytes(2)
    spoils = [
        (_set(2, 1), 2, None),
        (_set(4, 0), 6, None),  # a long descriptor without LONGLBA
        (_set(15, 1), 8, None),
        (_set(23, 1), 20, None),
        (_set(27, 0x1B), 26, None),  # page length, 2 bytes in subpage format
        (_set(28, 0x01), 28, 0),
    ]
    for spoil, byte, bit in spoils:
        spoiled = bytearray(data)
        spoil(spoiled)
        sense = one.sense(select10(len(spoiled)), bytes(spoiled))
        assert sense == invalid_parameter(byte, bit)
    one.good(select10(len(data)), bytes(data))


def test_a_known_page_in_subpage_format(one: Initiator) -> None:
    data = bytes(4) + bytes.fromhex("48 00 00 10") + bytes(16)
    assert one.sense(select6(len(data)), data) == invalid_parameter(5)


@pytest.mark.parametrize("blocks", [0, 2048, 0xFFFFFFFF])
def test_a_descriptor_that_leaves_the_size_as_it_is(one: Initiator, blocks: int) -> None:
    data = bytes((0, 0, 0, 8)) + struct.pack(">II", blocks, 512)
    one.good(select6(len(data)), data)


def test_all_or_nothing(it: Rig, one: Initiator) -> None:
    other = it.initiator("other")
    good = changed(one, CACHING, 2, WCE)
    bad = changed(one, CONTROL, 5, 0x01)[4:]
    data = good + bad
    assert one.sense(select6(len(data)), data) == invalid_parameter(len(good) + 5, 0)
    assert it.volume.write_cache
    other.good(bytes(6))


def test_several_pages_and_one_page_twice(it: Rig, one: Initiator) -> None:
    off = changed(one, CACHING, 2, WCE)
    select(one, off + changed(one, CONTROL, 4, SWP)[4:])
    assert not it.volume.write_cache
    assert it.disk.write_protected
    on = changed(one, CACHING, 2, WCE)
    select(one, on + off[4:])  # the last one counts
    assert not it.volume.write_cache


def test_the_ps_bit_comes_back_as_it_was_sent(it: Rig, one: Initiator) -> None:
    data = bytearray(changed(one, CACHING, 2, WCE))
    data[4] |= 0x80
    select(one, bytes(data))
    assert not it.volume.write_cache


@pytest.mark.parametrize(
    "cdb", [sense6(0x3F), sense10(0x3F), select6(0), select10(0)], ids=lambda cdb: hex(cdb[0])
)
def test_naca_is_refused(one: Initiator, cdb: bytes) -> None:
    assert one.sense(cdb[:-1] + b"\x04") == invalid_cdb(len(cdb) - 1, 2)


def test_mode_select_of_a_stopped_unit(it: Rig, one: Initiator) -> None:
    one.good(bytes.fromhex("1b0000000000"))
    select(one, changed(one, CONTROL, 2, D_SENSE))
    assert one.execute(bytes(6)).status is Status.CHECK_CONDITION
    with pytest.raises(CheckCondition):
        it.disk.check_readable()
