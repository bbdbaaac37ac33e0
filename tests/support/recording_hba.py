"""An HBA that queues, without an event loop: the test says when data moves and how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from target.block.pool import BufferPool, segments_for, views_of
from target.block.wait import Resume
from target.hba.base import Hba, HbaCaps
from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import Attribute
from target.scsi.lun import encode_lun
from target.scsi.request import SCSIRequest, State
from target.scsi.sense import Sense, Status

TRANSIENT = "in the receive buffer"


@dataclass(slots=True)
class Solicited:
    """Data-out that a command waits for."""

    req: SCSIRequest
    offset: int
    views: list[memoryview]
    nbytes: int
    resume: Resume


class RecordingHba(Hba):
    """One I_T nexus.  ``ended`` lists the tags of commands in the order of their end."""

    caps = HbaCaps(tagged_queueing=True, scatter_gather=True)

    def __init__(self, bus: SCSIBus, pool: BufferPool, name: str = "recorder") -> None:
        self.bus = bus
        self.share = pool.open_share()
        self.nexus = bus.connect(name, bytes(6))
        self.lun = encode_lun(0)
        self.ended: list[int] = []
        self.aborted_tags: list[int] = []
        self.requests: dict[int, SCSIRequest] = {}
        self.data: dict[int, bytearray] = {}
        self.solicited: dict[int, Solicited] = {}
        self.hold_data_in = False  # what is sent stays on this side until ``drain``
        self._undrained: list[list[memoryview]] = []
        self._drain_resumes: list[Resume] = []
        self._early: dict[int, list[memoryview]] = {}
        self._tag = 0
        self.on_complete: Callable[[], object] | None = None  # once, when a command has ended

    def settle(self) -> None:
        """Take the unit attentions that are pending."""
        self.nexus.attachments[self.lun].unit_attentions.clear()

    # --- what the test does -----------------------------------------------------------------------

    def submit(
        self,
        cdb: bytes,
        attribute: Attribute = Attribute.SIMPLE,
        *,
        expected: int | None = None,
        early: bytes = b"",
        early_length: int | None = None,
        transient: bool = False,
    ) -> SCSIRequest:
        """A command; ``early`` is what has arrived of the ``early_length`` bytes that come along.

        ``transient``: the early data is in a receive buffer that the HBA will use again.
        """
        self._tag += 1
        req = self.bus.request(
            self, self.nexus, self.lun, self._tag, cdb.ljust(16, b"\0"), attribute, 0.0
        )
        self.requests[self._tag] = req
        self.data[self._tag] = bytearray()
        req.expect(req.length if expected is None else expected)
        length = len(early) if early_length is None else early_length
        if transient:
            req.early = [memoryview(bytearray(early))]
            req.early_transient = True
            req.hba_data = TRANSIENT
        elif length:
            self._reserve(req, length)
            _fill(req.early, 0, early)
        req.early_length = length
        req.early_missing = length - len(early)
        req.attachment.unit.submit(req)
        return req

    def _reserve(self, req: SCSIRequest, length: int) -> None:
        count = segments_for(length)
        assert self.share.reserve(count)
        self._early[req.tag] = self.share.take_reserved(count)
        req.early = views_of(self._early[req.tag], length)

    def arrive(self, req: SCSIRequest, data: bytes) -> None:
        """More of the early data."""
        _fill(req.early, req.early_length - req.early_missing, data)
        req.early_arrived(len(data))

    def deliver(self, req: SCSIRequest, data: bytes) -> None:
        """The data-out that was solicited; ``data`` is that of the whole command."""
        wanted = self.solicited.pop(req.tag)
        _fill(wanted.views, 0, data[wanted.offset : wanted.offset + wanted.nbytes])
        wanted.resume(None)

    def drain(self) -> None:
        """All data-in leaves."""
        for segments in self._undrained:
            self.share.give(segments)
        self._undrained.clear()
        resumes, self._drain_resumes = self._drain_resumes, []
        for resume in resumes:
            resume(None)

    def close(self) -> None:
        """Hang up; nothing may be left."""
        self.drain()
        done: list[bool] = []
        self.bus.disconnect(self.nexus, lambda: done.append(True))
        assert done, "commands are left"
        assert not self.solicited
        assert not self._early
        self.share.close()

    # --- what the request asks --------------------------------------------------------------------

    def data_in(
        self, req: SCSIRequest, views: Sequence[memoryview | bytes], segments: list[memoryview]
    ) -> None:
        for view in views:
            self.data[req.tag] += view
        if self.hold_data_in:
            self._undrained.append(segments)
        elif segments:
            self.share.give(segments)

    def drained(self, req: SCSIRequest, resume: Resume) -> bool:
        if not self._undrained:
            return True
        self._drain_resumes.append(resume)
        return False

    def solicit(
        self,
        req: SCSIRequest,
        offset: int,
        views: list[memoryview],
        nbytes: int,
        resume: Resume,
        in_place: bool,
    ) -> None:
        assert req.tag not in self.solicited
        self.solicited[req.tag] = Solicited(req, offset, views, nbytes, resume)

    def cancel_solicit(self, req: SCSIRequest) -> None:
        del self.solicited[req.tag]

    def keep_early(self, req: SCSIRequest) -> None:
        assert req.early_transient
        data = b"".join(req.early)
        self._reserve(req, len(data))
        _fill(req.early, 0, data)
        req.early_transient = False
        req.hba_data = None

    def release_early(self, req: SCSIRequest) -> None:
        segments = self._early.pop(req.tag, None)
        if segments is not None:
            self.share.give_reserved(segments)
            self.share.unreserve(len(segments))

    def complete(self, req: SCSIRequest) -> None:
        assert req.tag not in self.ended, "ended twice"
        assert req.state == State.COMPLETED
        self.ended.append(req.tag)
        then, self.on_complete = self.on_complete, None
        if then is not None:
            then()

    def aborted(self, req: SCSIRequest) -> None:
        assert req.tag not in self.ended, "ended twice"
        assert req.state == State.ABORTED
        self.ended.append(req.tag)
        self.aborted_tags.append(req.tag)


def outcome(req: SCSIRequest) -> tuple[Status, Sense | None]:
    """Status and sense of a command that has ended with a status."""
    assert req.state == State.COMPLETED
    return Status(req.status), req.sense


def _fill(views: Sequence[memoryview], at: int, data: bytes) -> None:
    """Put ``data`` at byte ``at`` of a scatter list."""
    for view in views:
        if at >= len(view):
            at -= len(view)
            continue
        piece = data[: len(view) - at]
        view[at : at + len(piece)] = piece
        data = data[len(piece) :]
        at = 0
    assert not data, "more data than was asked for"
