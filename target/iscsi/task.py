"""A SCSI command as iSCSI sees it: the request plus what its data phase needs.

Write data reaches a task in two ways (RFC 7143 4.2.4): unasked, as immediate data and the Data-Outs
of the first burst; and solicited, each burst asked for by an R2T with a Target Transfer Tag of its
own. Both are placed by their Buffer Offset and have to come in order (DataPDUInOrder,
DataSequenceInOrder are always Yes at ErrorRecoveryLevel 0).
"""

from __future__ import annotations

from target.block.extents import cut_buffers
from target.block.wait import Resume
from target.scsi.request import SCSIRequest


class Burst:
    """A sequence of Data-Outs: [start, end) of the command's buffer, asked for by one R2T.

    The unsolicited one has the reserved Target Transfer Tag and begins behind the immediate data.
    """

    __slots__ = ("data_sn", "end", "next_offset", "start", "ttt")

    def __init__(self, ttt: int, start: int, end: int) -> None:
        self.ttt = ttt
        self.start = start
        self.end = end
        self.next_offset = start
        self.data_sn = 0


class Solicitation:
    """What a command has asked for: ``views`` to be filled with [start, end)."""

    __slots__ = ("asked", "end", "in_place", "left", "r2t_sn", "resume", "start", "views")

    def __init__(
        self,
        start: int,
        views: list[memoryview],
        nbytes: int,
        resume: Resume,
        in_place: bool,
        r2t_sn: int,
    ) -> None:
        self.start = start
        self.views = views
        self.end = start + nbytes
        self.resume = resume
        self.asked = start  # up to here R2Ts have been sent
        self.left = nbytes
        self.in_place = in_place  # one piece of the receive buffer will do as well
        self.r2t_sn = r2t_sn  # of the next R2T

    def place(self, offset: int, length: int) -> list[memoryview]:
        """The scatter list for [offset, offset + length)."""
        if offset == self.start and offset + length == self.end:
            return list(self.views)
        return list(cut_buffers(self.views, offset - self.start, length))


class IscsiTask(SCSIRequest):
    """A request with its iSCSI side; class attributes are the defaults."""

    edtl: int = 0  # Expected Data Transfer Length, as the initiator said
    reads: bool = False  # R bit
    writes: bool = False  # W bit
    bidi_read_length: int = 0  # of a command with both
    immediate: bool = False  # not counted in the command window

    lingers: bool = False  # it is listed, or data-out is still to come: its end takes more
    parked: bool = False  # it has ended, and its response waits for the end of its data-out

    # Data-in
    pending_views: list[memoryview | bytes] | None = None  # held back for status to ride along
    pending_segments: list[memoryview] | None = None
    pending_bytes: int = 0
    sent_bytes: int = 0
    data_sn: int = 0  # Data-In PDUs so far: ExpDataSN of the response

    # Data-out
    bursts: dict[int, Burst] | None = None  # those that have not ended, by Target Transfer Tag
    early_segments: list[memoryview] | None = None  # of unsolicited data
    solicitation: Solicitation | None = None
    r2t_sn: int = 0  # of the first R2T of the next solicitation
