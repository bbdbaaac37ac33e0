"""The in-process HBA: SCSI commands by function call, without a network.

It can neither queue (one command at a time) nor take scatter lists (every byte passes through one
bounce buffer of ``BOUNCE_BYTES``), which is what the simplest controllers can do.  That the same
devices work through it shows that the interface asks no more of an HBA; it serves the tests and
``lunmesh scsi``.

Data comes from a *source* and goes to a *sink*: bytes, or functions that are called piece by piece,
so that a command of any length costs no more memory than a small one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from target.block.pool import SEGMENT_BYTES, BufferPool, segments_for, views_of
from target.block.wait import Resume
from target.hba.base import Hba, HbaCaps
from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import Attribute
from target.scsi.lun import encode_lun
from target.scsi.request import Direction, SCSIRequest
from target.scsi.sense import DATA_PHASE_ERROR, Sense, Status

BOUNCE_BYTES: Final = SEGMENT_BYTES
CDB_BYTES_MIN: Final = 16  # shorter ones are padded, as iSCSI pads them

Source = Callable[[int], bytes]
"""Gives the next ``n`` bytes of data-out."""
Sink = Callable[[memoryview], object]
"""Takes the next bytes of data-in; the view is valid during the call."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended.

    ``residual``: what the initiator expected less what the command had; negative when the command
    had more (residual overflow).
    """

    status: Status
    sense: Sense | None
    data: bytes
    residual: int
    sense_data: bytes = b""  # encoded as the device's D_SENSE says


class CommandAborted(Exception):
    """The command was aborted: it has no status."""


class InProcessHba(Hba):
    """One initiator port with a command at a time.

    ``early_bytes_max``: as much of the data-out comes with the command, the rest is solicited.  An
    error of a source or sink ends the command and is raised by ``execute``.
    """

    caps = HbaCaps(tagged_queueing=False, scatter_gather=False, segment_bytes_max=BOUNCE_BYTES)

    def __init__(
        self,
        bus: SCSIBus,
        pool: BufferPool,
        *,
        lun: int = 0,
        name: str = "in-process",
        early_bytes_max: int = SEGMENT_BYTES,
    ) -> None:
        self.share = pool.open_share()
        if not self.share.reserve(segments_for(early_bytes_max)):
            self.share.close()
            raise MemoryError("the buffer pool has nothing left to reserve")
        self.nexus = bus.connect(name, bytes(6))
        self._bus = bus
        self._lun = encode_lun(lun)
        self._early_bytes_max = early_bytes_max
        self._early_segments: list[memoryview] = []
        self._bounce = memoryview(bytearray(BOUNCE_BYTES))
        self._tag = 0
        self._request: SCSIRequest | None = None
        self._ended: asyncio.Future[Result]
        self._source: Source
        self._sink: Sink
        self._collected = bytearray()
        self._delivered = 0
        self._solicited: Callable[[], None] | None = None
        self._failure: Exception | None = None  # of a source or sink

    async def execute(
        self,
        cdb: bytes,
        data_out: bytes | Source = b"",
        expected_in: int = 0,
        *,
        expected_out: int | None = None,
        data_in: Sink | None = None,
        lun: bytes | None = None,
        attribute: Attribute = Attribute.SIMPLE,
    ) -> Result:
        """Run one command to its end.

        ``expected_in`` and ``expected_out`` (by default all of ``data_out``) are what the initiator
        is ready to transfer.  Without a ``data_in`` sink the data is in the result.
        """
        if self._request is not None:
            raise RuntimeError("this HBA takes one command at a time")
        if not cdb:
            raise ValueError("an empty CDB")
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._collected.clear()
        self._delivered = 0
        self._failure = None
        self._sink = data_in if data_in is not None else self._collected.extend
        if callable(data_out):
            if expected_out is None:
                raise ValueError("how long is what the source gives?")
            self._source = data_out
        else:
            expected_out = len(data_out) if expected_out is None else expected_out
            self._source = _reader(data_out)
        self._tag += 1
        request = self._bus.request(
            self,
            self.nexus,
            self._lun if lun is None else lun,
            self._tag,
            cdb.ljust(CDB_BYTES_MIN, b"\0"),
            attribute,
            loop.time(),
        )
        self._request = request
        reads = request.direction == Direction.FROM_DEVICE
        writes = request.direction == Direction.TO_DEVICE
        self._expected = expected_in if reads else expected_out if writes else 0
        if not reads and not writes:
            self._expected = expected_in or expected_out
        request.expect(self._expected)
        try:
            if writes:
                self._bring_early(request)
        except Exception:
            self._request = None
            self.release_early(request)
            raise
        request.attachment.unit.submit(request)
        try:
            return await self._ended
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """Abort the command that is running, if one is."""
        if self._request is not None:
            self._request.attachment.unit.abort([self._request], _nobody_waits)

    def close(self) -> None:
        """The initiator port goes away.  No command may be running."""
        assert self._request is None, "closed with a command running"
        self._bus.disconnect(self.nexus, self.share.close)

    # --- data-out -------------------------------------------------------------------------------

    def _bring_early(self, req: SCSIRequest) -> None:
        length = min(req.transfer, self._early_bytes_max)
        if length:
            self._early_segments = self.share.take_reserved(segments_for(length))
            req.early = views_of(self._early_segments, length)
            req.early_length = length
            self._fill(req.early)

    def _fill(self, views: Sequence[memoryview]) -> None:
        """Source → bounce buffer → views."""
        for view in views:
            for at in range(0, len(view), BOUNCE_BYTES):
                piece = view[at : at + BOUNCE_BYTES]
                data = self._source(len(piece))
                if len(data) != len(piece):
                    raise ValueError(f"the source gave {len(data)} bytes, not {len(piece)}")
                self._bounce[: len(data)] = data
                piece[:] = self._bounce[: len(data)]

    def release_early(self, req: SCSIRequest) -> None:
        if self._early_segments:
            segments, self._early_segments = self._early_segments, []
            self.share.give_reserved(segments)

    def solicit(
        self,
        req: SCSIRequest,
        offset: int,
        views: list[memoryview],
        nbytes: int,
        resume: Resume,
        in_place: bool,
    ) -> None:
        def deliver() -> None:
            if self._solicited is not deliver:
                return
            self._solicited = None
            try:
                self._fill(views)
            except Exception as exc:
                self._failure = exc
                req.interrupt(DATA_PHASE_ERROR)
            else:
                resume(None)

        self._solicited = deliver
        self._ended.get_loop().call_soon(deliver)

    def cancel_solicit(self, req: SCSIRequest) -> None:
        self._solicited = None

    # --- data-in and the end --------------------------------------------------------------------

    def data_in(
        self, req: SCSIRequest, views: Sequence[memoryview | bytes], segments: list[memoryview]
    ) -> None:
        if self._failure is None:
            try:
                self._deliver(views)
            except Exception as exc:
                self._failure = exc
        if segments:
            self.share.give(segments)

    def _deliver(self, views: Sequence[memoryview | bytes]) -> None:
        """Views → bounce buffer → sink."""
        for view in views:
            for at in range(0, len(view), BOUNCE_BYTES):
                piece = view[at : at + BOUNCE_BYTES]
                self._bounce[: len(piece)] = piece
                self._sink(self._bounce[: len(piece)])
                self._delivered += len(piece)

    def drained(self, req: SCSIRequest, resume: Resume) -> bool:
        return True

    def complete(self, req: SCSIRequest) -> None:
        has = req.length
        if req.status != Status.GOOD and req.direction == Direction.FROM_DEVICE:
            has = self._delivered
        sense_data = b""
        if req.sense is not None:
            sense_data = req.sense.encode(req.attachment.unit.device.descriptor_sense)
        self._request = None
        if self._ended.done():
            return
        if self._failure is not None:
            self._ended.set_exception(self._failure)
        else:
            result = Result(
                Status(req.status),
                req.sense,
                bytes(self._collected),
                self._expected - has,
                sense_data,
            )
            self._ended.set_result(result)

    def aborted(self, req: SCSIRequest) -> None:
        self._request = None
        if not self._ended.done():
            self._ended.set_exception(CommandAborted())


def _reader(data: bytes) -> Source:
    at = 0

    def read(nbytes: int) -> bytes:
        nonlocal at
        piece = data[at : at + nbytes]
        at += nbytes
        return piece

    return read


def _nobody_waits() -> None:
    return
