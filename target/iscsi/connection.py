"""A connection in the full feature phase: commands in, data and status out.

Theory of operation.  The receiver hands over each PDU of what has arrived; commands are parsed,
numbered and submitted to the bus, whose requests answer through the HBA methods below.  All output
of one pass leaves in one ``sendmsg``.  No socket and no clock here: the portal has them.

Rules:

1. Commands are taken in CmdSN order (RFC 7143 4.2.2.1).  One that comes too early is held within
   the window; one outside the window is ignored; immediate ones are taken as they come.
2. A task is in ``session.tasks`` from the end of its first pass until it is answered.  A command
   answered within its pass is never there.
3. What goes wrong in a data phase ends that command with the sense of RFC 7143 11.4.7.2.  A PDU
   that makes no sense is rejected.  Only what leaves us out of step closes the connection (level
   0).
4. Payload is copied at most once, into pool segments, and only if it cannot be used where it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from target.block.pool import SEGMENT_BYTES, SHARE_SEGMENTS_MIN, segments_for, views_of
from target.block.wait import Resume
from target.hba.base import Hba, HbaCaps
from target.iscsi import dataout
from target.iscsi.ahs import decode as decode_ahs
from target.iscsi.constants import (
    CMD_READ,
    CMD_WRITE,
    FINAL,
    IMMEDIATE,
    OPCODE_MASK,
    RESERVED_TAG,
    Opcode,
    RejectReason,
)
from target.iscsi.endpoint import Endpoint, Shell
from target.iscsi.errors import PduError
from target.iscsi.parameters import SessionParameters
from target.iscsi.receiver import Handler, Receiver
from target.iscsi.sender import Sender, residual_of
from target.iscsi.serial import MASK
from target.iscsi.session import IMMEDIATE_TASKS_MAX, HeldCommand, Session
from target.iscsi.task import Burst, IscsiTask, Solicitation
from target.scsi.countdown import countdown
from target.scsi.nexus import Attachment, nobody_waits
from target.scsi.request import COMPLETED, SCSIRequest
from target.scsi.sense import (
    UNEXPECTED_UNSOLICITED_DATA,
    Status,
)
from workers.store import scatter

CAPS: Final = HbaCaps(tagged_queueing=True, scatter_gather=True)
# Byte 0, byte 1, lengths, LUN, ITT, EDTL, CmdSN, CDB (ExpStatSN: nothing is kept at level 0)
_COMMAND: Final = struct.Struct(">BBxxI8sIII4x16s").unpack_from
# Do not wait for the end of a pass with this much to send.  With less, each large read wakes the
# initiator by itself, which costs more than it gains (docs/decisions/0032-large-reads.md).  What
# waits keeps its segments: it is half of what every share of the pool may have.
EARLY_FLUSH_BYTES: Final = SHARE_SEGMENTS_MIN * SEGMENT_BYTES // 2
# Of parameter data, which are in no segments, that wait to be taken: then there is BUSY for more.
PARAMETER_BYTES_MAX: Final = 1 << 20
_RESERVED_ATTRIBUTES: Final = 5  # ATTR codes from here on (RFC 7143 11.3.1)
_BOTH: Final = CMD_READ | CMD_WRITE
# By the flags of a command: whether they are wrong, or of a bidirectional command.
_SPECIAL: Final = tuple(
    f & 7 >= _RESERVED_ATTRIBUTES or not f & (FINAL | CMD_WRITE) or f & _BOTH == _BOTH
    for f in range(256)
)


class Connection(Endpoint, Hba):
    """One connection of a normal session; the HBA of the requests that come through it."""

    caps = CAPS

    def __init__(
        self,
        session: Session,
        receiver: Receiver,
        sender: Sender,
        parameters: SessionParameters,
        shell: Shell,
    ) -> None:
        assert session.nexus is not None
        assert session.window is not None
        self.nexus = session.nexus
        self.window = session.window
        self.share = session.share
        self.initial_r2t = parameters.initial_r2t
        self.immediate_data = parameters.immediate_data
        self.first_burst_bytes = parameters.first_burst_length
        self.immediate_bytes_max = self.first_burst_bytes if self.immediate_data else 0
        self.max_burst_bytes = parameters.max_burst_length
        self.r2ts_max = parameters.max_outstanding_r2t
        # The Data-Out being received; or where it is held.
        self.incoming: dataout.Incoming | None = None
        self.incoming_held: tuple[HeldCommand, bytes, bytearray] | None = None
        self.dropped_data_outs = 0
        self.ended: list[SCSIRequest] = []  # and not been counted: see Channel.count_ended
        self._pass_began = session.exp_cmd_sn
        # A read in its first pass, not immediate, of which as much is expected as it has.
        self._straight: IscsiTask | None = None
        super().__init__(session, receiver, sender, shell)

    def handlers(self) -> list[Handler]:
        handlers = super().handlers()
        handlers[Opcode.SCSI_COMMAND] = self._scsi_command
        handlers[Opcode.DATA_OUT] = self._data_out
        return handlers

    def end_pass(self) -> None:
        super().end_pass()
        exp_cmd_sn = self.session.exp_cmd_sn
        began, self._pass_began = self._pass_began, exp_cmd_sn
        window = self.window
        used = (exp_cmd_sn - began & MASK) + window.outstanding(exp_cmd_sn)
        if used * 2 >= window.credits and not self.closed:
            window.tune(used)

    # --- commands -------------------------------------------------------------------------------

    def _scsi_command(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        first, flags, word, lun, itt, edtl, cmd_sn, cdb = _COMMAND(buf, at)
        session = self.session
        window = self.window
        immediate = first & IMMEDIATE
        if immediate:
            if window.immediate >= IMMEDIATE_TASKS_MAX:
                self.reject(RejectReason.IMMEDIATE_COMMAND_REJECT, buf, at)
                return
        elif cmd_sn != session.exp_cmd_sn or cmd_sn == window.end:
            self.out_of_order(cmd_sn, buf, at, data_at, length)
            return
        else:
            session.exp_cmd_sn = cmd_sn + 1 & MASK
        if itt in session.tasks:
            self.refuse(RejectReason.TASK_IN_PROGRESS, buf, at)
            return
        bidi_read = 0
        if _SPECIAL[flags] or word > 0xFFFFFF:
            try:
                more, bidi_read = _additional(flags, buf, at)
            except PduError as exc:
                self.refuse(exc.reason, buf, at)
                return
            cdb += more
        attachment = self.nexus.attachments.get(lun, self.nexus.absent)
        task = IscsiTask()
        task.parse(self, attachment, lun, itt, cdb, flags & 7, self.shell.now)
        task.edtl = edtl
        if flags & CMD_WRITE:
            task.writes = True
            if flags & CMD_READ:
                task.reads = True
                task.bidi_read_length = bidi_read
            if task.direction:
                task.expect(edtl if task.direction == 2 else bidi_read)
            if flags & FINAL and 0 < length <= task.transfer and length <= self.immediate_bytes_max:
                # All that comes unasked came with the command, as of most writes.
                task.early = (buf[data_at : data_at + length],)
                task.early_length = length
                task.early_transient = True
            elif length or not flags & FINAL:
                self._unsolicited(task, buf[data_at : data_at + length], not flags & FINAL)
        else:
            if flags & CMD_READ:
                task.reads = True
                if task.direction == 1:
                    if task.length == edtl:  # `expect` in line
                        task.expected = task.transfer = edtl
                        self._straight = task
                    else:
                        task.expect(edtl)
            if length:
                task.rejected = UNEXPECTED_UNSOLICITED_DATA
        if immediate:
            task.immediate = True
            self._straight = None
        attachment.unit.submit(task)
        if task.state < COMPLETED:
            self._outlives_pass(task)

    def _outlives_pass(self, task: IscsiTask) -> None:
        """Rule 2."""
        self._straight = None
        if task.early_transient:
            self.keep_early(task)
        self._list(task)

    def _unsolicited(self, task: IscsiTask, data: memoryview, more: bool) -> None:
        """Data that comes with the command, and after it unasked (RFC 7143 4.2.4.2)."""
        length = len(data)
        whole = min(task.edtl, self.first_burst_bytes)
        if more:
            task.bursts = {RESERVED_TAG: Burst(RESERVED_TAG, length, whole)}
            task.lingers = True
        if (length and not self.immediate_data) or (more and self.initial_r2t) or length > whole:
            task.rejected = UNEXPECTED_UNSOLICITED_DATA
            return
        if not more:
            task.early_length = min(length, task.transfer)
            if task.early_length:
                task.early = (data if task.early_length == length else data[: task.early_length],)
                task.early_transient = True
            return
        task.early_length = min(whole, task.transfer)
        have = min(length, task.early_length)
        task.early_missing = task.early_length - have
        if task.early_length:
            task.early = (data[:have],)
            self.keep_early(task)

    # --- tasks that outlive their pass ------------------------------------------------------------

    def _list(self, task: IscsiTask) -> None:
        task.lingers = True
        self.session.tasks[task.tag] = task
        if task.immediate:
            self.window.immediate += 1

    def _unlist(self, task: IscsiTask) -> None:
        session = self.session
        if session.tasks.get(task.tag) is task:
            del session.tasks[task.tag]
        elif task in session.leaving:
            session.leaving.remove(task)
        else:
            return
        if task.immediate:
            self.window.immediate -= 1

    def _may_answer(self, task: IscsiTask) -> bool:
        """Whether a task that lingered and has ended now is to be answered now."""
        if self.closed:
            self.aborted(task)
            return False
        if task.bursts:
            task.parked = True
            if self.session.tasks.get(task.tag) is not task:
                self._list(task)
            return False
        self._unlist(task)
        return True

    def settle(self, task: IscsiTask) -> None:
        """Answer a parked task if nothing of its data-out is to come any more."""
        if task.parked and not task.bursts:
            task.parked = False
            self.complete(task)

    def abort(self, task: IscsiTask, done: Callable[[], None]) -> None:
        """Abort a listed task; ``done()`` once it is gone."""
        if task.parked:
            task.parked = False
            self.aborted(task)
            done()
        else:
            task.attachment.unit.abort([task], done)

    def drop_parked(self, attachment: Attachment | None = None) -> None:
        """The parked tasks of one I_T_L nexus or all go unanswered: the bus knows them no more."""
        for task in list(self.session.tasks.values()):
            if task.parked and (attachment is None or task.attachment is attachment):
                self.abort(task, nobody_waits)

    # --- data out -------------------------------------------------------------------------------

    def _data_out(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        if dataout.take_in_place(self, buf, at, data_at, length):
            return
        views = dataout.open_payload(self, buf, at, length)
        if views is not None:
            scatter(views, buf[data_at : data_at + length])
        dataout.close_payload(self)

    def open_data_out(self, buf: memoryview, at: int, length: int) -> list[memoryview] | None:
        return None if self.muted else dataout.open_payload(self, buf, at, length)

    def close_data_out(self) -> None:
        dataout.close_payload(self)

    def data_digest_error(self, buf: memoryview, at: int) -> None:
        super().data_digest_error(buf, at)
        if buf[at] & OPCODE_MASK == Opcode.DATA_OUT:
            dataout.digest_error(self, buf, at)

    # --- the HBA of our requests ----------------------------------------------------------------

    def data_in(
        self, req: SCSIRequest, views: Sequence[memoryview | bytes], segments: list[memoryview]
    ) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        if req.pending_views is not None:
            self._send_pending(req, False)
        req.pending_views = views if type(views) is list else list(views)
        req.pending_segments = segments
        if segments:
            req.pending_bytes = req.moved - req.sent_bytes
        else:
            req.pending_bytes = sum(map(len, views))
            self.sender.copied += req.pending_bytes

    def _send_pending(
        self, task: IscsiTask, final: bool, residual_flags: int = 0, residual: int = 0
    ) -> None:
        views = task.pending_views
        assert views is not None
        sender = self.sender
        task.data_sn += sender.data_in(
            task.tag,
            views,
            task.pending_bytes,
            task.sent_bytes,
            task.data_sn,
            self.session.exp_cmd_sn,
            self.window.max_cmd_sn,
            final,
            residual_flags,
            residual,
        )
        task.sent_bytes += task.pending_bytes
        task.pending_bytes = 0
        task.pending_views = None
        if task.pending_segments:
            sender.mark(self.share, task.pending_segments)
            task.pending_segments = None

    def crowded(self) -> bool:
        return self.sender.copied > PARAMETER_BYTES_MAX

    def drained(self, req: SCSIRequest, resume: Resume) -> bool:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        if req.pending_views is not None:
            self._send_pending(req, False)
        if not self.sender.backlog:
            return True
        self.sender.mark(self.share, [], resume)
        self.shell.output_ready()
        return False

    def complete(self, req: SCSIRequest) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        if req.lingers and not self._may_answer(req):
            return
        if not req.immediate:
            window = self.window
            if window.excess:
                window.renew()
            else:
                window.end = window.end + 1 & MASK
        if not self._complete_good(req):
            self._complete_any(req)
        self.ended.append(req)
        sender = self.sender
        if not self.in_pass or sender.queued - sender.gone > EARLY_FLUSH_BYTES:
            self.shell.output_ready()

    def _complete_good(self, req: IscsiTask) -> bool:
        """The end of most writes: GOOD, all that was expected was moved."""
        expected = req.expected
        if req.status or req.length != expected or req.edtl != expected:
            return False
        if req.pending_views is not None or req.sent_bytes or req.bidi_read_length:
            return False
        session = self.session
        max_cmd_sn = self.window.end - 1 & MASK
        self.sender.good(req.tag, session.exp_cmd_sn, max_cmd_sn, req.data_sn)
        return True

    def answer(self, req: SCSIRequest, views: list[memoryview], segments: list[memoryview]) -> bool:
        """The end of most reads: all that was expected and status GOOD in one Data-In.

        Whole blocks need no padding.
        """
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        nbytes = req.length
        sender = self.sender
        if req is not self._straight or nbytes > sender.plain_data_in_bytes_max:
            return False
        window = self.window
        if window.excess:
            window.renew()
            max_cmd_sn = window.max_cmd_sn
        else:
            max_cmd_sn = window.end
            window.end = max_cmd_sn + 1 & MASK
        req.state = COMPLETED
        backlog = sender.data_in_good(
            req.tag, views, nbytes, self.session.exp_cmd_sn, max_cmd_sn, self.share, segments
        )
        self.ended.append(req)
        if backlog > EARLY_FLUSH_BYTES or not self.in_pass:
            self.shell.output_ready()
        return True

    def _complete_any(self, req: IscsiTask) -> None:
        flags, residual, bidi = self._residuals(req)
        if req.status == Status.GOOD and req.pending_views is not None and not bidi:
            self._send_pending(req, True, flags, residual)
            return
        if req.pending_views is not None:
            self._send_pending(req, False)
        sense = b""
        if req.sense is not None:
            sense = req.sense.encode(req.attachment.unit.device.descriptor_sense)
        session = self.session
        self.sender.response(
            req.tag,
            req.status,
            sense,
            session.exp_cmd_sn,
            session.max_cmd_sn,
            req.data_sn,
            flags,
            residual,
            bidi,
        )

    def _residuals(self, task: IscsiTask) -> tuple[int, int, int]:
        """Residual flags, residual count, bidirectional read residual (RFC 7143 11.4.5)."""
        if task.status != Status.GOOD and task.direction == 1:
            has = task.sent_bytes + task.pending_bytes  # nothing that was not sent is there
        else:
            has = task.length
        if task.reads and task.writes:
            from_device = has if task.direction == 1 else 0
            to_device = has if task.direction == 2 else 0
            flags, residual = residual_of(to_device, task.edtl)
            bidi_flags, bidi = residual_of(from_device, task.bidi_read_length, True)
            return flags | bidi_flags, residual, bidi
        matches = (task.reads and task.direction == 1) or (task.writes and task.direction == 2)
        if not matches and not task.edtl:
            # No data was expected in the command's direction: all it has is overflow.
            return (*residual_of(has, 0), 0)
        return (*residual_of(has if matches else 0, task.edtl), 0)

    def aborted(self, req: SCSIRequest) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        if req.pending_segments:
            self.share.give(req.pending_segments)
        req.pending_views = req.pending_segments = None
        self._unlist(req)
        req.attachment.unit.stats.aborted += 1
        self.session.flight.kept.append(req)
        if not req.immediate:
            self.window.renew()

    def keep_early(self, req: SCSIRequest) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        req.early_transient = False
        old = req.early
        req.early_segments = self.share.take_reserved(segments_for(req.early_length))
        req.early = views_of(req.early_segments, req.early_length)
        if old:
            scatter(req.early, old[0])

    def release_early(self, req: SCSIRequest) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        if req.early_segments is not None:
            self._not_into(req)
            self.share.give_reserved(req.early_segments)
            req.early_segments = None

    def solicit(
        self,
        req: SCSIRequest,
        offset: int,
        views: list[memoryview],
        nbytes: int,
        resume: Resume,
        in_place: bool,
    ) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        req.solicitation = Solicitation(offset, views, nbytes, resume, in_place, req.r2t_sn)
        req.lingers = True
        if req.bursts is None:
            req.bursts = {}
        self.ask(req)

    def ask(self, task: IscsiTask) -> None:
        """R2Ts for what is wanted, MaxOutstandingR2T at a time (RFC 7143 11.8)."""
        wanted, bursts = task.solicitation, task.bursts
        assert wanted is not None
        assert bursts is not None
        start, end = wanted.asked, wanted.end
        session = self.session
        room = self.r2ts_max - len(bursts) + (RESERVED_TAG in bursts)
        while start < end and room > 0:
            stop = start + self.max_burst_bytes
            if stop > end:
                stop = end
            ttt = session.next_ttt()
            bursts[ttt] = Burst(ttt, start, stop)
            self.sender.r2t(
                task.lun,
                task.tag,
                ttt,
                session.exp_cmd_sn,
                self.window.max_cmd_sn,
                wanted.r2t_sn,
                start,
                stop - start,
            )
            wanted.r2t_sn += 1
            wanted.asked = start = stop
            room -= 1
        if not self.in_pass:
            self.shell.output_ready()

    def cancel_solicit(self, req: SCSIRequest) -> None:
        if TYPE_CHECKING:
            assert isinstance(req, IscsiTask)
        self._not_into(req)
        req.solicitation = None

    def _not_into(self, task: IscsiTask) -> None:
        """The buffers of this task go away: a payload on its way into them is dropped."""
        if self.incoming is not None and self.incoming.task is task:
            dataout.divert_payload(self)

    # --- the end --------------------------------------------------------------------------------

    def end_tasks(self) -> None:
        dataout.divert_payload(self)
        tasks = self.session.tasks
        for task in [t for t in tasks.values() if t.hba is self]:
            self.abort(task, nobody_waits)
        # What a store is still busy with ends later.  Its tag is free for the next connection.
        for task in [t for t in tasks.values() if t.hba is self]:
            del tasks[task.tag]
            self.session.leaving.add(task)

    def log_out(self, respond: Callable[[], None]) -> None:
        self.mute()
        # Those of a connection before this one count as well.
        tasks = [*self.session.tasks.values(), *self.session.leaving]

        def answer() -> None:
            Endpoint.log_out(self, respond)

        # Before the answer: whoever hears of it may reserve on another node at once.
        done = countdown(len(tasks) + 1, lambda: self.nexus.bus.let_go(self.nexus, answer))
        for task in tasks:
            self.abort(task, done)
        done()


def _additional(flags: int, buf: memoryview, at: int) -> tuple[bytes, int]:
    """The rest of a long CDB, and the read length of a bidirectional command; or PduError."""
    if flags & 7 >= _RESERVED_ATTRIBUTES or not flags & (FINAL | CMD_WRITE):
        raise PduError(RejectReason.INVALID_PDU_FIELD, "a reserved ATTR, or neither F nor W")
    cdb, read_length = decode_ahs(bytes(buf[at + 48 : at + 48 + (buf[at + 4] << 2)]))
    if (read_length is not None) != (flags & _BOTH == _BOTH):
        # RFC 7143 11.2.2.4, 11.3.4
        raise PduError(RejectReason.INVALID_PDU_FIELD, "R, W and the AHS do not agree")
    return cdb, read_length or 0
