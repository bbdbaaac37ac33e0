"""The PDU codec: every opcode round trip, cut headers, AHS, digests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from target.iscsi import ahs, pdu
from target.iscsi.constants import (
    BHS_LENGTH,
    RESERVED_TAG,
    LoginStatus,
    Opcode,
    RejectReason,
    TaskAttribute,
)
from target.iscsi.errors import PduError
from target.iscsi.limits import DATA_SEGMENT_BYTES_FIELD_MAX
from target.iscsi.pdubase import check_segments

Decoder = Callable[[Any, Any, Any], pdu.Pdu]

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
stage = st.integers(0, 3)

# Fields that are narrower than 32 bits; all others follow from their type.
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "lun": st.binary(min_size=8, max_size=8),
    "isid": st.binary(min_size=6, max_size=6),
    "cdb": st.binary(min_size=16, max_size=260),
    "data": st.binary(max_size=300),
    "csg": stage,
    "nsg": stage,
    "cid": u16,
    "tsih": u16,
    "time2wait": u16,
    "time2retain": u16,
    "parameter1": u16,
    "parameter2": u16,
    "parameter3": u16,
    "version_max": u8,
    "version_min": u8,
    "version_active": u8,
    "response": u8,
    "async_event": u8,
    "async_vcode": u8,
    "function": st.integers(0, 0x7F),
    "type": st.integers(0, 0x0F),
    "attribute": st.sampled_from(TaskAttribute),
}
BY_CLASS: dict[tuple[type[pdu.Pdu], str], st.SearchStrategy[Any]] = {
    (pdu.LogoutRequest, "reason"): st.integers(0, 0x7F),
    (pdu.Reject, "reason"): st.sampled_from(RejectReason),
    (pdu.LoginResponse, "status"): st.sampled_from(LoginStatus),
    (pdu.ScsiResponse, "status"): u8,
    (pdu.DataIn, "status"): st.none() | u8,
}


def strategy_of(kind: type[pdu.Pdu]) -> st.SearchStrategy[pdu.Pdu]:
    fields: dict[str, st.SearchStrategy[Any]] = {}
    columns: Any = kind
    for field in dataclasses.fields(columns):
        own = BY_CLASS.get((kind, field.name), BY_NAME.get(field.name))
        if own is None:
            own = st.booleans() if field.type == "bool" else u32
        fields[field.name] = own
    built: st.SearchStrategy[pdu.Pdu] = st.builds(kind, **fields)
    if kind is pdu.ScsiCommand:
        return built.map(_legal_command)
    if kind is pdu.DataIn:
        return built.map(_legal_data_in)
    return built


def _legal_command(command: pdu.Pdu) -> pdu.Pdu:
    assert isinstance(command, pdu.ScsiCommand)
    both = command.read and command.write
    return dataclasses.replace(
        command,
        final=command.final or not command.write,
        bidirectional_read_length=command.expected_data_transfer_length if both else None,
    )


def _legal_data_in(data_in: pdu.Pdu) -> pdu.Pdu:
    assert isinstance(data_in, pdu.DataIn)
    if data_in.status is None:
        return dataclasses.replace(data_in, overflow=False, underflow=False)
    return data_in


KINDS: list[tuple[type[pdu.Pdu], Decoder]] = [
    *((kind, pdu.decode_request) for kind in pdu.REQUESTS.values()),
    *((kind, pdu.decode_response) for kind in pdu.RESPONSES.values()),
]
every_kind = pytest.mark.parametrize(
    ("kind", "decode"), KINDS, ids=[kind.__name__ for kind, _ in KINDS]
)


def test_every_opcode_has_a_pdu() -> None:
    assert {kind.OPCODE for kind, _ in KINDS} == set(Opcode)
    for code, kind in [*pdu.REQUESTS.items(), *pdu.RESPONSES.items()]:
        assert code == kind.OPCODE


@every_kind
@given(data=st.data())
@settings(max_examples=60)
def test_round_trip(kind: type[pdu.Pdu], decode: Decoder, data: st.DataObject) -> None:
    sent = data.draw(strategy_of(kind))
    header = sent.encode_header()
    bhs, additional = header[:BHS_LENGTH], header[BHS_LENGTH:]
    assert pdu.segment_lengths(bhs) == (len(additional), len(sent.data))
    assert decode(bhs, additional, sent.data) == sent
    # The same from memoryviews of one larger buffer, as the receiver hands them in.
    whole = memoryview(b"\xee" + header + bytes(sent.data) + b"\xee")[1:-1]
    again = decode(whole[:48], whole[48 : len(header)], whole[len(header) :])
    assert again == sent
    assert again.encode_header() == header


@every_kind
@given(data=st.data())
@settings(max_examples=5)
def test_a_header_cut_at_each_byte_is_refused(
    kind: type[pdu.Pdu], decode: Decoder, data: st.DataObject
) -> None:
    sent = data.draw(strategy_of(kind))
    header = sent.encode_header()
    for size in range(BHS_LENGTH):
        with pytest.raises(PduError) as caught:
            decode(header[:size], b"", b"")
        assert caught.value.reason is RejectReason.PROTOCOL_ERROR


@given(bhs=st.binary(min_size=48, max_size=48), extra=st.binary(max_size=64))
@settings(max_examples=500)
def test_any_bytes_make_a_pdu_or_a_typed_error(bhs: bytes, extra: bytes) -> None:
    for decode in (pdu.decode_request, pdu.decode_response):
        header = bhs[:4] + bytes((len(extra) // 4,)) + (len(extra) % 4).to_bytes(3) + bhs[8:]
        cut = len(extra) // 4 * 4
        try:
            found = decode(header, extra[:cut], extra[cut:])
        except PduError:
            continue
        assert len(found.encode_header()) >= BHS_LENGTH


@given(opcode=st.integers(0, 0x3F))
def test_only_requests_are_requests(opcode: int) -> None:
    header = bytes((opcode, 0x80)) + bytes(46)
    if opcode in pdu.REQUESTS:
        assert opcode == pdu.decode_request(header, b"", b"").OPCODE
    else:
        with pytest.raises(PduError) as caught:
            pdu.decode_request(header, b"", b"")
        assert caught.value.reason is RejectReason.COMMAND_NOT_SUPPORTED


def nop_out(data: bytes = b"") -> pdu.NopOut:
    return pdu.NopOut(initiator_task_tag=1, cmd_sn=2, exp_stat_sn=3, data=data)


@pytest.mark.parametrize("data", [b"", b"abc", b"abcde"])
def test_a_data_segment_of_another_length_than_announced_is_refused(data: bytes) -> None:
    with pytest.raises(PduError) as caught:
        check_segments(nop_out(b"abcd").encode_header(), b"", data, ahs_allowed=False)
    assert caught.value.reason is RejectReason.PROTOCOL_ERROR


def test_an_ahs_belongs_to_scsi_commands_only() -> None:
    header = bytearray(nop_out().encode_header())
    header[4] = 1
    with pytest.raises(PduError) as caught:
        pdu.decode_request(bytes(header), bytes(4), b"")
    assert caught.value.reason is RejectReason.INVALID_PDU_FIELD


def test_a_segment_too_long_for_its_field_is_our_bug() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        nop_out(bytes(DATA_SEGMENT_BYTES_FIELD_MAX + 1)).encode_header()


# --- SCSI Command --------------------------------------------------------------------------------


def command(flags: int, additional: bytes = b"") -> pdu.Request:
    header = bytearray(48)
    header[0], header[1], header[4] = 0x01, flags, len(additional) // 4
    return pdu.decode_request(bytes(header), additional, b"")


@pytest.mark.parametrize("flags", [0x85, 0x86, 0x87, 0x00, 0x40, 0xE0])
def test_impossible_command_flags_are_refused(flags: int) -> None:
    """Reserved attributes; neither F nor W; read and write without a bidirectional AHS."""
    with pytest.raises(PduError) as caught:
        command(flags)
    assert caught.value.reason is RejectReason.INVALID_PDU_FIELD


def test_a_bidirectional_length_without_both_directions_is_refused() -> None:
    with pytest.raises(PduError):
        command(0xC1, ahs.encode(b"", 512))


def test_the_layout_of_a_command_with_both_ahs() -> None:
    sent = pdu.ScsiCommand(
        initiator_task_tag=0x01020304,
        cmd_sn=0x11121314,
        exp_stat_sn=0x21222324,
        cdb=bytes(range(0x40, 0x40 + 32)),
        lun=bytes.fromhex("0007000000000000"),
        expected_data_transfer_length=0x31323334,
        read=True,
        write=True,
        final=False,
        immediate=True,
        attribute=TaskAttribute.ORDERED,
        bidirectional_read_length=0x41424344,
        data=b"xyz",
    )
    assert sent.encode_header() == bytes.fromhex(
        "41620000 07000003 00070000 00000000 01020304 31323334 11121314 21222324"
        "40414243 44454647 48494a4b 4c4d4e4f"
        # AHSLength counts the reserved byte: 1 + 16, and 5
        "00110100 50515253 54555657 58595a5b 5c5d5e5f"
        "00050200 41424344"
    )


@given(st.binary(max_size=244), st.none() | u32)
def test_ahs_round_trip(extension: bytes, read_length: int | None) -> None:
    encoded = ahs.encode(extension, read_length)
    assert len(encoded) % 4 == 0
    assert ahs.decode(encoded) == (extension, read_length)


@given(st.binary(max_size=80))
def test_any_ahs_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        extension, read_length = ahs.decode(raw)
    except PduError:
        return
    assert ahs.decode(ahs.encode(extension, read_length)) == (extension, read_length)


@pytest.mark.parametrize(
    "raw",
    [
        "0001",  # cut off
        "00000100",  # AHSLength 0
        "00090100 00000000",  # past the end
        "00010100",  # an extended CDB with nothing in it
        "00023f00 00000000",  # unknown type
        "00040200 00000000",  # bidirectional length of 3 bytes
        "00050200 00000001 00050200 00000001",  # twice
        "00020100 01000000 00020100 01000000",  # twice
    ],
)
def test_broken_ahs(raw: str) -> None:
    with pytest.raises(PduError):
        ahs.decode(bytes.fromhex(raw))


def test_the_longest_cdb_is_taken() -> None:
    assert ahs.decode(ahs.encode(bytes(244), None)) == (bytes(244), None)


def test_a_cdb_past_the_longest_is_refused() -> None:
    raw = (1 + 245).to_bytes(2) + b"\x01\x00" + bytes(245 + 3)
    with pytest.raises(PduError, match="260"):
        ahs.decode(raw)


# --- layouts, each against hand-made bytes ------------------------------------------------------


def test_the_layout_of_a_login_request() -> None:
    sent = pdu.LoginRequest(
        isid=bytes.fromhex("800102030405"),
        tsih=0x0607,
        initiator_task_tag=0x08090A0B,
        cid=0x0C0D,
        cmd_sn=0x10111213,
        exp_stat_sn=0x14151617,
        csg=1,
        nsg=3,
        transit=True,
        data=b"a=b\0",
    )
    assert sent.encode_header() == bytes.fromhex(
        "43870000 00000004 80010203 04050607 08090a0b 0c0d0000 10111213 14151617"
        "00000000 00000000 00000000 00000000"
    )


def test_the_layout_of_a_login_response() -> None:
    sent = pdu.LoginResponse(
        isid=bytes(6),
        tsih=1,
        initiator_task_tag=2,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        csg=0,
        nsg=1,
        continued=True,
        status=LoginStatus.NOT_FOUND,
    )
    assert sent.encode_header() == bytes.fromhex(
        "23410000 00000000 00000000 00000001 00000002 00000000 00000003 00000004"
        "00000005 02030000 00000000 00000000"
    )


def test_the_layout_of_a_data_in_with_status() -> None:
    sent = pdu.DataIn(
        initiator_task_tag=1,
        exp_cmd_sn=2,
        max_cmd_sn=3,
        data_sn=4,
        buffer_offset=5,
        status=0,
        stat_sn=6,
        residual_count=7,
        underflow=True,
        final=True,
        data=b"1234",
    )
    assert sent.encode_header() == bytes.fromhex(
        "25830000 00000004 00000000 00000000 00000001 ffffffff 00000006 00000002"
        "00000003 00000004 00000005 00000007"
    )


def test_the_layout_of_a_scsi_response() -> None:
    sent = pdu.ScsiResponse(
        initiator_task_tag=1,
        status=2,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        exp_data_sn=6,
        residual_count=8,
        overflow=True,
        bidi_residual_count=7,
        bidi_underflow=True,
        data=pdu.sense_segment(b"\x70sense"),
    )
    assert sent.encode_header() == bytes.fromhex(
        "218c0002 00000008 00000000 00000000 00000001 00000000 00000003 00000004"
        "00000005 00000006 00000007 00000008"
    )
    assert sent.data == b"\x00\x06\x70sense"
    assert sent.sense == b"\x70sense"
    assert dataclasses.replace(sent, data=pdu.sense_segment(b"")).sense == b""


def test_the_layouts_of_r2t_and_data_out() -> None:
    r2t = pdu.R2T(
        initiator_task_tag=1,
        target_transfer_tag=2,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        r2t_sn=6,
        buffer_offset=7,
        desired_data_transfer_length=8,
        lun=bytes(range(8)),
    )
    assert r2t.encode_header() == bytes.fromhex(
        "31800000 00000000 00010203 04050607 00000001 00000002 00000003 00000004"
        "00000005 00000006 00000007 00000008"
    )
    out = pdu.DataOut(
        initiator_task_tag=1,
        exp_stat_sn=3,
        data_sn=6,
        buffer_offset=7,
        target_transfer_tag=2,
        final=True,
        data=b"x",
    )
    assert out.encode_header() == bytes.fromhex(
        "05800000 00000001 00000000 00000000 00000001 00000002 00000000 00000003"
        "00000000 00000006 00000007 00000000"
    )


def test_the_layouts_of_the_rest() -> None:
    """One distinct number for each field, in wire order."""
    common = "00000000 00000000"
    assert pdu.TaskManagementRequest(
        function=1,
        initiator_task_tag=1,
        cmd_sn=3,
        exp_stat_sn=4,
        referenced_task_tag=2,
        ref_cmd_sn=5,
        exp_data_sn=6,
        immediate=True,
    ).encode_header() == bytes.fromhex(
        f"42810000 00000000 {common} 00000001 00000002 00000003 00000004 00000005 00000006 {common}"
    )
    assert pdu.TaskManagementResponse(
        response=5, initiator_task_tag=1, stat_sn=3, exp_cmd_sn=4, max_cmd_sn=5
    ).encode_header() == bytes.fromhex(
        f"22800500 00000000 {common} 00000001 00000000 00000003 00000004 0000000500000000 {common}"
    )
    assert pdu.LogoutRequest(
        reason=1, initiator_task_tag=1, cid=2, cmd_sn=3, exp_stat_sn=4
    ).encode_header() == bytes.fromhex(
        f"06810000 00000000 {common} 00000001 00020000 00000003 00000004 {common} {common}"
    )
    assert pdu.LogoutResponse(
        response=1,
        initiator_task_tag=1,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        time2wait=6,
        time2retain=7,
    ).encode_header() == bytes.fromhex(
        f"26800100 00000000 {common} 00000001 00000000 00000003 00000004 00000005"
        "00000000 00060007 00000000"
    )
    assert pdu.AsyncMessage(
        async_event=1,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        async_vcode=2,
        parameter1=6,
        parameter2=7,
        parameter3=8,
    ).encode_header() == bytes.fromhex(
        f"32800000 00000000 {common} ffffffff 00000000 00000003 00000004 00000005"
        "01020006 00070008 00000000"
    )
    assert pdu.Reject(
        reason=RejectReason.INVALID_PDU_FIELD,
        stat_sn=3,
        exp_cmd_sn=4,
        max_cmd_sn=5,
        data_sn=6,
        data=bytes(48),
    ).encode_header() == bytes.fromhex(
        f"3f800900 00000030 {common} ffffffff 00000000 00000003 00000004 0000000500000006 {common}"
    )
    assert pdu.SnackRequest(
        type=2, exp_stat_sn=4, beg_run=8, run_length=9, initiator_task_tag=1, target_transfer_tag=2
    ).encode_header() == bytes.fromhex(
        f"10820000 00000000 {common} 00000001 00000002 00000000 00000004{common} 00000008 00000009"
    )
    nop = pdu.NopIn(stat_sn=3, exp_cmd_sn=4, max_cmd_sn=5, target_transfer_tag=2)
    assert nop.initiator_task_tag == RESERVED_TAG
    assert nop.encode_header() == bytes.fromhex(
        f"20800000 00000000 {common} ffffffff 00000002 00000003 00000004 0000000500000000 {common}"
    )


def test_unknown_numbers_in_responses_are_refused() -> None:
    reject = bytearray(48)
    reject[0], reject[2] = 0x3F, 0x77
    login = bytearray(48)
    login[0], login[36] = 0x23, 0x09
    for raw in (reject, login):
        with pytest.raises(PduError):
            pdu.decode_response(bytes(raw), b"", b"")


# --- digests and framing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
        (
            bytes.fromhex(
                "01c00000 00000000 00000000 00000000 14000000 00000400"
                "00000014 00000018 28000000 00000000 02000000 00000000"
            ),
            "563a96d9",
        ),
    ],
    ids=["zeros", "ones", "rising", "falling", "READ(10)"],
)
def test_the_crc_examples_of_the_rfc(data: bytes, wire: str) -> None:
    """RFC 7143 A.4, in the order in which the bytes are on the wire."""
    assert pdu.digest(data).hex() == wire
    assert pdu.digest(data[:7], memoryview(data)[7:]).hex() == wire


@given(
    data=st.binary(max_size=40),
    header_digest=st.booleans(),
    data_digest=st.booleans(),
)
def test_a_frame_is_read_back_by_its_lengths(
    data: bytes, header_digest: bool, data_digest: bool
) -> None:
    sent = nop_out(data)
    wire = b"".join(pdu.frame(sent, header_digest, data_digest))
    header, rest = wire[:48], wire[48:]
    if header_digest:
        assert rest[:4] == pdu.digest(header)
        rest = rest[4:]
    padded = data + pdu.padding(len(data))
    assert len(padded) % 4 == 0
    assert rest[: len(padded)] == padded
    tail = rest[len(padded) :]
    assert tail == (pdu.digest(padded) if data_digest and data else b"")
    assert pdu.decode_request(header, b"", data) == sent


def test_the_header_digest_covers_the_ahs() -> None:
    sent = pdu.ScsiCommand(initiator_task_tag=1, cmd_sn=1, exp_stat_sn=1, cdb=bytes(32))
    (wire,) = pdu.frame(sent, True, True)
    assert len(wire) == 48 + 20 + 4
    assert wire[-4:] == pdu.digest(wire[:-4])


def test_framing_does_not_copy_the_data() -> None:
    data = memoryview(b"0123456789")
    parts = pdu.frame(dataclasses.replace(nop_out(), data=data), True, True)
    assert any(part is data for part in parts)
