"""Bytes to PDUs: lengths, padding and digests; nothing of what a PDU means.

Theory of operation.  The caller asks ``buffers(scratch)`` where the next bytes belong, reads into
them and says ``received(n)``.  Every whole PDU in the scratch buffer is handed to the handler of
its opcode, ``handler(buf, at, data_at, data_length)``, where ``buf`` is valid during the call only:
one pass over all that has arrived.

1. The beginning of a PDU at the end stays where it is while its rest has room behind it
   (``unfinished``): what is read next goes there.  Before the scratch buffer is used for anything
   else the caller says ``settle(scratch)``; then it is kept and put in front of the next bytes.
2. The payload of a Data-Out that has to be taken out of the scratch buffer goes straight to where
   it belongs: its owner names the buffers (``open_data_out``) and the next read fills them.
   Nothing is allocated by a length from the wire.
3. A length past what was declared, or a bad header digest, ends the connection: what follows cannot
   be trusted to be a header.
4. A bad data digest is the owner's to answer, whatever becomes of the payload; the stream itself
   stays in step (RFC 7143 7.8).
5. Once the owner is closed, nothing is handed to it any more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from crc32c import crc32c

from target.iscsi.constants import BHS_LENGTH, DIGEST_LENGTH, OPCODE_MASK, Opcode

Handler = Callable[[memoryview, int, int, int], None]
# One for all connections of an event loop.  The more it takes, the fewer large Data-Outs have to be
# copied out of it.
SCRATCH_BYTES: Final = 2 << 20
STREAMED_BYTES_MIN: Final = 16384  # a Data-Out below this is kept whole rather than streamed
_FIRST_AND_LENGTHS: Final = struct.Struct(">B3xI").unpack_from
# CRC32C over something and its own digest, least significant byte first.
_DIGEST_IS_RIGHT: Final = 0x48674BC7


class FramingError(Exception):
    """The byte stream is out of step (rule 3)."""


class PduOwner(Protocol):
    """What the receiver asks of the connection."""

    closed: bool

    def open_data_out(self, buf: memoryview, at: int, length: int) -> list[memoryview] | None:
        """Where the ``length`` payload bytes of this Data-Out go; None: they are dropped."""

    def close_data_out(self) -> None:
        """All bytes of the Data-Out that was opened last have come, be they kept or dropped."""

    def data_digest_error(self, buf: memoryview, at: int) -> None:
        """The data segment of the PDU at ``at`` is not what was sent; it is dropped.

        ``close_data_out`` is not called then.
        """


class Receiver:
    """The receiving half of a connection."""

    def __init__(self, owner: PduOwner, handlers: list[Handler], data_bytes_max: int) -> None:
        self._owner = owner
        self.handlers = handlers  # by opcode; changed in place, perhaps in the middle of a pass
        self.data_bytes_max = data_bytes_max
        self.set_digests(header=False, data=False)
        self.unfinished = False  # rule 1
        self._left = (0, 0, 0, 0)  # then: its place, that of its data, their length, where it ends
        self._kept = b""
        self._sink: list[memoryview] = []  # rule 2: still to be filled, padding and digest last
        self._sink_left = 0
        self._trailer_bytes = 0  # of the padding and the digest
        self._wanted = False  # whether the payload has an owner
        self._header = b""  # of the Data-Out, in case that its digest is wrong
        self._crc = 0  # of what has been filled

    def set_digests(self, *, header: bool, data: bool) -> None:
        """Which digests PDUs have from the next one on."""
        self.header_digest = header
        self.data_digest = data
        self._digests = header or data

    def buffers(self, scratch: memoryview) -> list[memoryview]:
        """Where the next bytes belong."""
        if self._sink_left:
            # What is dropped goes to the same place again and again: one piece at a time.
            return [*self._sink, scratch] if self._wanted else self._sink[:1]
        if self.unfinished:
            return [scratch[self._left[3] :]]
        kept = len(self._kept)
        if kept:
            scratch[:kept] = self._kept
            return [scratch[kept:]]
        return [scratch]

    def received(self, scratch: memoryview, nbytes: int) -> None:
        """``nbytes`` have been read into :meth:`buffers`.  Raises :class:`FramingError`."""
        if self._sink_left:
            taken = min(nbytes, self._sink_left)
            self._advance(taken)
            if self._sink_left:
                return
            self._finish_sink()
            if nbytes > taken and not self._owner.closed:
                self._parse(scratch, 0, nbytes - taken)
        elif self.unfinished:
            self.unfinished = False
            at, _, _, end = self._left
            self._parse(scratch, at, end + nbytes)
        else:
            kept, self._kept = len(self._kept), b""
            self._parse(scratch, 0, kept + nbytes)

    def settle(self, scratch: memoryview) -> None:
        """Rule 1: others use ``scratch`` from now on."""
        if not self.unfinished:
            return
        self.unfinished = False
        at, data_at, length, end = self._left
        if self._owner.closed:
            return
        if scratch[at] == Opcode.DATA_OUT and data_at <= end and length >= STREAMED_BYTES_MIN:
            self._open_sink(scratch, at, data_at, length, end)
        else:
            self._kept = bytes(scratch[at:end])

    def _parse(self, buf: memoryview, at: int, end: int) -> None:
        owner = self._owner
        handlers = self.handlers
        last = end - BHS_LENGTH
        while at <= last:
            first, word = _FIRST_AND_LENGTHS(buf, at)
            data_at = after = at + BHS_LENGTH
            length = 0
            if word:  # there is more than the header
                length = word & 0xFFFFFF
                if length > self.data_bytes_max:
                    raise FramingError(
                        f"data segment of {length} bytes, at most {self.data_bytes_max}"
                    )
                data_at += word >> 24 << 2
                after = data_at + (length + 3 & ~3)
            if self._digests:  # which most do without
                if self.header_digest:
                    data_at += DIGEST_LENGTH
                    after += DIGEST_LENGTH
                    if data_at <= end:
                        self._check_header(buf, at, data_at - DIGEST_LENGTH)
                if self.data_digest and length:
                    after += DIGEST_LENGTH
            if after > end:
                break
            if self._digests and not self._data_is_right(buf, data_at, length):
                owner.data_digest_error(buf, at)
            else:
                handlers[first & OPCODE_MASK](buf, at, data_at, length)
            if owner.closed:
                return
            at = after
        else:
            if at == end:
                return
            data_at = after = at + BHS_LENGTH
            length = 0
        self.unfinished = True
        self._left = (at, data_at, length, end)
        if after > len(buf):
            self.settle(buf)

    def _check_header(self, buf: memoryview, at: int, digest_at: int) -> None:
        if crc32c(buf[at : digest_at + DIGEST_LENGTH]) != _DIGEST_IS_RIGHT:
            raise FramingError("header digest error")

    def _data_is_right(self, buf: memoryview, data_at: int, length: int) -> bool:
        if not (self.data_digest and length):
            return True
        end = data_at + (length + 3 & ~3) + DIGEST_LENGTH
        return crc32c(buf[data_at:end]) == _DIGEST_IS_RIGHT

    # --- the payload of a Data-Out, straight to its place (rule 2) -------------------------------

    def _open_sink(self, buf: memoryview, at: int, data_at: int, length: int, end: int) -> None:
        views = self._owner.open_data_out(buf, at, length)
        self._wanted = views is not None
        self._sink = list(views) if views is not None else _dropped(length)
        self._trailer_bytes = -length & 3
        if self.data_digest:
            self._trailer_bytes += DIGEST_LENGTH
            self._header = bytes(buf[at : at + BHS_LENGTH])
            self._crc = 0
        if self._trailer_bytes:
            self._sink.append(memoryview(bytearray(self._trailer_bytes)))
        self._sink_left = length + self._trailer_bytes
        here = buf[data_at:end]
        while here:
            size = min(len(here), len(self._sink[0]))
            self._sink[0][:size] = here[:size]
            self._advance(size)
            here = here[size:]

    def _advance(self, nbytes: int) -> None:
        """The next ``nbytes`` are in place."""
        self._sink_left -= nbytes
        sink = self._sink
        while nbytes:
            view = sink[0]
            size = len(view)
            if nbytes < size:
                sink[0] = view[nbytes:]
                view = view[:nbytes]
                nbytes = 0
            else:
                nbytes -= size
                del sink[0]
            if self.data_digest:
                self._crc = crc32c(view, self._crc)

    def divert(self) -> None:
        """The buffers being filled are no longer ours: the rest of the payload is dropped."""
        if self._sink_left and self._wanted:
            payload = max(0, self._sink_left - self._trailer_bytes)
            trailer = self._sink[-1:] if self._trailer_bytes else []
            self._sink = [*_dropped(payload), *trailer]
            self._wanted = False

    def _finish_sink(self) -> None:
        if self._owner.closed:
            return
        if self.data_digest and self._crc != _DIGEST_IS_RIGHT:
            self._owner.data_digest_error(memoryview(self._header), 0)
        else:
            self._owner.close_data_out()


_waste = memoryview(bytearray(65536))


def _dropped(length: int) -> list[memoryview]:
    """Buffers for bytes that nobody wants; they overlap."""
    whole, rest = divmod(length, len(_waste))
    return [_waste] * whole + ([_waste[:rest]] if rest else [])
