"""Residual counts: what a command has against what the initiator expected (RFC 7143 11.4.5)."""

from __future__ import annotations

import pytest

from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.stores import HeldStore
from tests.support.wire import wire
from tests.support.wire_initiator import rejected, sense_triple
from workers.memory_store import MemoryStore
from workers.store import StoreStatus

OVER, UNDER = 0x04, 0x02
BIDI_OVER, BIDI_UNDER = 0x10, 0x08
OUT_OF_RANGE = 1 << 30


def residual(pdu: Pdu) -> tuple[int, int]:
    """Flags O and U, and the count, of the PDU that carries the status."""
    assert pdu.opcode in (Opcode.SCSI_RESPONSE, Opcode.DATA_IN)
    if pdu.opcode == Opcode.DATA_IN:
        assert pdu.flags & 0x81 == 0x81
    return pdu.flags & (OVER | UNDER), pdu.residual


EXPECTED = [(0, OVER, 1024), (512, OVER, 512), (1024, 0, 0), (1500, UNDER, 476)]


@pytest.mark.parametrize(("edtl", "flag", "count"), EXPECTED)
def test_of_a_read(edtl: int, flag: int, count: int) -> None:
    with wire() as w:
        session = w.login()
        session.command(cdb.write10(0, 2), data_out=b"x" * 1024)
        *data, last = session.exchange(session.scsi(cdb.read10(0, 2), edtl=edtl, read=True))
        assert not data
        assert residual(last) == (flag, count)
        assert last.status == 0
        got = last.data if last.opcode == Opcode.DATA_IN else b""
        assert bytes(got) == b"x" * min(edtl, 1024)


@pytest.mark.parametrize(("edtl", "flag", "count"), EXPECTED)
@pytest.mark.parametrize("keys", [("Yes", "No"), ("Yes", "Yes"), ("No", "Yes"), ("No", "No")])
def test_of_a_write(edtl: int, flag: int, count: int, keys: tuple[str, str]) -> None:
    initial_r2t, immediate_data = keys
    with wire() as w:
        session = w.login({"InitialR2T": initial_r2t, "ImmediateData": immediate_data})
        task = session.command(cdb.write10(0, 2), data_out=b"x" * 1500, edtl=edtl)
        assert task.status == 0
        assert (task.overflow, task.underflow) == (
            count if flag == OVER else 0,
            count if flag == UNDER else 0,
        )
        written = min(edtl, 1024) // 512 * 512
        medium = session.command(cdb.read10(0, 3), read_length=1536).data_in
        assert medium == b"x" * written + bytes(1536 - written)
        assert_idle(w.target)


@pytest.mark.parametrize("length", [0, 5, 36, 96, 255])
@pytest.mark.parametrize("edtl", [0, 5, 36, 96, 255, 4096])
def test_of_a_command_with_an_allocation_length(length: int, edtl: int) -> None:
    """The allocation length is not what the device has: only what it returns counts."""
    with wire() as w:
        session = w.login()
        has = len(session.command(cdb.inquiry(length=length), read_length=4096).data_in)
        assert has <= length
        (answer,) = session.exchange(session.scsi(cdb.inquiry(length=length), edtl=edtl, read=True))
        if has == edtl:
            assert residual(answer) == (0, 0)
        else:
            assert residual(answer) == (OVER if has > edtl else UNDER, abs(has - edtl))
        assert len(answer.data) == min(has, edtl)


@pytest.mark.parametrize("write", [False, True])
def test_of_a_command_without_data(write: bool) -> None:
    with wire() as w:
        session = w.login()
        data = bytes(512) if write else b""
        command = session.scsi(
            cdb.TEST_UNIT_READY, edtl=512, data=data, write=write, read=not write
        )
        assert residual(session.one(command)) == (UNDER, 512)


@pytest.mark.parametrize(("edtl", "expected"), [(1024, (UNDER, 1024)), (0, (OVER, 1024))])
@pytest.mark.parametrize("kind", ["read as a write", "write as a read"])
def test_of_data_in_the_wrong_direction(kind: str, edtl: int, expected: tuple[int, int]) -> None:
    """Nothing can be transferred: all that was expected is missing, or all that there is."""
    with wire() as w:
        session = w.login()
        if kind == "read as a write":
            data = bytes(edtl)
            command = session.scsi(cdb.read10(0, 2), edtl=edtl, write=True, data=data)
        else:
            command = session.scsi(cdb.write10(0, 2), edtl=edtl, read=True)
        answer = session.one(command)
        assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 0)
        assert residual(answer) == expected
        assert_idle(w.target)


def test_of_surplus_data_in_the_wrong_direction_over_several_pdus() -> None:
    with wire() as w:
        session = w.login({"InitialR2T": "No"})
        command = session.scsi(cdb.read10(0, 2), edtl=40000, write=True, final=False)
        answer = session.one(
            command,
            session.data_out(command, bytes(20000), final=False),
            session.data_out(command, bytes(20000), offset=20000, sn=1),
        )
        assert residual(answer) == (UNDER, 40000)
        assert_idle(w.target)


@pytest.mark.parametrize("write", [False, True])
def test_of_a_command_that_is_refused(write: bool) -> None:
    with wire() as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        command = (cdb.write10 if write else cdb.read10)(OUT_OF_RANGE, 2)
        answer = session.one(session.scsi(command, edtl=1024, write=write, read=not write))
        assert sense_triple(answer) == (0x5, 0x21, 0x00)
        assert residual(answer) == (UNDER, 1024)
        assert answer.exp_data_sn == 0


def test_of_a_read_that_fails_halfway_is_what_was_not_sent() -> None:
    store = HeldStore(MemoryStore(8 << 20))
    with wire(stores=[store]) as w:
        session = w.login()
        session.exchange(session.scsi(cdb.read16(0, 8192), edtl=4 << 20, read=True))
        store.release()
        sent = session.incoming()
        store.release()
        sent += session.incoming()
        store.fail(StoreStatus.READ_FAILED)
        *data, answer = sent + session.incoming()
        assert sum(len(pdu.data) for pdu in data) == 2 << 20
        assert sense_triple(answer) == (0x3, 0x11, 0x00)
        assert residual(answer) == (UNDER, 2 << 20)
        assert answer.exp_data_sn == len(data)
        assert_idle(w.target)


def test_exp_data_sn_counts_data_in_and_not_r2ts() -> None:
    with wire() as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "512"})
        command = session.scsi(cdb.write10(0, 2), edtl=1024, write=True)
        (first,) = session.exchange(command)
        (second,) = session.exchange(session.data_out(command, bytes(512), ttt=first.ttt))
        answer = session.one(session.data_out(command, bytes(512), offset=512, ttt=second.ttt))
        assert answer.exp_data_sn == 0


@pytest.mark.parametrize(
    ("read_length", "flags"), [(1024, 0), (512, BIDI_OVER), (2048, BIDI_UNDER)]
)
@pytest.mark.parametrize("edtl", [0, 512])
def test_of_a_bidirectional_command(read_length: int, flags: int, edtl: int) -> None:
    """A READ with the flags of one: its data goes one way, the other is an underflow."""
    with wire() as w:
        session = w.login()
        command = session.scsi(
            cdb.read10(0, 2),
            edtl=edtl,
            read=True,
            write=True,
            data=bytes(edtl),
            ahs=raw.bidirectional_ahs(read_length),
        )
        *data, answer = session.exchange(command)
        got = sum(len(pdu.data) for pdu in (*data, answer) if pdu.opcode == Opcode.DATA_IN)
        assert got == min(read_length, 1024)
        assert residual(answer) == ((UNDER, edtl) if edtl else (0, 0))
        if answer.opcode == Opcode.SCSI_RESPONSE:
            assert answer.flags & (BIDI_OVER | BIDI_UNDER) == flags
            assert answer.bidirectional_residual == abs(read_length - 1024)
        else:
            assert flags == 0


def test_of_a_write_with_the_flags_of_a_bidirectional_command() -> None:
    with wire() as w:
        session = w.login()
        command = session.scsi(
            cdb.write10(0, 2),
            edtl=1024,
            read=True,
            write=True,
            data=b"x" * 1024,
            ahs=raw.bidirectional_ahs(100),
        )
        answer = session.one(command)
        assert residual(answer) == (0, 0)
        assert answer.flags & (BIDI_OVER | BIDI_UNDER) == BIDI_UNDER
        assert answer.bidirectional_residual == 100
        assert session.command(cdb.read10(0, 2), read_length=1024).data_in == b"x" * 1024


@pytest.mark.parametrize(
    ("read", "write", "ahs"),
    [
        (True, True, b""),
        (True, False, raw.bidirectional_ahs(512)),
        (False, True, raw.bidirectional_ahs(512)),
    ],
)
def test_flags_and_ahs_have_to_agree(read: bool, write: bool, ahs: bytes) -> None:
    with wire() as w:
        session = w.login()
        command = session.scsi(cdb.read10(0, 1), edtl=512, ahs=ahs, read=read, write=write)
        assert rejected(session.one(command), command) == 0x09
        assert session.nop(b"next") == b"next"
        assert_idle(w.target)
