"""What all PDUs share: the four parts of a PDU and the checks that tie them together.

A PDU is a frozen dataclass.  ``data`` is the data segment without its padding; it is kept as it was
handed in (a memoryview stays one) and never copied here.
"""

from __future__ import annotations

from typing import ClassVar, Self

from target.iscsi.constants import BHS_LENGTH, Opcode, RejectReason
from target.iscsi.errors import PduError
from target.iscsi.limits import DATA_SEGMENT_BYTES_FIELD_MAX

Buffer = bytes | memoryview


class Pdu:
    """Base of every PDU of RFC 7143 chapter 11."""

    __slots__ = ()
    OPCODE: ClassVar[Opcode]

    @property
    def data(self) -> Buffer:
        """The data segment; the PDUs that carry one have a field of this name."""
        return b""

    def encode_header(self) -> bytes:
        """Basic header segment and additional ones, DataSegmentLength as ``data`` is long."""
        raise NotImplementedError

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        """Read a PDU whose segments match its header (see :func:`check_segments`)."""
        raise NotImplementedError


def lengths(ahs: bytes, data: Buffer) -> int:
    """Bytes 4 to 7 of a header: TotalAHSLength in words, DataSegmentLength in bytes."""
    size = len(data)
    if size > DATA_SEGMENT_BYTES_FIELD_MAX:
        raise ValueError(f"a data segment of {size} bytes does not fit its length field")
    return len(ahs) << 22 | size


def segment_lengths(bhs: Buffer) -> tuple[int, int]:
    """AHS bytes and data segment bytes (without padding) that follow this BHS."""
    return bhs[4] * 4, int.from_bytes(bhs[5:8])


def check_segments(bhs: Buffer, ahs: Buffer, data: Buffer, *, ahs_allowed: bool) -> None:
    """Refuse segments that are not what the header announced."""
    if len(bhs) != BHS_LENGTH:
        raise PduError(RejectReason.PROTOCOL_ERROR, f"a header of {len(bhs)} bytes")
    ahs_bytes, data_bytes = segment_lengths(bhs)
    if len(ahs) != ahs_bytes or len(data) != data_bytes:
        raise PduError(
            RejectReason.PROTOCOL_ERROR,
            f"AHS {len(ahs)} and data {len(data)} bytes where {ahs_bytes} and {data_bytes} "
            "were announced",
        )
    if ahs_bytes and not ahs_allowed:
        # RFC 7143 11.2.1.5: TotalAHSLength is 0 in every PDU that has no AHS of its own.
        raise PduError(RejectReason.INVALID_PDU_FIELD, "an AHS where none is defined")
