"""CRC32C: wrong header digests end the connection, wrong data digests the PDU (RFC 7143 7.8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected, sense_triple

CRC = (0xB, 0x47, 0x05)
DATA_DIGEST_ERROR = 0x02
DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}

Make = Callable[[WireInitiator], Pdu]


def nop(s: WireInitiator) -> Pdu:
    return s.ping(b"are you there")


def write(s: WireInitiator) -> Pdu:
    return s.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512))


def text(s: WireInitiator) -> Pdu:
    return raw.text_request(
        itt=s.new_tag(), cmd_sn=s.next_cmd_sn(), exp_stat_sn=s.exp_stat_sn, data=b"SendTargets=\0"
    )


def read(s: WireInitiator) -> Pdu:
    return s.scsi(cdb.read10(0, 1), edtl=512, read=True)


def long_cdb(s: WireInitiator) -> Pdu:
    command = b"\x7f" + bytes(6) + b"\x18" + bytes(24)
    return s.scsi(command, ahs=raw.extended_cdb_ahs(command))


def tmf(s: WireInitiator) -> Pdu:
    return s.tmf(2)


def logout(s: WireInitiator) -> Pdu:
    return s.leave()


def data_out(s: WireInitiator) -> Pdu:
    return s.data_out(read(s), bytes(512))


ALL = [nop, write, text, read, long_cdb, tmf, logout, data_out]


def spoiled(pdu: Pdu, *, header: int = 0, data: int = 0) -> bytes:
    return pdu.encode(
        header_digest=True, data_digest=True, header_digest_xor=header, data_digest_xor=data
    )


@pytest.mark.parametrize("make", ALL)
def test_a_wrong_header_digest_ends_the_connection(make: Make) -> None:
    with wire() as w:
        session = w.login(DIGESTS)
        session.socket.feed(spoiled(make(session), header=1 << 17))
        assert not session.incoming()
        assert session.is_closed()
        assert session.socket.drop_reason == "header digest error"


@pytest.mark.parametrize("make", [nop, write, text])
def test_a_wrong_data_digest_rejects_the_pdu_and_its_number_is_still_expected(make: Make) -> None:
    with wire() as w:
        session = w.login(DIGESTS)
        pdu = make(session)
        session.socket.feed(spoiled(pdu, data=1))
        (answer,) = session.incoming()
        assert rejected(answer, pdu) == DATA_DIGEST_ERROR
        assert answer.exp_cmd_sn == pdu.cmd_sn
        (answer,) = session.exchange(pdu)
        assert answer.opcode != Opcode.REJECT
        assert_idle(w.target)


def test_an_immediate_ping_with_a_wrong_digest_is_rejected() -> None:
    with wire() as w:
        session = w.login(DIGESTS)
        ping = session.ping(b"x", immediate=True)
        session.socket.feed(spoiled(ping, data=1))
        assert rejected(session.incoming()[0], ping) == DATA_DIGEST_ERROR


def solicited(w: Wire, blocks: int) -> tuple[WireInitiator, Pdu, list[Pdu]]:
    session = w.login({**DIGESTS, "InitialR2T": "Yes", "ImmediateData": "No"})
    # Not a multiple of four: there is padding.
    command = session.scsi(cdb.write10(0, blocks), edtl=blocks * 512 - 2, write=True)
    return session, command, session.exchange(command)


@pytest.mark.parametrize("pieces", [1, 2, 7, 40])
@pytest.mark.parametrize("blocks", [8, 64, 509])
def test_a_data_out_with_a_wrong_digest_is_rejected_and_ends_its_command(
    blocks: int, pieces: int
) -> None:
    """However it comes: large ones are received straight into their buffers."""
    with wire() as w:
        session, command, (r2t,) = solicited(w, blocks)
        out = session.data_out(command, b"\xff" * (blocks * 512 - 2), ttt=r2t.ttt)
        data = spoiled(out, data=0x80000000)
        step = -(-len(data) // pieces)
        for at in range(0, len(data), step):
            session.socket.feed(data[at : at + step])
        reject, response = session.incoming()
        assert rejected(reject, out) == DATA_DIGEST_ERROR
        assert sense_triple(response) == CRC
        view = memoryview(bytearray(512))
        assert w.volumes[0].read_now(0, [view], 512)
        assert not any(view)
        assert_idle(w.target)


@pytest.mark.parametrize("pieces", [1, 9])
def test_the_response_waits_for_the_rest_of_the_sequence(pieces: int) -> None:
    with wire() as w:
        session, command, (r2t,) = solicited(w, 128)
        bad = session.data_out(command, b"\xff" * 32768, ttt=r2t.ttt, final=False)
        data = spoiled(bad, data=1)
        step = -(-len(data) // pieces)
        for at in range(0, len(data), step):
            session.socket.feed(data[at : at + step])
        (reject,) = session.incoming()
        assert rejected(reject, bad) == DATA_DIGEST_ERROR
        last = session.data_out(command, b"\xff" * 32766, ttt=r2t.ttt, offset=32768, sn=1)
        assert sense_triple(session.one(last)) == CRC


@pytest.mark.parametrize("pieces", [1, 3, 30])
def test_a_wrong_digest_is_told_even_of_data_that_nobody_wants(pieces: int) -> None:
    with wire() as w:
        session = w.login(DIGESTS)
        stray = session.data_out(session.scsi(cdb.write10(0, 1)), b"\xff" * 100_001)
        session.cmd_sn -= 1
        for spoil, answers in ((0, []), (1, [DATA_DIGEST_ERROR])):
            data = spoiled(stray, data=spoil)
            step = -(-len(data) // pieces)
            for at in range(0, len(data), step):
                session.socket.feed(data[at : at + step])
            assert [rejected(pdu, stray) for pdu in session.incoming()] == answers
        assert session.one(session.ping(b"in step")).data == b"in step"


def test_digests_are_right_for_data_of_every_length_in_both_directions() -> None:
    with wire() as w:
        session = w.login({**DIGESTS, "MaxRecvDataSegmentLength": "8191"})
        for length in range(0, 70, 3):
            assert session.nop(bytes(length)) == bytes(length)
        data = bytes(range(251)) * 400
        task = session.command(cdb.write10(0, 196), data_out=data[: 196 * 512])
        assert task.status == 0
        task = session.command(cdb.read10(0, 196), read_length=99_997)
        assert task.data_in == data[:99_997]


@pytest.mark.parametrize("header", ["None", "CRC32C"])
@pytest.mark.parametrize("data", ["None", "CRC32C"])
def test_each_digest_is_negotiated_on_its_own(header: str, data: str) -> None:
    with wire() as w:
        session = w.login({"HeaderDigest": header, "DataDigest": data})
        assert session.nop(b"abc") == b"abc"
        payload = b"\x5a" * 40960
        assert session.command(cdb.write10(0, 80), data_out=payload).status == 0
        assert session.command(cdb.read10(0, 80), read_length=40960).data_in == payload
