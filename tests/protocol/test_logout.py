"""Logout (RFC 7143 11.14, 11.15), and what comes behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from workers.memory_store import MemoryStore

SUCCESS, NO_CID, NO_RECOVERY = 0, 1, 2


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("reason", [0, 1])
def test_of_the_session_or_of_its_only_connection(w: Wire, reason: int, immediate: bool) -> None:
    session = w.login()
    answer = session.one(session.leave(reason, immediate=immediate))
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, SUCCESS)
    assert session.is_closed()
    assert not w.target.sessions


def test_of_another_connection(w: Wire) -> None:
    session = w.login()
    assert session.one(session.leave(1, cid=99)).response == NO_CID
    assert session.nop(b"on") == b"on"


def test_the_cid_does_not_matter_for_the_session(w: Wire) -> None:
    session = w.login()
    assert session.one(session.leave(0, cid=99)).response == SUCCESS
    assert session.is_closed()


def test_for_recovery(w: Wire) -> None:
    session = w.login()
    assert session.one(session.leave(2)).response == NO_RECOVERY
    assert session.nop(b"on") == b"on"


def test_of_a_discovery_session(w: Wire) -> None:
    session = w.initiator(target=None)
    session.login(discovery=True)
    assert session.logout() == SUCCESS
    assert session.is_closed()
    assert not w.target.sessions


def test_waits_its_turn(w: Wire) -> None:
    session = w.login()
    first, last = session.scsi(cdb.TEST_UNIT_READY), session.leave()
    assert not session.exchange(last)
    assert [pdu.itt for pdu in session.exchange(first)] == [first.itt, last.itt]


def test_what_comes_behind_it_is_not_executed(w: Wire) -> None:
    session = w.login()
    write = b"never" * 100
    answers = session.exchange(
        session.leave(),
        session.scsi(cdb.write10(0, 1), edtl=500, write=True, data=write),
        session.scsi(cdb.write10(0, 1), edtl=500, write=True, data=write, immediate=True),
        session.ping(b"?"),
        session.leave(),
    )
    assert [pdu.opcode for pdu in answers] == [Opcode.LOGOUT_RESPONSE]
    assert w.login().command(cdb.read10(0, 1), read_length=512).data_in == bytes(512)


def test_held_commands_are_not_executed_either(w: Wire) -> None:
    session = w.login()
    session.scsi(cdb.TEST_UNIT_READY)  # never sent
    held = session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=b"x" * 512)
    answers = session.exchange(held, session.leave(immediate=True))
    assert [pdu.opcode for pdu in answers] == [Opcode.LOGOUT_RESPONSE]
    assert w.login().command(cdb.read10(0, 1), read_length=512).data_in == bytes(512)


def test_nothing_is_taken_while_it_waits_for_a_store() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        solicited = session.scsi(cdb.write10(64, 1), edtl=512, write=True)
        (r2t,) = session.exchange(solicited)
        read = session.scsi(cdb.read10(0, 1), edtl=512, read=True)
        assert not session.exchange(read, session.leave())
        late = session.scsi(cdb.write10(8, 1), edtl=512, write=True)
        data = session.data_out(solicited, bytes(512), ttt=r2t.ttt)
        assert not session.exchange(late, data, session.ping())
        assert len(store.log) == 1
        store.release_all()
        assert [pdu.opcode for pdu in session.incoming()] == [Opcode.LOGOUT_RESPONSE]
        assert session.is_closed()


def test_the_connection_may_end_while_it_waits() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        session = w.login()
        read = session.scsi(cdb.read10(0, 1), edtl=512, read=True)
        assert not session.exchange(read, session.leave())
        session.close()
        assert len(w.target.sessions) == 1
        store.release_all()
        assert not w.target.sessions


def test_the_answer_comes_behind_the_answers_of_commands_that_had_ended(w: Wire) -> None:
    session = w.login()
    pdus = [session.scsi(cdb.read10(0, 1), edtl=512, read=True) for _ in range(3)]
    answers = session.exchange(*pdus, session.leave())
    assert [pdu.opcode for pdu in answers] == [Opcode.DATA_IN] * 3 + [Opcode.LOGOUT_RESPONSE]
