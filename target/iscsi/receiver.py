"""Bytes to PDUs: lengths, padding and digests; nothing of what a PDU means.

Theory of operation.  The caller asks ``buffers(scratch)`` where the next bytes belong, reads into
them and says ``received(n)``.  Every whole PDU in the scratch buffer is handed to the handler of
its opcode, ``handler(buf, at, data_at, data_length)``, where ``buf`` is valid during the call only:
one pass over all that has arrived.

1. What is left of a PDU at the end is kept and put in front of the next bytes.
2. The payload of a Data-Out that is not whole yet goes straight to where it belongs: its owner
   names the buffers (``open_data_out``) and the next read fills them.  Nothing is allocated by a
   length from the wire.
3. A length past what was declared, or a bad header digest, ends the connection: what follows cannot
   be trusted to be a header.
4. A bad data digest is the owner's to answer, whatever becomes of the payload; the stream itself
   stays in step (RFC 7143 7.8).
5. Once the owner is closed, nothing is handed to it any more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from crc32c import crc32c

from target.iscsi.constants import BHS_LENGTH, DIGEST_LENGTH, OPCODE_MASK, Opcode

Handler = Callable[[memoryview, int, int, int], None]
SCRATCH_BYTES: Final = 1 << 19  # one for all connections of an event loop
STREAMED_BYTES_MIN: Final = 16384  # a Data-Out below this is kept whole rather than streamed
_LENGTHS = struct.Struct(">I").unpack_from
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
        self.header_digest = False
        self.data_digest = False
        self._kept = b""  # rule 1
        self._sink: list[memoryview] = []  # rule 2: still to be filled, padding and digest last
        self._sink_left = 0
        self._trailer_bytes = 0  # of the padding and the digest
        self._wanted = False  # whether the payload has an owner
        self._header = b""  # of the Data-Out, in case that its digest is wrong
        self._crc = 0  # of what has been filled

    def buffers(self, scratch: memoryview) -> list[memoryview]:
        """Where the next bytes belong."""
        if self._sink_left:
            # What is dropped goes to the same place again and again: one piece at a time.
            return [*self._sink, scratch] if self._wanted else self._sink[:1]
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
                self._parse(scratch, nbytes - taken)
        else:
            self._parse(scratch, nbytes + len(self._kept))

    def _parse(self, buf: memoryview, end: int) -> None:
        owner = self._owner
        handlers = self.handlers
        at = 0
        while end - at >= BHS_LENGTH:
            word = _LENGTHS(buf, at + 4)[0]
            length = word & 0xFFFFFF
            data_at = at + BHS_LENGTH
            if word > 0xFFFFFF:
                data_at += word >> 24 << 2
            if self.header_digest:
                data_at += DIGEST_LENGTH
            after = data_at + (length + 3 & ~3)
            if self.data_digest and length:
                after += DIGEST_LENGTH
            if length > self.data_bytes_max:
                raise FramingError(f"data segment of {length} bytes, at most {self.data_bytes_max}")
            if after > end and end < data_at:
                break
            if self.header_digest:
                self._check_header(buf, at, data_at - DIGEST_LENGTH)
            if after > end:
                if buf[at] != Opcode.DATA_OUT or length < STREAMED_BYTES_MIN:
                    break
                self._open_sink(buf, at, data_at, length, end)
                at = end
                break
            if self.data_digest and length and not self._data_is_right(buf, data_at, length):
                owner.data_digest_error(buf, at)
            else:
                handlers[buf[at] & OPCODE_MASK](buf, at, data_at, length)
            if owner.closed:
                break
            at = after
        self._kept = bytes(buf[at:end]) if at < end and not owner.closed else b""

    def _check_header(self, buf: memoryview, at: int, digest_at: int) -> None:
        if crc32c(buf[at : digest_at + DIGEST_LENGTH]) != _DIGEST_IS_RIGHT:
            raise FramingError("header digest error")

    @staticmethod
    def _data_is_right(buf: memoryview, data_at: int, length: int) -> bool:
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


def scatter(views: Sequence[memoryview], data: memoryview) -> None:
    """Copy ``data`` to the front of a scatter list that is at least as long."""
    at, end = 0, len(data)
    for view in views:
        size = len(view)
        if end - at < size:
            view[: end - at] = data[at:end]
            return
        view[:] = data[at : at + size]
        at += size
        if at == end:
            return
