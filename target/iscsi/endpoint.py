"""What every connection in the full feature phase has: order of commands, management PDUs, rejects.

A discovery session's connection is just this; a normal one (``connection.py``) adds SCSI.

Rules:

1. Every PDU with a CmdSN that is taken or refused uses that number up; one that was discarded for
   its data digest does not, for the initiator may send it again (RFC 7143 7.8).
2. After a Logout Request, or once we are hanging up, whatever still comes is ignored.
3. A discovery session takes Text and Logout Requests and nothing else (RFC 7143 4.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from target.iscsi import management
from target.iscsi.constants import (
    BHS_LENGTH,
    IMMEDIATE,
    OPCODE_MASK,
    AsyncEvent,
    Opcode,
    RejectReason,
)
from target.iscsi.pdu import REQUESTS, AsyncMessage, Pdu, Reject, TextRequest
from target.iscsi.receiver import Handler, Receiver
from target.iscsi.sender import Sender
from target.iscsi.serial import MASK, lt
from target.iscsi.session import HeldCommand, Session

HELD_BYTES_MAX: Final = 1 << 20  # of commands that came too early


class Shell(Protocol):
    """What a connection asks of whoever has its socket."""

    now: float  # seconds, of this pass

    def output_ready(self) -> None:
        """There is output: send it when this pass is over."""

    def hang_up(self) -> None:
        """Close the socket when all output has gone."""

    def text(self, pdu: TextRequest) -> None:
        """Answer a Text Request."""

    def cold_reset(self, target: str, done: Callable[[bool], None]) -> None:
        """Reset the whole target and drop its sessions."""


class Endpoint:
    """A connection in the full feature phase."""

    def __init__(self, session: Session, receiver: Receiver, sender: Sender, shell: Shell) -> None:
        self.session = session
        self.receiver = receiver
        self.sender = sender
        self.shell = shell
        self.closed = False
        self.in_pass = False  # output of a pass is sent at its end
        self.pinging: int | None = None  # TTT of our unanswered NOP-In
        self.muted = False  # rule 2
        receiver.handlers[:] = self.handlers()

    def handlers(self) -> list[Handler]:
        """By opcode."""
        handlers: list[Handler] = [self._unknown_opcode] * (OPCODE_MASK + 1)
        for opcode in REQUESTS:
            handlers[opcode] = self._out_of_place
        for opcode in management.HANDLERS if self.session.nexus else _OF_DISCOVERY:
            handlers[opcode] = self._management
        return handlers

    def _management(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        management.handle(self, buf, at, data_at, length)

    def _unknown_opcode(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        # Bit 5 of an opcode is the target's (RFC 7143 11.2.1.2).
        if buf[at] & _TARGETS_OPCODE or self.in_order(buf, at, data_at, length):
            self.reject(RejectReason.COMMAND_NOT_SUPPORTED, buf, at)

    def _out_of_place(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        """A PDU that has no business in this phase or kind of session."""
        numbered = buf[at] & OPCODE_MASK not in _WITHOUT_CMD_SN
        if not numbered or self.in_order(buf, at, data_at, length):
            self.reject(RejectReason.PROTOCOL_ERROR, buf, at)

    def mute(self) -> None:
        """Rule 2."""
        self.muted = True
        handlers = self.receiver.handlers
        handlers[:] = [_ignore] * len(handlers)

    # --- what a receiver's owner answers; there is no data-out here ------------------------------

    def open_data_out(self, buf: memoryview, at: int, length: int) -> list[memoryview] | None:
        """Nothing here takes data."""
        if not self.muted:
            self.reject(RejectReason.PROTOCOL_ERROR, buf, at)
        return None

    def close_data_out(self) -> None:
        """Never called: nothing was opened."""

    def data_digest_error(self, buf: memoryview, at: int) -> None:
        """The PDU is discarded and the initiator told (rule 1)."""
        if not self.muted:
            self.reject(RejectReason.DATA_DIGEST_ERROR, buf, at)

    # --- the order of commands (RFC 7143 4.2.2.1) -------------------------------------------------

    def in_order(self, buf: memoryview, at: int, data_at: int, length: int) -> bool:
        """Whether it is the turn of a numbered PDU; then its number is used up."""
        if buf[at] & IMMEDIATE:
            return True
        session = self.session
        cmd_sn = int.from_bytes(buf[at + 24 : at + 28], "big")
        if cmd_sn != session.exp_cmd_sn or lt(session.max_cmd_sn, cmd_sn):
            self.out_of_order(cmd_sn, buf, at, data_at, length)
            return False
        session.exp_cmd_sn = cmd_sn + 1 & MASK
        session.renew_credit()
        return True

    def out_of_order(
        self, cmd_sn: int, buf: memoryview, at: int, data_at: int, length: int
    ) -> None:
        """Hold what is ahead of us and within the window; ignore the rest."""
        session = self.session
        if lt(cmd_sn, session.exp_cmd_sn) or lt(session.max_cmd_sn, cmd_sn):
            return
        if cmd_sn not in session.held and self._room_to_hold(length):
            head = bytes(buf[at : at + BHS_LENGTH + (buf[at + 4] << 2)])
            session.held[cmd_sn] = HeldCommand(head, bytes(buf[data_at : data_at + length]))

    def held_command(self, itt: int, length: int) -> HeldCommand | None:
        """The held SCSI Command with this tag, if there is room for data behind it."""
        tag = itt.to_bytes(4)
        for held in self.session.held.values():
            header = held.pdus[0][0]
            if header[0] & OPCODE_MASK == Opcode.SCSI_COMMAND and header[16:20] == tag:
                return held if self._room_to_hold(length) else None
        return None

    def _room_to_hold(self, length: int) -> bool:
        held = self.session.held.values()
        return sum(h.nbytes for h in held) + BHS_LENGTH + length <= HELD_BYTES_MAX

    def release_held(self) -> None:
        """Take what had come too early and is next now."""
        session = self.session
        while not self.muted:
            cmd_sn = session.exp_cmd_sn
            held = session.held.pop(cmd_sn, None)
            if cmd_sn in session.skipped:
                session.skipped.remove(cmd_sn)
                session.exp_cmd_sn = cmd_sn + 1 & MASK
                session.renew_credit()
            elif held is None:
                return
            else:
                for head, data in held.pdus:
                    pdu = memoryview(head + data)
                    self.receiver.handlers[head[0] & OPCODE_MASK](pdu, 0, len(head), len(data))

    def end_pass(self) -> None:
        """All that had arrived has been handled."""
        if (self.session.held or self.session.skipped) and not self.closed:
            self.release_held()

    # --- output ---------------------------------------------------------------------------------

    def put(self, pdu: Pdu) -> None:
        """Queue a PDU."""
        self.sender.put(pdu)
        self.shell.output_ready()

    def reject(self, reason: RejectReason, buf: memoryview, at: int) -> None:
        """Reject with the whole header of the offending PDU (RFC 7143 11.17)."""
        end = min(at + BHS_LENGTH + (buf[at + 4] << 2), at + self.sender.data_bytes_max)
        header = bytes(buf[at:end])
        self.session.flight.rejected(reason.name, header, self.shell.now)
        self.session.counters.rejects[reason] += 1
        self.put(
            Reject(
                reason=reason,
                stat_sn=self.sender.next_stat_sn(),
                exp_cmd_sn=self.session.exp_cmd_sn,
                max_cmd_sn=self.session.max_cmd_sn,
                data=header,
            )
        )

    def refuse(self, reason: RejectReason, buf: memoryview, at: int) -> None:
        """Reject a PDU whose number, if it has one, was its turn (rule 1)."""
        if not buf[at] & IMMEDIATE:
            self.session.renew_credit()
        self.reject(reason, buf, at)

    def announce(self, event: AsyncEvent, parameter2: int = 0, parameter3: int = 0) -> None:
        """An Async Message (RFC 7143 11.9)."""
        self.put(
            AsyncMessage(
                async_event=event,
                stat_sn=self.sender.next_stat_sn(),
                exp_cmd_sn=self.session.exp_cmd_sn,
                max_cmd_sn=self.session.max_cmd_sn,
                parameter2=parameter2,
                parameter3=parameter3,
            )
        )

    # --- the end --------------------------------------------------------------------------------

    def log_out(self, respond: Callable[[], None]) -> None:
        """End every task, then answer, then hang up."""
        if not self.closed:
            self.mute()
            respond()
            self.shell.hang_up()

    def end_tasks(self) -> None:
        """Abort what came through this connection."""

    def close(self) -> None:
        """The connection is gone: nothing more goes out, and its tasks are aborted."""
        if not self.closed:
            self.closed = True
            self.end_tasks()
            # Last, for what goes away may hand on what others of us waited for.
            self.sender.abandon()


def _ignore(buf: memoryview, at: int, data_at: int, length: int) -> None:
    """Rule 2."""


_TARGETS_OPCODE: Final = 0x20
_OF_DISCOVERY: Final = (Opcode.TEXT_REQUEST, Opcode.LOGOUT_REQUEST)
_WITHOUT_CMD_SN: Final = frozenset({Opcode.DATA_OUT, Opcode.SNACK_REQUEST})
