"""Everything in the full feature phase that moves no command data: task management, logout, NOP,
text.

These PDUs carry a CmdSN like commands do and are taken in the same order; most are immediate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from target.iscsi.constants import (
    BHS_LENGTH,
    OPCODE_MASK,
    RESERVED_TAG,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
    RejectReason,
    TmfFunction,
    TmfResponse,
)
from target.iscsi.errors import PduError
from target.iscsi.pdu import (
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Request,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    decode_request,
)
from target.iscsi.serial import lt, lte
from target.iscsi.session import MANAGEMENT_TASKS_MAX

if TYPE_CHECKING:
    from target.iscsi.connection import Connection
    from target.iscsi.endpoint import Endpoint
    from target.scsi.nexus import Attachment

log = logging.getLogger(__name__)


def handle(conn: Endpoint, buf: memoryview, at: int, data_at: int, length: int) -> None:
    """Put one PDU in its place in the order of commands, decode it and act on it."""
    numbered = buf[at] & OPCODE_MASK != Opcode.SNACK_REQUEST
    if numbered and not conn.in_order(buf, at, data_at, length):
        return
    ahs_end = at + BHS_LENGTH + (buf[at + 4] << 2)
    try:
        pdu = decode_request(
            bytes(buf[at : at + BHS_LENGTH]),
            bytes(buf[at + BHS_LENGTH : ahs_end]),
            bytes(buf[data_at : data_at + length]),
        )
        HANDLERS[pdu.OPCODE](conn, pdu)
    except PduError as exc:
        conn.reject(exc.reason, buf, at)


# --- NOP ----------------------------------------------------------------------------------------


def _nop_out(conn: Endpoint, pdu: Request) -> None:
    assert isinstance(pdu, NopOut)
    if pdu.target_transfer_tag == conn.pinging:
        conn.pinging = None
    if pdu.initiator_task_tag == RESERVED_TAG:
        # The answer to a ping of ours, or a bare update of ExpStatSN (RFC 7143 11.18).
        return
    conn.put(
        NopIn(
            initiator_task_tag=pdu.initiator_task_tag,
            lun=pdu.lun,
            stat_sn=conn.sender.next_stat_sn(),
            exp_cmd_sn=conn.session.exp_cmd_sn,
            max_cmd_sn=conn.session.max_cmd_sn,
            data=pdu.data[: conn.sender.data_bytes_max],
        )
    )


def ping(conn: Endpoint) -> None:
    """Ask a silent initiator for a sign of life; ``conn.pinging`` is cleared by its answer."""
    conn.pinging = conn.session.next_ttt()
    conn.put(
        NopIn(
            target_transfer_tag=conn.pinging,
            stat_sn=conn.sender.stat_sn,
            exp_cmd_sn=conn.session.exp_cmd_sn,
            max_cmd_sn=conn.session.max_cmd_sn,
        )
    )


# --- logout -------------------------------------------------------------------------------------


def _logout(conn: Endpoint, pdu: Request) -> None:
    assert isinstance(pdu, LogoutRequest)
    code = LogoutResponseCode.SUCCESS
    if pdu.reason == LogoutReason.REMOVE_CONNECTION_FOR_RECOVERY:
        code = LogoutResponseCode.RECOVERY_NOT_SUPPORTED  # ErrorRecoveryLevel is 0
    elif pdu.reason == LogoutReason.CLOSE_CONNECTION:
        if pdu.cid != conn.session.cid:
            code = LogoutResponseCode.CID_NOT_FOUND
    elif pdu.reason != LogoutReason.CLOSE_SESSION:
        raise PduError(RejectReason.INVALID_PDU_FIELD, "unknown logout reason")

    def respond() -> None:
        conn.put(
            LogoutResponse(
                initiator_task_tag=pdu.initiator_task_tag,
                response=code,
                stat_sn=conn.sender.next_stat_sn(),
                exp_cmd_sn=conn.session.exp_cmd_sn,
                max_cmd_sn=conn.session.max_cmd_sn,
                time2wait=0,
                time2retain=0,
            )
        )

    if code is not LogoutResponseCode.SUCCESS:
        respond()
        return
    # The only connection of its session: both logouts end the session with all its tasks.
    conn.log_out(respond)


# --- text ---------------------------------------------------------------------------------------


def _text(conn: Endpoint, pdu: Request) -> None:
    assert isinstance(pdu, TextRequest)
    conn.shell.text(pdu)


def _snack(conn: Endpoint, pdu: Request) -> None:
    # ErrorRecoveryLevel 0 keeps nothing that could be sent again (RFC 7143 11.16).
    raise PduError(RejectReason.SNACK_REJECT, "SNACK at ErrorRecoveryLevel 0")


# --- task management (RFC 7143 11.5, SAM-5 clause 7) ---------------------------------------------


def _task_management(endpoint: Endpoint, pdu: Request) -> None:
    assert isinstance(pdu, TaskManagementRequest)
    conn = cast("Connection", endpoint)  # a discovery session has none of this
    session, nexus = conn.session, conn.nexus
    if session.management_tasks >= MANAGEMENT_TASKS_MAX:
        few = RejectReason.IMMEDIATE_COMMAND_REJECT
        raise PduError(
            few if pdu.immediate else RejectReason.LONG_OPERATION_REJECT, "too many at a time"
        )
    session.management_tasks += 1

    def answer(response: TmfResponse) -> None:
        session.management_tasks -= 1
        session.counters.managed(pdu.function, response)
        if conn.closed:
            return
        conn.put(
            TaskManagementResponse(
                initiator_task_tag=pdu.initiator_task_tag,
                response=response,
                stat_sn=conn.sender.next_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
            )
        )

    def completed(sure: bool = True) -> None:
        """Where what was aborted may still happen, it must not look as if it could not."""
        answer(TmfResponse.FUNCTION_COMPLETE if sure else TmfResponse.FUNCTION_REJECTED)

    if session.tasks and pdu.function in _GIVING_UP:
        name = TmfFunction(pdu.function).name.replace("_", " ")
        session.flight.dump(name, tuple(session.tasks.values()), conn.shell.now)
    match pdu.function:
        case TmfFunction.TASK_REASSIGN:
            answer(TmfResponse.REASSIGNMENT_NOT_SUPPORTED)
        case TmfFunction.TARGET_WARM_RESET:
            _drop_waiting(conn, pdu)
            nexus.bus.reset(nexus.target, completed)
        case TmfFunction.TARGET_COLD_RESET:
            _drop_waiting(conn, pdu)
            conn.shell.cold_reset(nexus.target, completed)
        case TmfFunction.ABORT_TASK:
            _abort_task(conn, pdu, answer, completed)
        case (
            TmfFunction.ABORT_TASK_SET | TmfFunction.CLEAR_TASK_SET | TmfFunction.LOGICAL_UNIT_RESET
        ):
            attachment = nexus.attachments.get(pdu.lun)
            if attachment is None:
                answer(TmfResponse.LUN_DOES_NOT_EXIST)
            else:
                _drop_waiting(conn, pdu, attachment)
                _on_unit(pdu.function, attachment, completed)
        case _:
            answer(TmfResponse.FUNCTION_NOT_SUPPORTED)


_GIVING_UP: Final = frozenset(
    {
        TmfFunction.ABORT_TASK,
        TmfFunction.ABORT_TASK_SET,
        TmfFunction.CLEAR_TASK_SET,
        TmfFunction.LOGICAL_UNIT_RESET,
        TmfFunction.TARGET_WARM_RESET,
        TmfFunction.TARGET_COLD_RESET,
    }
)


def _drop_waiting(
    conn: Connection, pdu: TaskManagementRequest, attachment: Attachment | None = None
) -> None:
    """Commands of one I_T_L nexus or all that are held, and were sent before, are not carried out
    once this is answered (RFC 7143 11.5.1): their numbers count as received.  So are parked ones.
    """
    session = conn.session
    for cmd_sn, held in list(session.held.items()):
        header = held.pdus[0][0]
        if header[0] & OPCODE_MASK != Opcode.SCSI_COMMAND or not lt(cmd_sn, pdu.cmd_sn):
            continue
        if attachment is None or conn.nexus.attachments.get(header[8:16]) is attachment:
            del session.held[cmd_sn]
            session.skipped.add(cmd_sn)
    conn.drop_parked(attachment)


def _on_unit(function: int, attachment: Attachment, completed: Callable[[bool], None]) -> None:
    unit = attachment.unit
    if function == TmfFunction.ABORT_TASK_SET:
        # Of one I_T nexus, and its target port is here: other nodes have nothing of it.
        unit.abort(unit.tasks_of(attachment), lambda: unit.quiet(completed))
    elif function == TmfFunction.CLEAR_TASK_SET:
        unit.clear_task_set(attachment, completed)
    else:
        unit.reset(completed)


def _abort_task(
    conn: Connection,
    pdu: TaskManagementRequest,
    answer: Callable[[TmfResponse], None],
    completed: Callable[[bool], None],
) -> None:
    """RFC 7143 11.6.1 has the three answers."""
    session = conn.session
    task = session.tasks.get(pdu.referenced_task_tag)
    if task is not None and task.lun != pdu.lun:
        answer(TmfResponse.TASK_DOES_NOT_EXIST)
    elif task is not None:
        unit = task.attachment.unit
        conn.abort(task, lambda: unit.quiet(completed))
    elif (
        lte(session.exp_cmd_sn, pdu.ref_cmd_sn)
        and lte(pdu.ref_cmd_sn, session.max_cmd_sn)
        and lt(pdu.ref_cmd_sn, pdu.cmd_sn)
    ):
        # The command never arrived here; its CmdSN counts as received.
        session.skipped.add(pdu.ref_cmd_sn)
        answer(TmfResponse.FUNCTION_COMPLETE)
    else:
        answer(TmfResponse.TASK_DOES_NOT_EXIST)


HANDLERS: Final[dict[Opcode, Callable[[Endpoint, Request], None]]] = {
    Opcode.NOP_OUT: _nop_out,
    Opcode.TASK_MANAGEMENT_REQUEST: _task_management,
    Opcode.TEXT_REQUEST: _text,
    Opcode.LOGOUT_REQUEST: _logout,
    Opcode.SNACK_REQUEST: _snack,
}
