"""Task management functions (RFC 7143 11.5, 11.6; SAM-5 clause 7)."""

from __future__ import annotations

import pytest

from tests.support import abort_states, cdb
from tests.support.abort_states import release, scene
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Attribute, Opcode, Pdu, TaskFunction
from tests.support.stores import HeldStore
from tests.support.wire import wire
from tests.support.wire_initiator import GOOD, WireInitiator, sense_triple
from workers.memory_store import MemoryStore
from workers.store import StoreIo, StoreStatus

COMPLETE, NO_TASK, NO_LUN, NO_REASSIGNMENT, NOT_SUPPORTED = 0, 1, 2, 4, 5
RESET_ATTENTION = (0x6, 0x29, 0x03)
BUS_RESET_ATTENTION = (0x6, 0x29, 0x02)
CLEARED_ATTENTION = (0x6, 0x2F, 0x00)


def tmf_responses(pdus: list[Pdu]) -> list[int]:
    return [p.response for p in pdus if p.opcode == Opcode.TASK_MANAGEMENT_RESPONSE]


def attention(session: WireInitiator) -> tuple[int, int, int]:
    """The unit attention that the next command is told."""
    return sense_triple(session.one(session.scsi(cdb.TEST_UNIT_READY)))


@pytest.mark.parametrize(
    ("function", "response"),
    [(3, NOT_SUPPORTED), (8, NO_REASSIGNMENT), (9, NOT_SUPPORTED), (0, NOT_SUPPORTED)],
)
def test_functions_that_are_not_there(function: int, response: int) -> None:
    with wire() as w:
        session = w.login()
        assert session.one(session.tmf(function)).response == response
        assert session.one(session.tmf(function, immediate=False)).response == response
        assert session.nop(b"on") == b"on"


@pytest.mark.parametrize("function", [2, 4, 5])
def test_a_lun_that_is_not_there(function: int) -> None:
    with wire() as w:
        session = w.login()
        assert session.one(session.tmf(function, lun=7)).response == NO_LUN


def test_a_task_that_is_not_there() -> None:
    with wire() as w:
        session = w.login()
        done = session.scsi(cdb.TEST_UNIT_READY)
        session.exchange(done)
        assert session.one(session.tmf(1, done)).response == NO_TASK
        far = session.scsi(cdb.TEST_UNIT_READY)
        session.cmd_sn -= 1
        far.cmd_sn += 100_000
        assert session.one(session.tmf(1, far)).response == NO_TASK


def test_a_task_is_named_with_its_lun() -> None:
    with wire(luns=2) as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        write = session.scsi(cdb.write10(0, 1), edtl=512, write=True)
        (r2t,) = session.exchange(write)
        assert session.one(session.tmf(1, write, lun=1)).response == NO_TASK
        assert session.one(session.data_out(write, bytes(512), ttt=r2t.ttt)).status == GOOD


def test_numbered_task_management_waits_its_turn() -> None:
    with wire() as w:
        session = w.login()
        first = session.scsi(cdb.TEST_UNIT_READY)
        abort = session.tmf(2, immediate=False)
        assert not session.exchange(abort)
        answers = session.exchange(first)
        assert [p.itt for p in answers] == [first.itt, abort.itt]


def test_abort_task_set_spares_other_sessions() -> None:
    with wire(stores=[HeldStore(MemoryStore(1 << 20))]) as w:
        one, two = w.login(), w.login()
        for session in (one, two):
            session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True))
        answers = one.exchange(one.tmf(TaskFunction.ABORT_TASK_SET))
        release(w)
        assert tmf_responses(answers + one.incoming()) == [COMPLETE]
        assert [p.opcode for p in two.incoming()] == [Opcode.DATA_IN]
        assert two.one(two.scsi(cdb.TEST_UNIT_READY)).status == GOOD
        assert_idle(w.target)


def test_clear_task_set_ends_the_others_commands_and_tells_them() -> None:
    with wire(stores=[HeldStore(MemoryStore(1 << 20))]) as w:
        one, two, three = w.login(), w.login(), w.login()
        for session in (one, two):
            session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True))
        assert not one.exchange(one.tmf(TaskFunction.CLEAR_TASK_SET))
        release(w)
        assert tmf_responses(one.incoming()) == [COMPLETE]
        assert not two.incoming()
        assert attention(two) == CLEARED_ATTENTION
        for session in (one, two, three):
            assert session.one(session.scsi(cdb.TEST_UNIT_READY)).status == GOOD
        assert_idle(w.target)


@pytest.mark.parametrize(("function", "expected"), [(5, RESET_ATTENTION), (6, BUS_RESET_ATTENTION)])
def test_a_reset_ends_everybodys_commands_and_tells_everybody(
    function: int, expected: tuple[int, int, int]
) -> None:
    with wire(stores=[HeldStore(MemoryStore(1 << 20)), HeldStore(MemoryStore(1 << 20))]) as w:
        sessions = [w.login(), w.login()]
        for session in sessions:
            for lun in (0, 1):
                session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True, lun=lun))
        sessions[0].exchange(sessions[0].tmf(function))
        release(w)
        assert tmf_responses(sessions[0].incoming()) == [COMPLETE]
        untouched = function == 5
        sessions[1].incoming()
        for session in sessions:
            assert attention(session) == expected
            other = session.one(session.scsi(cdb.TEST_UNIT_READY, lun=1))
            if untouched:
                assert other.status == GOOD
            else:
                assert sense_triple(other) == expected
            assert session.one(session.scsi(cdb.TEST_UNIT_READY)).status == GOOD
        assert_idle(w.target)


@pytest.mark.parametrize("function", [2, 4, 5, 6])
@pytest.mark.parametrize("spoiled", [False, True], ids=["not there", "with a wrong digest"])
def test_what_waits_for_a_number_that_is_missing_is_aborted_too(
    function: int, spoiled: bool
) -> None:
    """It was sent before the function: it must not be carried out once that is answered."""
    with wire(luns=2) as w:
        session = w.login({"DataDigest": "CRC32C"})
        missing, held, other = (
            session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=data * 512, lun=lun)
            for data, lun in ((b"m", 0), (b"h", 0), (b"o", 1))
        )
        ping = session.ping()
        if spoiled:
            encoded = bytearray(missing.encode(data_digest=True))
            encoded[-1] ^= 1
            session.socket.feed(bytes(encoded))
            assert [p.opcode for p in session.incoming()] == [Opcode.REJECT]
        assert not session.exchange(held, other, ping)
        assert session.one(session.tmf(function)).response == COMPLETE
        spared = [] if function == 6 else [other]
        answers = session.exchange(missing)
        assert [p.itt for p in answers] == [p.itt for p in (missing, *spared, ping)]
        session.settle(2)
        assert session.command(cdb.read10(0, 1), read_length=512).data_in[:1] != b"h"
        assert_idle(w.target)


def test_responses_come_before_the_answer_of_the_function_that_came_behind_them() -> None:
    with wire() as w:
        session = w.login()
        read = session.scsi(cdb.read10(0, 8), edtl=4096, read=True)
        data, done = session.exchange(read, session.tmf(1, read))
        assert (data.opcode, data.itt) == (Opcode.DATA_IN, read.itt)
        assert done.response == NO_TASK


def test_an_aborted_ordered_command_lets_the_next_go() -> None:
    with wire(stores=[HeldStore(MemoryStore(1 << 20))]) as w:
        session = w.login()
        first = session.scsi(cdb.read10(0, 1), edtl=512, read=True, attribute=Attribute.ORDERED)
        second = session.scsi(cdb.TEST_UNIT_READY)
        assert not session.exchange(first, second)
        assert not session.exchange(session.tmf(1, first))
        release(w)
        answers = session.incoming()
        assert sorted(p.opcode for p in answers) == [
            Opcode.SCSI_RESPONSE,
            Opcode.TASK_MANAGEMENT_RESPONSE,
        ]
        assert_idle(w.target)


def test_the_answer_comes_only_when_the_store_has_let_go() -> None:
    with scene() as s:
        command = abort_states.write_in_the_store(s)
        assert not s.session.exchange(s.session.tmf(1, command))
        s.store.release_all()
        assert tmf_responses(s.session.incoming()) == [COMPLETE]


def test_two_functions_may_wait_for_the_same_command() -> None:
    with scene() as s:
        command = abort_states.read_in_the_store(s)
        functions = [s.session.tmf(1, command), s.session.tmf(2), s.session.tmf(5)]
        assert not s.session.exchange(*functions)
        s.store.release_all()
        assert tmf_responses(s.session.incoming()) == [COMPLETE] * 3
        assert_idle(s.w.target)


class GivesUp(HeldStore):
    """An I/O that nobody wants ends at once, as one does that was never sent to a worker."""

    def cancel(self, io: StoreIo) -> None:
        self.fail(StoreStatus.DEADLINE, self.held.index(io))


def test_what_a_store_need_not_do_any_more_does_not_keep_an_abort_waiting() -> None:
    with wire(stores=[store := GivesUp(MemoryStore(1 << 20))]) as w:
        session = w.login()
        write = session.scsi(cdb.write10(0, 8), edtl=4096, write=True, data=bytes(4096))
        assert not session.exchange(write)
        assert store.held
        # The function alone is answered: no status of the command, of whatever kind.
        assert tmf_responses([session.one(session.tmf(TaskFunction.ABORT_TASK, write))]) == [0]
        assert not store.held
        assert w.pool.used == 0
