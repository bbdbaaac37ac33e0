"""Data-Out: where each payload goes, and what is wrong with those that go nowhere (RFC 7143 11.7).

A payload is opened (checked and given its buffers), filled by the receiver, and closed (counted;
the command goes on when its last byte is there).  Data is placed by Buffer Offset, which has to be
where the sequence has come to.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.block.extents import cut_buffers
from target.iscsi.constants import FINAL, RESERVED_TAG, RejectReason
from target.iscsi.task import Burst, IscsiTask
from target.scsi.sense import (
    DATA_OFFSET_ERROR,
    NOT_ENOUGH_UNSOLICITED_DATA,
    PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA,
    Sense,
)

if TYPE_CHECKING:
    from target.iscsi.connection import Connection

# Byte 1, ITT, TTT, ExpStatSN, DataSN, Buffer Offset
_DATA_OUT: Final = struct.Struct(">xBxxxxxx8xII4xI4xII4x").unpack_from


def open_payload(
    conn: Connection, buf: memoryview, at: int, length: int
) -> list[memoryview] | None:
    """The buffers for a Data-Out's payload; None: it is dropped."""
    flags, itt, ttt, _, data_sn, offset = _DATA_OUT(buf, at)
    task = conn.session.tasks.get(itt)
    if task is None:
        # It was aborted, or ended early; the initiator may not have heard of that yet.
        conn.dropped_data_outs += 1
        return None
    if ttt == RESERVED_TAG:
        return _open_unsolicited(conn, task, flags, data_sn, offset, length)
    burst = task.bursts.get(ttt) if task.bursts is not None else None
    if burst is None:
        conn.reject(RejectReason.INVALID_PDU_FIELD, buf, at)
        return None
    wrong = _sequence_error(data_sn, burst.data_sn, offset, burst.next_offset)
    if wrong is None and offset + length > burst.end:
        wrong = DATA_OFFSET_ERROR
    if wrong is None and flags & FINAL and offset + length != burst.end:
        wrong = DATA_OFFSET_ERROR  # less than was asked for
    if wrong is not None:
        task.transport_failure(wrong)
        return None
    assert task.solicitation is not None
    conn.incoming = (task, burst, length, flags)
    return task.solicitation.place(offset, length)


def _open_unsolicited(
    conn: Connection, task: IscsiTask, flags: int, data_sn: int, offset: int, length: int
) -> list[memoryview] | None:
    wrong = _sequence_error(data_sn, task.unsolicited_sn, offset, task.unsolicited_next)
    if offset + length > task.unsolicited_end:
        wrong = UNEXPECTED_UNSOLICITED_DATA
    elif wrong is None and flags & FINAL and offset + length != task.unsolicited_end:
        wrong = NOT_ENOUGH_UNSOLICITED_DATA
    if wrong is not None:
        task.transport_failure(wrong)
        return None
    conn.incoming = (task, None, length, flags)
    kept = max(0, min(length, task.early_length - offset))
    if kept == length:
        return list(cut_buffers(task.early, offset, length))
    # More than the command needs (the initiator expects to send more than the CDB says).
    surplus = [memoryview(bytearray(length - kept))]
    return [*cut_buffers(task.early, offset, kept), *surplus] if kept else surplus


def _sequence_error(data_sn: int, sn: int, offset: int, expected: int) -> Sense | None:
    """At level 0 a hole in a sequence cannot be filled: the command ends (RFC 7143 7.9)."""
    if data_sn != sn:
        return PROTOCOL_SERVICE_CRC_ERROR
    if offset != expected:
        return DATA_OFFSET_ERROR
    return None


def close_payload(conn: Connection, ok: bool) -> None:
    """The payload that was opened last is in place; ``ok``: its digest is right."""
    if conn.incoming is None:
        return
    task, burst, length, _ = conn.incoming
    conn.incoming = None
    if not ok:
        task.transport_failure(PROTOCOL_SERVICE_CRC_ERROR)
    elif burst is None:
        _close_unsolicited(task, length)
    else:
        _close_solicited(conn, task, burst, length)


def _close_unsolicited(task: IscsiTask, length: int) -> None:
    before = task.early_have
    task.unsolicited_sn += 1
    task.unsolicited_next += length
    task.early_arrived(min(task.unsolicited_next, task.early_length) - before)


def _close_solicited(conn: Connection, task: IscsiTask, burst: Burst, length: int) -> None:
    wanted, bursts = task.solicitation, task.bursts
    assert wanted is not None
    assert bursts is not None
    burst.data_sn += 1
    burst.next_offset += length
    wanted.left -= length
    if burst.next_offset < burst.end:
        return
    del bursts[burst.ttt]
    if wanted.left:
        conn.ask(task)
    else:
        task.solicitation = task.bursts = None
        wanted.resume(None)


def digest_error(conn: Connection, buf: memoryview, at: int) -> None:
    """A whole Data-Out was discarded: at level 0 its command ends (RFC 7143 7.8)."""
    task = conn.session.tasks.get(_DATA_OUT(buf, at)[1])
    if task is not None:
        task.transport_failure(PROTOCOL_SERVICE_CRC_ERROR)
