"""INQUIRY: standard data and VPD pages, byte for byte where an initiator looks."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.scsi import limits
from target.scsi.identity import Identity, designator, naa_of
from target.scsi.lun import encode_lun
from target.scsi.sense import LUN_NOT_SUPPORTED, Status
from tests.support.cdb import inquiry
from tests.support.scsi_disk import UUID, Initiator, Rig, invalid_cdb, rig

ABSENT = encode_lun(7)


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def page(one: Initiator, code: int) -> bytes:
    """The body of a VPD page whose header is right."""
    data = one.good(inquiry(code))
    assert data[:4] == struct.pack(">BBH", 0, code, len(data) - 4)
    return data[4:]


def test_standard_data(one: Initiator) -> None:
    data = one.good(inquiry())
    assert len(data) == 96
    assert data[:8] == bytes.fromhex("00 00 06 12 5b 30 00 02")
    assert data[8:36] == b"LUNMESH Volume          0001"
    assert data[58:66] == bytes.fromhex("00a0 0460 04c0 0960")
    assert not any(data[36:58] + data[66:])


@pytest.mark.parametrize("length", [0, 1, 5, 36, 95, 96, 97, 255, 65535])
def test_the_allocation_length_cuts_and_nothing_else_changes(one: Initiator, length: int) -> None:
    whole = one.good(inquiry())
    result = one.execute(inquiry(length=length), expected_in=length)
    assert (result.status, result.data) == (Status.GOOD, whole[:length])
    assert result.residual == max(0, length - 96)


def test_an_initiator_that_takes_less_than_the_allocation_length(one: Initiator) -> None:
    result = one.execute(inquiry(length=255), expected_in=36)
    assert (len(result.data), result.residual) == (36, 36 - 96)


def test_what_is_refused(one: Initiator) -> None:
    assert one.sense(bytes.fromhex("12008000ff00")) == invalid_cdb(2)  # a page without EVPD
    assert one.sense(bytes.fromhex("12020000ff00")) == invalid_cdb(1, 1)
    assert one.sense(bytes.fromhex("12000000ff04")) == invalid_cdb(5, 2)
    known = {0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2}
    for code in set(range(256)) - known:
        assert one.sense(inquiry(code)) == invalid_cdb(2)


def test_the_supported_pages_are_those_that_answer(one: Initiator) -> None:
    codes = page(one, 0x00)
    assert codes == bytes.fromhex("00 80 83 86 b0 b1 b2")
    for code in codes:
        assert page(one, code)


def test_serial_number(one: Initiator) -> None:
    assert page(one, 0x80) == UUID.hex.encode()


def test_designators(one: Initiator) -> None:
    naa = bytes.fromhex("6f24c4db17f241e7b0dde25a8414c3e8")
    name = b"LUNMESH 7e2b4f0b17f241e7b0dde25a8414c3e8"
    assert page(one, 0x83) == b"\x01\x03\0\x10" + naa + b"\x02\x01\0" + bytes((len(name),)) + name


def test_designators_of_ports_come_after_those_of_the_unit(it: Rig, one: Initiator) -> None:
    before = page(one, 0x83)
    port = designator(4, 1, bytes((0, 0, 0, 1)), association=1, protocol=5)
    assert port == bytes.fromhex("51 94 00 04 00000001")
    it.disk.port_designators.append(port)
    assert page(one, 0x83) == before + port


@given(st.uuids())
def test_the_naa_designator_follows_from_the_uuid(volume: uuid.UUID) -> None:
    naa = naa_of(volume).hex()
    assert naa[0] == "6"
    assert naa[1:7] == "f24c4d"
    assert naa[7:] == volume.hex[7:]
    assert Identity.of(volume).naa.hex() == naa


def test_extended_inquiry(one: Initiator) -> None:
    body = page(one, 0x86)
    assert body == bytes.fromhex("00 07 01 01") + bytes(56)


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_block_limits(block_bytes: int) -> None:
    with rig(block_bytes=block_bytes) as it:
        body = page(it.initiator(), 0xB0)
    assert len(body) == 60
    flags, compare, granularity, most, optimal, prefetch = struct.unpack_from(">BBHIII", body)
    assert flags == 0x01
    assert 1 <= compare <= 255
    assert compare * block_bytes * 2 <= limits.WINDOW_BYTES
    assert granularity * block_bytes == 4096
    assert most * block_bytes == prefetch * block_bytes == 32 << 20
    assert optimal * block_bytes == 1 << 20
    unmap, descriptors, unmap_granularity, alignment = struct.unpack_from(">IIII", body, 16)
    assert unmap * block_bytes == limits.UNMAP_BYTES_MAX
    assert descriptors == 256
    assert unmap_granularity * block_bytes == 4096
    assert alignment == 0x80000000
    assert int.from_bytes(body[32:40]) * block_bytes == limits.WRITE_SAME_BYTES_MAX
    assert not any(body[40:])  # WRITE ATOMIC: nothing is reported


def test_block_device_characteristics(one: Initiator) -> None:
    assert page(one, 0xB1) == b"\0\1" + bytes(58)


def test_logical_block_provisioning(one: Initiator) -> None:
    assert page(one, 0xB2) == bytes.fromhex("00 e4 02 00")


def test_inquiry_leaves_a_unit_attention_pending(it: Rig, one: Initiator) -> None:
    it.unit.reset(lambda sure: None)
    one.good(inquiry())
    one.good(inquiry(0x83))
    assert one.execute(bytes(6)).status is Status.CHECK_CONDITION


# --- a LUN where nothing is -----------------------------------------------------------------------


def test_inquiry_of_an_absent_unit(one: Initiator) -> None:
    result = one.execute(inquiry(), lun=ABSENT)
    assert result.status is Status.GOOD
    assert result.data[0] == 0x7F
    assert len(result.data) == 36
    assert result.data[4] == 31
    assert one.execute(inquiry(0x00), lun=ABSENT).data == bytes.fromhex("7f 00 00 01 00")
    assert one.execute(inquiry(0x83), lun=ABSENT).sense == invalid_cdb(2)
    assert one.execute(bytes.fromhex("12008000ff00"), lun=ABSENT).sense == invalid_cdb(2)
    assert one.execute(bytes.fromhex("12020000ff00"), lun=ABSENT).sense == invalid_cdb(1, 1)


def test_request_sense_of_an_absent_unit(one: Initiator) -> None:
    for descriptor in (False, True):
        result = one.execute(bytes((3, descriptor, 0, 0, 252, 0)), lun=ABSENT)
        assert result.status is Status.GOOD
        assert result.data == LUN_NOT_SUPPORTED.encode(descriptor)


@pytest.mark.parametrize("lun", ["0007", "0107", "c101", "4001", "8000", "ffff"])
def test_all_else_of_an_absent_unit(one: Initiator, lun: str) -> None:
    for opcode in set(range(256)) - {0x03, 0x12, 0xA0}:
        result = one.execute(bytes((opcode,)) + bytes(15), lun=bytes.fromhex(lun) + bytes(6))
        assert result.sense == LUN_NOT_SUPPORTED


def test_a_lun_in_flat_space_addressing(one: Initiator) -> None:
    flat = bytes.fromhex("4000") + bytes(6)
    assert one.execute(inquiry(), lun=flat).data == one.good(inquiry())
