"""What every connection in the full feature phase has: order of commands, management PDUs, rejects.

A discovery session's connection is just this; a normal one (``connection.py``) adds SCSI.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from target.iscsi import management
from target.iscsi.constants import (
    BHS_LENGTH,
    OPCODE_MASK,
    AsyncEvent,
    RejectReason,
)
from target.iscsi.pdu import AsyncMessage, Pdu, Reject, TextRequest
from target.iscsi.receiver import Handler, Receiver
from target.iscsi.sender import Sender
from target.iscsi.serial import MASK, lt
from target.iscsi.session import Session

log = logging.getLogger(__name__)

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

    def cold_reset(self, done: Callable[[], None]) -> None:
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
        self.logging_out = False
        receiver.handlers = self.handlers()

    def handlers(self) -> list[Handler]:
        """By opcode."""
        handlers: list[Handler] = [self._unknown_opcode] * (OPCODE_MASK + 1)
        for opcode in management.HANDLERS:
            handlers[opcode] = self._management
        return handlers

    def _management(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        management.handle(self, buf, at, data_at, length)

    def _unknown_opcode(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        self.reject(RejectReason.COMMAND_NOT_SUPPORTED, buf, at)

    # --- what a receiver's owner answers; there is no data-out here ------------------------------

    def open_data_out(self, buf: memoryview, at: int, length: int) -> list[memoryview] | None:
        """Nothing here takes data."""
        self.reject(RejectReason.PROTOCOL_ERROR, buf, at)
        return None

    def close_data_out(self, ok: bool) -> None:
        """Never called: nothing was opened."""

    def data_digest_error(self, buf: memoryview, at: int) -> None:
        """The PDU is discarded and the initiator told; its CmdSN is still expected (7.8)."""
        self.reject(RejectReason.DATA_DIGEST_ERROR, buf, at)

    # --- the order of commands (RFC 7143 4.2.2.1) -------------------------------------------------

    def out_of_order(
        self, cmd_sn: int, buf: memoryview, at: int, data_at: int, length: int
    ) -> None:
        """Hold what is ahead of us and within the window; ignore the rest."""
        session = self.session
        if lt(cmd_sn, session.exp_cmd_sn) or lt(session.max_cmd_sn, cmd_sn):
            return
        used = sum(len(header) + len(data) for header, _, data in session.held.values())
        if cmd_sn in session.held or used + length > HELD_BYTES_MAX:
            return
        head = bytes(buf[at : at + 48 + (buf[at + 4] << 2)])
        session.held[cmd_sn] = (head, b"", bytes(buf[data_at : data_at + length]))

    def release_held(self) -> None:
        """Take what had come too early and is next now."""
        session = self.session
        while True:
            if session.exp_cmd_sn in session.skipped:
                session.skipped.remove(session.exp_cmd_sn)
                session.held.pop(session.exp_cmd_sn, None)
                session.exp_cmd_sn = session.exp_cmd_sn + 1 & MASK
                continue
            entry = session.held.pop(session.exp_cmd_sn, None)
            if entry is None:
                return
            head, _, data = entry
            pdu = memoryview(head + data)
            self.receiver.handlers[head[0] & OPCODE_MASK](pdu, 0, len(head), len(data))

    def end_pass(self) -> None:
        """All that had arrived has been handled."""
        if self.session.held or self.session.skipped:
            self.release_held()

    # --- output ---------------------------------------------------------------------------------

    def put(self, pdu: Pdu) -> None:
        """Queue a PDU."""
        self.sender.put(pdu)
        self.shell.output_ready()

    def reject(self, reason: RejectReason, buf: memoryview, at: int) -> None:
        """Reject with the header of the offending PDU (RFC 7143 11.17)."""
        header = bytes(buf[at : at + BHS_LENGTH])
        log.debug("reject %s: %s", reason.name, header.hex())
        self.put(
            Reject(
                reason=reason,
                stat_sn=self.sender.next_stat_sn(),
                exp_cmd_sn=self.session.exp_cmd_sn,
                max_cmd_sn=self.session.max_cmd_sn,
                data=header,
            )
        )

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
        self.logging_out = True
        respond()
        self.shell.hang_up()

    def close(self) -> None:
        """The connection is gone: nothing more goes out."""
        self.closed = True
        self.sender.abandon()
