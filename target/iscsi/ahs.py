"""Additional Header Segments (RFC 7143 11.2.2): the rest of a long CDB, and the read length of a
bidirectional command.

AHSLength counts neither AHSLength nor AHSType nor padding, but does count the AHS-specific byte 3.
"""

from __future__ import annotations

import struct

from target.iscsi.constants import AhsType, RejectReason
from target.iscsi.errors import PduError
from target.iscsi.limits import AHS_BYTES_MAX, CDB_BYTES_MAX

Buffer = bytes | memoryview

_HEAD = struct.Struct(">HBx")
_BHS_CDB_BYTES = 16
_EXTENSION_BYTES_MAX = CDB_BYTES_MAX - _BHS_CDB_BYTES


def decode(ahs: Buffer) -> tuple[bytes, int | None]:
    """The CDB bytes past the 16th, and the bidirectional read length if there is one."""
    extension = b""
    read_length: int | None = None
    at, end = 0, len(ahs)
    while at < end:
        if end - at < _HEAD.size:
            raise _invalid("AHS cut off")
        length, kind = _HEAD.unpack_from(ahs, at)
        after = at + 3 + length
        if length < 1 or after > end:
            raise _invalid(f"AHSLength {length} past the end of the header")
        body = bytes(ahs[at + _HEAD.size : after])
        if kind == AhsType.EXTENDED_CDB and not extension and body:
            if len(body) > _EXTENSION_BYTES_MAX:
                raise _invalid(f"CDB longer than {CDB_BYTES_MAX} bytes")
            extension = body
        elif kind == AhsType.BIDIRECTIONAL_READ_LENGTH and read_length is None and len(body) == 4:
            read_length = int.from_bytes(body)
        else:
            raise _invalid(f"AHS type {kind} is unknown, repeated or of a wrong length {length}")
        at = (after + 3) & ~3
    return extension, read_length


def encode(extension: bytes, read_length: int | None) -> bytes:
    """The reverse of :func:`decode`."""
    parts = b""
    if extension:
        parts += _HEAD.pack(len(extension) + 1, AhsType.EXTENDED_CDB) + extension
        parts += bytes(-len(parts) % 4)
    if read_length is not None:
        parts += _HEAD.pack(5, AhsType.BIDIRECTIONAL_READ_LENGTH) + read_length.to_bytes(4)
    assert len(parts) <= AHS_BYTES_MAX
    return parts


def _invalid(text: str) -> PduError:
    return PduError(RejectReason.INVALID_PDU_FIELD, text)
