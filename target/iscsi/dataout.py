"""Data-Out: where each payload goes, and what is wrong with those that go nowhere (RFC 7143 11.7).

A payload is opened (checked, and given its buffers if it is kept), received, and closed: what was
wrong is answered, or the command goes on when its last byte is there.  A wrong digest comes first.

1. Data is placed by Buffer Offset, which has to be where the sequence has come to, with the DataSN
   that is next.  At level 0 nothing that is missing can be asked for again: what is wrong ends the
   command, with the sense data of RFC 7143 11.4.7.2.
2. A sequence is over with its F bit, or with its last byte.
3. The response to a command has to wait for the end of all its sequences (11.4.2, 7.8): a command
   that ended before is parked (``Connection.complete``), its data dropped, its status sent here.
4. Data for a tag that nobody has was sent before the initiator knew of the end of its task.  We do
   not wait for such data before a task management function is answered, as RFC 7143 4.2.3.3 asks:
   open-iscsi does not answer R2Ts while it waits for that response (its "FastAbort").
5. One that has all that its command waits for is not copied: the command sees it in the receive
   buffer, and copies it itself if it has to wait before it has used it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.block.extents import cut_buffers
from target.iscsi.constants import BHS_LENGTH, FINAL, RESERVED_TAG, RejectReason
from target.iscsi.task import Burst, IscsiTask, Solicitation
from target.scsi.request import COMPLETED
from target.scsi.sense import (
    DATA_OFFSET_ERROR,
    NOT_ENOUGH_UNSOLICITED_DATA,
    PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA,
    Sense,
)

if TYPE_CHECKING:
    from target.iscsi.connection import Connection

# Byte 1, lengths, ITT, TTT, DataSN, Buffer Offset
_DATA_OUT: Final = struct.Struct(">xBxxI8xII12xII").unpack_from
_LENGTH_MASK: Final = 0xFFFFFF


class Incoming:
    """The Data-Out that is being received.  ``placed``: it is kept."""

    __slots__ = ("burst", "end", "final", "length", "placed", "stray", "task", "wrong")

    def __init__(self, task: IscsiTask, burst: Burst | None, end: int, length: int) -> None:
        self.task = task
        self.burst = burst
        self.end = end
        self.length = length
        self.final = False
        self.placed = False
        self.wrong: Sense | None = None  # ends the command
        self.stray = b""  # its header, if its Target Transfer Tag is nobody's


def take_in_place(conn: Connection, buf: memoryview, at: int, data_at: int, length: int) -> bool:
    """Hand a Data-Out over where it is (rule 5); False, and nothing done, where that cannot be."""
    flags, _, itt, ttt, data_sn, offset = _DATA_OUT(buf, at)
    task = conn.session.tasks.get(itt)
    if task is None:
        return False
    wanted, bursts = task.solicitation, task.bursts
    if wanted is None or bursts is None or not wanted.in_place:
        return False
    end = offset + length
    if offset != wanted.start or end != wanted.end:
        return False
    burst = bursts.get(ttt)
    if (
        burst is None
        or burst.next_offset != offset
        or burst.end != end
        or ttt == RESERVED_TAG
        or data_sn
        or not flags & FINAL
    ):
        return False
    del bursts[ttt]
    _close(task, wanted)
    wanted.resume(buf[data_at : data_at + length])
    return True


def open_payload(
    conn: Connection, buf: memoryview, at: int, length: int
) -> list[memoryview] | None:
    """The buffers for a Data-Out's payload; None: it is dropped."""
    flags, _, itt, ttt, data_sn, offset = _DATA_OUT(buf, at)
    task = conn.session.tasks.get(itt)
    if task is None:
        return _open_held(conn, buf, at, itt, ttt, length)
    burst = task.bursts.get(ttt) if task.bursts is not None else None
    conn.incoming = incoming = Incoming(task, burst, offset + length, length)
    if burst is None:
        if ttt == RESERVED_TAG:
            incoming.wrong = UNEXPECTED_UNSOLICITED_DATA
        else:
            incoming.stray = bytes(buf[at : at + BHS_LENGTH])
        return None
    incoming.final = flags & FINAL != 0
    if task.state >= COMPLETED:
        return None
    incoming.wrong = _error(burst, incoming.final, data_sn, offset, length)
    if incoming.wrong is not None:
        return None
    places = _places(task, ttt, offset, length)
    incoming.placed = places is not None
    return places


def _error(burst: Burst, final: bool, data_sn: int, offset: int, length: int) -> Sense | None:
    """What is wrong with a Data-Out of this sequence (rule 1)."""
    if data_sn != burst.data_sn:
        return PROTOCOL_SERVICE_CRC_ERROR
    if offset != burst.next_offset:
        return DATA_OFFSET_ERROR
    end = offset + length
    if end > burst.end and burst.ttt == RESERVED_TAG:
        return UNEXPECTED_UNSOLICITED_DATA
    if end > burst.end or (final and end != burst.end):
        return NOT_ENOUGH_UNSOLICITED_DATA  # "incorrect amount of data"
    return None


def _places(task: IscsiTask, ttt: int, offset: int, length: int) -> list[memoryview] | None:
    if ttt != RESERVED_TAG:
        return task.solicitation.place(offset, length) if task.solicitation is not None else None
    kept = 0
    if task.early_segments is not None:
        kept = max(0, min(length, task.early_length - offset))
    if kept == length:
        return list(cut_buffers(task.early, offset, length))
    # More than the command needs: the initiator expects to send more than the CDB says.
    surplus = [memoryview(bytearray(length - kept))]
    return [*cut_buffers(task.early, offset, kept), *surplus] if kept else surplus


def close_payload(conn: Connection) -> None:
    """The payload of the Data-Out that was opened last has been received."""
    incoming, conn.incoming = conn.incoming, None
    if incoming is None:
        _close_held(conn)
        return
    task, burst = incoming.task, incoming.burst
    if burst is not None and incoming.placed:
        if burst.ttt == RESERVED_TAG:
            _close_unsolicited(task, burst, incoming.length)
        else:
            _close_solicited(conn, task, burst, incoming.length)
    elif burst is not None:
        _end_of_dropped(task, burst, incoming.final, incoming.end)
    if incoming.wrong is not None:
        task.interrupt(incoming.wrong)
    elif incoming.stray:
        conn.reject(RejectReason.INVALID_PDU_FIELD, memoryview(incoming.stray), 0)
    if task.parked:
        conn.settle(task)


def _end_of_dropped(task: IscsiTask, burst: Burst, final: bool, end: int) -> None:
    """A Data-Out of a sequence has come and was not kept."""
    if task.bursts is not None and (final or end >= burst.end):
        task.bursts.pop(burst.ttt, None)


def _close_unsolicited(task: IscsiTask, burst: Burst, length: int) -> None:
    assert task.bursts is not None
    before = min(burst.next_offset, task.early_length)
    burst.data_sn += 1
    burst.next_offset += length
    if burst.next_offset == burst.end:
        del task.bursts[burst.ttt]
    task.early_arrived(min(burst.next_offset, task.early_length) - before)


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
        _close(task, wanted)
        wanted.resume(None)


def _close(task: IscsiTask, wanted: Solicitation) -> None:
    """All of it has come."""
    task.solicitation = None
    if wanted.end < task.transfer:  # more is asked for later
        task.r2t_sn = wanted.r2t_sn


def divert_payload(conn: Connection) -> None:
    """The Data-Out being received has lost its place: the rest of it is dropped."""
    if conn.incoming is not None:
        conn.incoming.placed = False
        conn.receiver.divert()


def digest_error(conn: Connection, buf: memoryview, at: int) -> None:
    """A Data-Out was discarded: at level 0 its command ends (RFC 7143 7.8)."""
    conn.incoming = conn.incoming_held = None
    flags, word, itt, ttt, _, offset = _DATA_OUT(buf, at)
    task = conn.session.tasks.get(itt)
    burst = task.bursts.get(ttt) if task is not None and task.bursts is not None else None
    if task is not None and burst is not None:
        _end_of_dropped(task, burst, bool(flags & FINAL), offset + (word & _LENGTH_MASK))
        task.interrupt(PROTOCOL_SERVICE_CRC_ERROR)
        conn.settle(task)


# --- data of a command that came ahead of its turn -----------------------------------------------


def _open_held(
    conn: Connection, buf: memoryview, at: int, itt: int, ttt: int, length: int
) -> list[memoryview] | None:
    """Unsolicited data of a command that is held is held with it; all other is dropped (rule 4)."""
    held = conn.held_command(itt, length) if ttt == RESERVED_TAG and conn.session.held else None
    if held is None:
        conn.dropped_data_outs += 1
        return None
    data = bytearray(length)
    conn.incoming_held = (held, bytes(buf[at : at + BHS_LENGTH]), data)
    return [memoryview(data)]


def _close_held(conn: Connection) -> None:
    if conn.incoming_held is not None:
        held, header, data = conn.incoming_held
        conn.incoming_held = None
        held.pdus.append((header, bytes(data)))
