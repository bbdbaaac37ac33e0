"""PDUs to bytes: the output of a connection, its StatSN, and the buffers that travel in it.

``out`` is the list of buffers for one ``sendmsg``; what has been sent is taken off by ``sent``.
Pool segments that a Data-In points into are given back when their bytes are gone ("marks").
Headers of the hot path are packed here; every other PDU is encoded by its own class.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from crc32c import crc32c

from target.block.extents import cut_buffers
from target.block.pool import Share
from target.iscsi.constants import (
    BHS_LENGTH,
    BIDI_OVERFLOW,
    BIDI_UNDERFLOW,
    DATA_IN_STATUS,
    FINAL,
    RESERVED_TAG,
    RESIDUAL_OVERFLOW,
    RESIDUAL_UNDERFLOW,
    Opcode,
)
from target.iscsi.pdu import Pdu, frame, sense_segment
from target.iscsi.serial import MASK

# Opcode, flags, status, lengths, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, DataSN, offset, residual.
_DATA_IN: Final = struct.Struct(">BBxBI8xIIIIIIII").pack
# The first word, lengths, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN: what is not 0 in most Data-Ins.
_DATA_IN_GOOD: Final = struct.Struct(">II8xIIIII12x").pack
# Opcode, flags, response, status, lengths, ITT, SNACK, StatSN, ExpCmdSN, MaxCmdSN, ExpDataSN, …
_RESPONSE: Final = struct.Struct(">BBBBI8xIIIIIIII").pack
# Opcode, flags, lengths, LUN, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, R2TSN, offset, length.
_R2T: Final = struct.Struct(">BBxxI8sIIIIIIII").pack
_SCSI_RESPONSE: Final = int(Opcode.SCSI_RESPONSE)  # plain integers: looked up per command
_R2T_OPCODE: Final = int(Opcode.R2T)
_GOOD_FIRST_WORD: Final = Opcode.DATA_IN << 24 | (FINAL | DATA_IN_STATUS) << 16
MARK_SEGMENTS: Final = 16  # that go back together, about
_PADS: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class _Mark:
    """What happens when the byte stream is sent up to ``position``."""

    __slots__ = ("position", "resume", "segments", "share")

    def __init__(
        self,
        position: int,
        share: Share,
        segments: list[memoryview],
        resume: Callable[[Any], None] | None,
    ) -> None:
        self.position = position
        self.share = share
        self.segments = segments  # to be given back
        self.resume = resume  # to be told


class Sender:
    """The sending half of a connection."""

    def __init__(self) -> None:
        self.out: list[memoryview | bytes] = []
        self.queued = 0  # bytes ever put into `out`
        self.gone = 0  # bytes ever sent
        self.copied = 0  # bytes put into `out` since it was empty that are not in the pool
        self.stat_sn = 1
        self.header_digest = False
        self.data_digest = False
        self.set_limits(8192, 262144)
        self._marks: deque[_Mark] = deque()
        self._gathering: _Mark | None = None  # the last of them, if it may have more segments

    def set_limits(self, data_bytes_max: int, burst_bytes_max: int) -> None:
        """MaxRecvDataSegmentLength of the initiator, and MaxBurstLength."""
        self.data_bytes_max = data_bytes_max
        self.burst_bytes_max = burst_bytes_max
        # A sequence is never longer than MaxBurstLength, so neither is a PDU (RFC 7143 13.13).
        self.data_in_bytes_max = min(data_bytes_max, burst_bytes_max)
        # What one Data-In without digests may have.
        digests = self.header_digest or self.data_digest
        self.plain_data_in_bytes_max = 0 if digests else self.data_in_bytes_max

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self.queued - self.gone

    def next_stat_sn(self) -> int:
        """The StatSN of the next response; each is used once."""
        stat_sn = self.stat_sn
        self.stat_sn = stat_sn + 1 & MASK
        return stat_sn

    def put(self, pdu: Pdu) -> None:
        """Queue a PDU."""
        for part in frame(pdu, self.header_digest, self.data_digest):
            self.out.append(part)
            self.queued += len(part)
            self.copied += len(part)

    def _put_header(self, header: bytes) -> None:
        if self.header_digest:
            header += crc32c(header).to_bytes(4, "little")
        self.out.append(header)
        self.queued += len(header)

    def _put_data(self, views: Sequence[memoryview | bytes], nbytes: int) -> None:
        out = self.out
        out += views
        self.queued += nbytes
        tail = _PADS[nbytes & 3]
        if self.data_digest:
            crc = 0
            for view in views:
                crc = crc32c(view, crc)
            tail += crc32c(tail, crc).to_bytes(4, "little")
        if tail:
            out.append(tail)
            self.queued += len(tail)

    def good(self, itt: int, exp_cmd_sn: int, max_cmd_sn: int, exp_data_sn: int) -> None:
        """A SCSI Response with status GOOD and no residual: what most writes end with."""
        stat_sn = self.stat_sn
        self.stat_sn = stat_sn + 1 & MASK
        header = _RESPONSE(
            _SCSI_RESPONSE,
            FINAL,
            0,
            0,
            0,
            itt,
            0,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn,
            0,
            0,
        )
        if self.header_digest:
            self._put_header(header)
        else:
            self.out.append(header)
            self.queued += BHS_LENGTH

    def data_in_good(
        self,
        itt: int,
        views: list[memoryview],
        nbytes: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        share: Share,
        segments: list[memoryview],
    ) -> int:
        """All data of a command and status GOOD in one Data-In: what most reads end with.

        ``nbytes``, a multiple of 4, is at most ``plain_data_in_bytes_max``; ``segments`` go back to
        ``share`` when they have gone.  Returns the backlog.
        """
        stat_sn = self.stat_sn
        self.stat_sn = stat_sn + 1 & MASK
        out = self.out
        out.append(
            _DATA_IN_GOOD(
                _GOOD_FIRST_WORD, nbytes, itt, RESERVED_TAG, stat_sn, exp_cmd_sn, max_cmd_sn
            )
        )
        out += views
        self.queued = queued = self.queued + BHS_LENGTH + nbytes
        last = self._gathering
        if last is not None and len(last.segments) < MARK_SEGMENTS:  # `mark` in line
            last.segments += segments
            last.position = queued
        else:
            self._gathering = last = _Mark(queued, share, segments, None)
            self._marks.append(last)
        return queued - self.gone

    def data_in(
        self,
        itt: int,
        views: Sequence[memoryview | bytes],
        nbytes: int,
        offset: int,
        data_sn: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        final: bool,
        residual_flags: int = 0,
        residual: int = 0,
    ) -> int:
        """Data-In PDUs for ``views``; the last has status GOOD if ``final``.  Returns their number.

        F is set at the end of every MaxBurstLength and of the data (RFC 7143 11.7.2, 11.7.3).
        """
        limit = self.data_in_bytes_max
        if nbytes <= limit and final:
            self._put_header(
                _DATA_IN(
                    Opcode.DATA_IN,
                    FINAL | DATA_IN_STATUS | residual_flags,
                    0,
                    nbytes,
                    itt,
                    RESERVED_TAG,
                    self.next_stat_sn(),
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn,
                    offset,
                    residual,
                )
            )
            self._put_data(views, nbytes)
            return 1
        pdus = 0
        at = 0
        while at < nbytes:
            here = offset + at
            burst_left = self.burst_bytes_max - here % self.burst_bytes_max
            size = min(limit, nbytes - at, burst_left)
            last = at + size == nbytes
            flags = FINAL if last or size == burst_left else 0
            with_status = last and final
            if with_status:
                flags |= DATA_IN_STATUS | residual_flags
            self._put_header(
                _DATA_IN(
                    Opcode.DATA_IN,
                    flags,
                    0,
                    size,
                    itt,
                    RESERVED_TAG,
                    self.next_stat_sn() if with_status else 0,
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn + pdus & MASK,
                    here,
                    residual if with_status else 0,
                )
            )
            self._put_data(_cut(views, at, size, nbytes), size)
            at += size
            pdus += 1
        return pdus

    def response(
        self,
        itt: int,
        status: int,
        sense: bytes,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        exp_data_sn: int,
        residual_flags: int,
        residual: int,
        bidi_residual: int,
    ) -> None:
        """A SCSI Response (RFC 7143 11.4)."""
        segment = sense_segment(sense) if sense else b""
        self._put_header(
            _RESPONSE(
                Opcode.SCSI_RESPONSE,
                FINAL | residual_flags,
                0,
                status,
                len(segment),
                itt,
                0,
                self.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
                exp_data_sn,
                bidi_residual,
                residual,
            )
        )
        if segment:
            self._put_data([segment], len(segment))

    def r2t(
        self,
        lun: bytes,
        itt: int,
        ttt: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        r2t_sn: int,
        offset: int,
        nbytes: int,
    ) -> None:
        """An R2T (RFC 7143 11.8).  It has the next StatSN, and does not use it up."""
        header = _R2T(
            _R2T_OPCODE,
            FINAL,
            0,
            lun,
            itt,
            ttt,
            self.stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            r2t_sn,
            offset,
            nbytes,
        )
        if self.header_digest:
            self._put_header(header)
        else:
            self.out.append(header)
            self.queued += BHS_LENGTH

    def mark(
        self, share: Share, segments: list[memoryview], resume: Callable[[Any], None] | None = None
    ) -> None:
        """When all that is queued now has gone: give ``segments`` back and call ``resume``.

        Those of a few commands go back together: one call instead of many.  The share is that of
        the session, always the same.
        """
        last = self._gathering
        if resume is None and last is not None and len(last.segments) < MARK_SEGMENTS:
            last.segments += segments
            last.position = self.queued
            return
        mark = _Mark(self.queued, share, segments, resume)
        self._gathering = mark if resume is None else None
        self._marks.append(mark)

    def sent(self, nbytes: int) -> None:
        """``nbytes`` from the front of ``out`` have been handed to the kernel."""
        self.gone += nbytes
        if self.gone == self.queued:
            self.out.clear()
            self.copied = 0
        else:
            self._trim(nbytes)
        marks = self._marks
        while marks and marks[0].position <= self.gone:
            mark = marks.popleft()
            if mark is self._gathering:
                self._gathering = None
            if mark.segments:
                mark.share.give(mark.segments)
            if mark.resume is not None:
                mark.resume(None)

    def _trim(self, nbytes: int) -> None:
        out = self.out
        for i, part in enumerate(out):
            size = len(part)
            if nbytes < size:
                if nbytes:
                    out[i] = memoryview(part)[nbytes:]
                del out[:i]
                return
            nbytes -= size

    def abandon(self) -> None:
        """The connection is gone: nothing of the rest is sent, its buffers come back."""
        self.out.clear()
        self.gone = self.queued
        self.sent(0)


def _cut(
    views: Sequence[memoryview | bytes], at: int, size: int, total: int
) -> Sequence[memoryview | bytes]:
    if size == total:
        return views
    return cut_buffers([memoryview(v) for v in views], at, size)


def residual_of(length: int, expected: int, bidirectional_read: bool = False) -> tuple[int, int]:
    """Residual flags and count: what there is against what was expected (RFC 7143 11.4.5)."""
    if length == expected:
        return 0, 0
    if length > expected:
        return (BIDI_OVERFLOW if bidirectional_read else RESIDUAL_OVERFLOW), length - expected
    return (BIDI_UNDERFLOW if bidirectional_read else RESIDUAL_UNDERFLOW), expected - length
