"""Reject, with each reason that a target of ErrorRecoveryLevel 0 has (RFC 7143 11.17).

Invalid data ACK (08h) needs SNACK, and "waiting for logout" (0Ch) that we refuse commands then: we
send neither. Data digest errors are in test_digests.py, the bounds of immediate PDUs in
test_cmdsn.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected

SNACK, PROTOCOL, NOT_SUPPORTED, IN_PROGRESS, INVALID_FIELD = 0x03, 0x04, 0x05, 0x07, 0x09


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


@pytest.fixture
def session(w: Wire) -> WireInitiator:
    return w.login()


def refused(session: WireInitiator, pdu: Pdu) -> int:
    """The reason; the session has to go on as if nothing had been."""
    reason = rejected(session.one(pdu), pdu)
    assert session.nop(b"and on") == b"and on"
    return reason


@pytest.mark.parametrize("kind", range(4))
def test_snack(session: WireInitiator, kind: int) -> None:
    pdu = raw.snack_request(kind=kind, itt=1, exp_stat_sn=session.exp_stat_sn)
    assert refused(session, pdu) == SNACK


@pytest.mark.parametrize("opcode", [0x07, 0x0F, 0x11, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F])
def test_unknown_opcodes_of_an_initiator_use_their_number_up(
    session: WireInitiator, opcode: int
) -> None:
    pdu = session.ping()
    pdu.bhs[0] = opcode
    assert refused(session, pdu) == NOT_SUPPORTED


@pytest.mark.parametrize("opcode", [0x20, 0x21, 0x25, 0x31, 0x32, 0x3F])
def test_opcodes_of_a_target_have_no_number(session: WireInitiator, opcode: int) -> None:
    pdu = session.ping(immediate=True)
    pdu.bhs[0] = opcode
    assert refused(session, pdu) == NOT_SUPPORTED


def test_a_login_request_after_the_login(session: WireInitiator) -> None:
    pdu = session.login_request(1, 3)
    assert refused(session, pdu) == PROTOCOL


def test_a_task_tag_that_is_in_use(w: Wire) -> None:
    session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
    write = session.scsi(cdb.write10(0, 1), edtl=512, write=True)
    (r2t,) = session.exchange(write)
    assert refused(session, session.scsi(cdb.TEST_UNIT_READY, itt=write.itt)) == IN_PROGRESS
    again = session.scsi(cdb.TEST_UNIT_READY, itt=write.itt, immediate=True)
    assert refused(session, again) == IN_PROGRESS
    assert session.one(session.data_out(write, bytes(512), ttt=r2t.ttt)).status == 0


@pytest.mark.parametrize("attribute", [5, 6, 7])
def test_a_reserved_task_attribute(session: WireInitiator, attribute: int) -> None:
    pdu = session.scsi(cdb.TEST_UNIT_READY, attribute=attribute)
    assert refused(session, pdu) == INVALID_FIELD


def test_a_command_with_neither_f_nor_w(session: WireInitiator) -> None:
    assert refused(session, session.scsi(cdb.TEST_UNIT_READY, final=False)) == INVALID_FIELD
    read = session.scsi(cdb.read10(0, 1), edtl=512, read=True, final=False)
    assert refused(session, read) == INVALID_FIELD


@pytest.mark.parametrize(
    "ahs",
    [
        bytes(4),
        b"\0\x01\x01\0",
        b"\0\x05\x01\0\0\0\0\0" * 2,
        b"\x03\xff\x01\0\0\0\0\0",
        b"\0\x05\x03\0\0\0\0\0",
        b"\0\x04\x02\0\0\0\0\0",
        b"\0\xf6\x01\0" + bytes(248),
        bytes(1020),
    ],
    ids=["no type", "empty", "twice", "too long", "unknown", "short", "CDB of 261", "zeros"],
)
def test_a_malformed_ahs(session: WireInitiator, ahs: bytes) -> None:
    assert refused(session, session.scsi(cdb.TEST_UNIT_READY, ahs=ahs)) == INVALID_FIELD


@pytest.mark.parametrize("opcode", [Opcode.NOP_OUT, Opcode.TASK_MANAGEMENT, Opcode.TEXT])
def test_an_ahs_where_none_is_defined(session: WireInitiator, opcode: Opcode) -> None:
    pdu = session.ping()
    pdu.bhs[0] = opcode
    pdu.ahs = bytes(8)
    assert refused(session, pdu) == INVALID_FIELD


@pytest.mark.parametrize("reason", [3, 0x7F])
def test_an_unknown_logout_reason(session: WireInitiator, reason: int) -> None:
    assert refused(session, session.leave(reason)) == INVALID_FIELD


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SendTargets", PROTOCOL),
        (b"no equals sign\0", PROTOCOL),
        (b"\xff\xfe=1\0", PROTOCOL),
        (b"A=1\0A=2\0", PROTOCOL),
        (b"=1\0", PROTOCOL),
    ],
)
def test_malformed_text(session: WireInitiator, data: bytes, reason: int) -> None:
    pdu = raw.text_request(
        itt=session.new_tag(), cmd_sn=session.next_cmd_sn(), exp_stat_sn=1, data=data
    )
    assert refused(session, pdu) == reason


def test_text_for_an_exchange_that_there_is_not(session: WireInitiator) -> None:
    pdu = raw.text_request(
        itt=session.new_tag(), cmd_sn=session.next_cmd_sn(), exp_stat_sn=1, ttt=5
    )
    assert refused(session, pdu) == INVALID_FIELD


def test_a_reject_is_no_longer_than_what_the_initiator_takes(w: Wire) -> None:
    session = w.login({"MaxRecvDataSegmentLength": "512"})
    pdu = session.scsi(cdb.TEST_UNIT_READY, ahs=bytes(1020))
    answer = session.one(pdu)
    assert bytes(answer.data) == (bytes(pdu.bhs) + pdu.ahs)[:512]


Make = Callable[[WireInitiator], Pdu]
NOT_FOR_DISCOVERY: dict[str, Make] = {
    "command": lambda s: s.scsi(cdb.TEST_UNIT_READY),
    "immediate command": lambda s: s.scsi(cdb.TEST_UNIT_READY, immediate=True),
    "ping": lambda s: s.ping(b"data"),
    "task management": lambda s: s.tmf(2),
    "numbered task management": lambda s: s.tmf(2, immediate=False),
    "data": lambda s: s.data_out(s.scsi(b"", immediate=True), bytes(100)),
    "much data": lambda s: s.data_out(s.scsi(b"", immediate=True), bytes(100_000)),
    "SNACK": lambda s: raw.snack_request(kind=0, itt=1, exp_stat_sn=1),
    "login": lambda s: s.login_request(1, 3),
}


@pytest.mark.parametrize("make", NOT_FOR_DISCOVERY.values(), ids=NOT_FOR_DISCOVERY)
@pytest.mark.parametrize("step", [1 << 20, 50])
def test_what_a_discovery_session_does_not_take(w: Wire, make: Make, step: int) -> None:
    session = w.initiator(target=None)
    session.login(discovery=True)
    pdu = make(session)
    data = pdu.encode()
    for at in range(0, len(data), step):
        session.socket.feed(data[at : at + step])
    (answer,) = session.incoming()
    assert rejected(answer, pdu) == PROTOCOL
    assert session.send_targets()
    assert session.logout() == 0
