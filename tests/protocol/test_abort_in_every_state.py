"""Whatever state a command is in, it can be ended, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import abort_states, cdb
from tests.support.abort_states import ALL_STATES, STATES, Scene, scene
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu, TaskFunction
from tests.support.wire_initiator import GOOD

COMPLETE = 0
State = Callable[[Scene], Pdu]


def tmf_responses(pdus: list[Pdu]) -> list[int]:
    return [p.response for p in pdus if p.opcode == Opcode.TASK_MANAGEMENT_RESPONSE]


def of_task(pdus: list[Pdu], command: Pdu) -> list[Pdu]:
    """What was said of a command, its data apart."""
    return [p for p in pdus if p.itt == command.itt and p.opcode == Opcode.SCSI_RESPONSE]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "function",
    [
        TaskFunction.ABORT_TASK,
        TaskFunction.ABORT_TASK_SET,
        TaskFunction.CLEAR_TASK_SET,
        TaskFunction.LOGICAL_UNIT_RESET,
        TaskFunction.TARGET_WARM_RESET,
    ],
)
def test_a_command_can_be_aborted_in_every_state(function: TaskFunction, state: State) -> None:
    with scene() as s:
        command = state(s)
        answers = s.session.exchange(s.session.tmf(function, command))
        s.clear()
        answers += s.session.incoming()
        assert tmf_responses(answers) == [COMPLETE]
        assert not of_task(answers, command)
        if s.blockers:
            done = [p.itt for p in answers if p.opcode in (Opcode.SCSI_RESPONSE, Opcode.DATA_IN)]
            survivors = s.blockers if function == TaskFunction.ABORT_TASK else []
            assert done == [p.itt for p in survivors]
        if function in (TaskFunction.LOGICAL_UNIT_RESET, TaskFunction.TARGET_WARM_RESET):
            s.session.settle()
        # The tag is free, and the session goes on.
        again = s.session.scsi(cdb.TEST_UNIT_READY, itt=command.itt)
        assert s.session.one(again).status == GOOD
        assert_idle(s.w.target)


@pytest.mark.parametrize("state", ALL_STATES)
def test_the_end_of_a_connection_aborts_in_every_state(state: State) -> None:
    with scene() as s:
        state(s)
        s.session.close()
        s.clear()


@pytest.mark.parametrize("state", ALL_STATES)
@pytest.mark.parametrize(
    "function",
    [
        TaskFunction.CLEAR_TASK_SET,
        TaskFunction.LOGICAL_UNIT_RESET,
        TaskFunction.TARGET_WARM_RESET,
        TaskFunction.TARGET_COLD_RESET,
    ],
)
def test_another_session_ends_a_command_in_every_state(function: int, state: State) -> None:
    with scene() as s:
        other = s.w.login()
        command = state(s)
        answers = other.exchange(other.tmf(function))
        s.clear()
        assert tmf_responses(answers + other.incoming()) == [COMPLETE]
        told = s.session.incoming()
        if state is not abort_states.parked_write:
            # That one had ended; its response still waits for its data, or goes with the session.
            assert not of_task(told, command)
            s.w.settle()
            assert_idle(s.w.target)
        assert s.session.is_closed() == (function == TaskFunction.TARGET_COLD_RESET)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reason", [0, 1])
def test_a_logout_aborts_in_every_state_and_then_answers(state: State, reason: int) -> None:
    with scene() as s:
        command = state(s)
        s.session.socket.taking = None
        answers = s.session.exchange(s.session.leave(reason))
        s.clear()
        answers += s.session.incoming()
        assert [p.response for p in answers if p.opcode == Opcode.LOGOUT_RESPONSE] == [0]
        assert answers[-1].opcode == Opcode.LOGOUT_RESPONSE
        assert not of_task(answers, command)
        assert s.session.is_closed()


@pytest.mark.parametrize("state", ALL_STATES)
def test_a_new_session_of_the_same_port_aborts_in_every_state(state: State) -> None:
    """RFC 7143 6.3.5, also while a store still has the old session's command."""
    with scene() as s:
        state(s)
        new = s.w.login(isid=s.session.isid)
        assert s.session.is_closed()
        s.clear()
        assert new.nop(b"new") == b"new"
        assert list(s.w.target.sessions) == [new.tsih]
        assert_idle(s.w.target)


@pytest.mark.parametrize("state", ALL_STATES)
def test_a_new_connection_of_the_session_aborts_in_every_state(state: State) -> None:
    """RFC 7143 6.3.4."""
    with scene() as s:
        command = state(s)
        new = s.w.initiator(isid=s.session.isid, tsih=s.session.tsih)
        new.cmd_sn = s.session.cmd_sn
        new.exp_cmd_sn, new.max_cmd_sn = s.session.exp_cmd_sn, s.session.max_cmd_sn
        new.login(defaults=False)
        assert s.session.is_closed()
        # The tag is free at once.
        again = new.scsi(cdb.TEST_UNIT_READY, itt=command.itt)
        assert new.one(again).status == GOOD
        s.clear()
        assert new.nop(b"new") == b"new"
        assert_idle(s.w.target)


@pytest.mark.parametrize("state", STATES)
def test_a_cold_reset_aborts_in_every_state_and_drops_every_session(state: State) -> None:
    with scene() as s:
        other = s.w.login()
        command = state(s)
        s.session.socket.taking = None
        answers = s.session.exchange(s.session.tmf(TaskFunction.TARGET_COLD_RESET))
        s.clear()
        answers += s.session.incoming()
        assert tmf_responses(answers) == [COMPLETE]
        assert not of_task(answers, command)
        told = [p.async_event for p in other.incoming() if p.opcode == Opcode.ASYNC]
        assert told == [3]
        assert s.session.is_closed()
        assert other.is_closed()
