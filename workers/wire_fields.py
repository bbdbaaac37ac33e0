"""Parts of workers/wire.py: a message's payload put in and taken out, its records checked.

The payload does not go through the protobuf runtime, which would copy it twice each way.

The fields of a message may come in any order (protobuf encoding), so a message without its payload
and then the payload field is the whole message.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from crc32c import crc32c
from google.protobuf.message import DecodeError, Message

from workers.limits import MESSAGE_BYTES_MAX, MESSAGE_IOS_MAX, PAYLOAD_BYTES_MAX

M = TypeVar("M", bound=Message)

# The runtime may copy the payload of what is no larger: looking for it costs more.
SMALL_BYTES: Final = 16 << 10
# Ours have 8 at most.  Other encoders may write each element of an array as a field of its own.
_FIELDS_MAX: Final = 16 * MESSAGE_IOS_MAX

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10
NO_PAYLOAD: Final = memoryview(b"")


Parts = Sequence[bytes | memoryview]
"""A message, in pieces that follow one another: so its payload need not be copied to be sent."""


class WireFault(enum.Enum):
    """In what way a message is wrong."""

    MALFORMED = "malformed"  # not what worker.proto says
    TOO_LARGE = "too large"  # past a bound of workers/limits.py
    CORRUPT = "corrupt"  # the CRC32C of a payload differs: sent again it may be right
    OUT_OF_CREDIT = "out of credit"  # more payload than the peer has been given credit for


class WireError(Exception):
    """A message that breaks the protocol; the stream it came on cannot go on."""

    def __init__(self, fault: WireFault, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault


def with_payload(head: Message, field: int, views: Sequence[memoryview]) -> Parts:
    """``head`` with ``views``, one after the other, as its bytes field ``field``."""
    data: bytes = head.SerializeToString()
    nbytes = sum(map(len, views))
    if not nbytes:
        return (data,)
    return (data + _varint(field << 3 | _BYTES) + _varint(nbytes), *views)


def _split_payload(data: bytes, field: int) -> tuple[bytes, memoryview]:
    """The message without its bytes field ``field``, and that field's bytes where they lie.

    Raises ValueError where ``data`` is no protobuf message, has more than ``_FIELDS_MAX``
    fields (each costs time) or has the field twice.
    """
    at, end = 0, len(data)
    rest, payload = data, NO_PAYLOAD
    found = False
    for _ in range(_FIELDS_MAX):
        if at == end:
            return rest, payload
        start = at
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _read_varint(data, at)
            if size > end - at:
                raise ValueError("a field ends beyond the message")
            if tag >> 3 == field:
                if found:
                    raise ValueError("two payloads")
                found = True
                payload = memoryview(data)[at : at + size]
                rest = data[:start] + data[at + size :]
            at += size
        elif kind == _VARINT:
            _, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field ends beyond the message")
    if at == end:
        return rest, payload
    raise ValueError(f"more than {_FIELDS_MAX} fields")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for index, byte in enumerate(data[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number that does not end")


def parse(data: bytes, kind: type[M], field: int) -> tuple[M, memoryview]:
    """A message, and its payload: where it lies, if it is of any size."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise WireError(WireFault.TOO_LARGE, f"a message of {len(data)} bytes")
    try:
        if len(data) <= SMALL_BYTES:
            whole: Any = kind.FromString(data)
            return whole, memoryview(whole.payload)
        rest, payload = _split_payload(data, field)
        head = kind.FromString(rest)
    except (ValueError, DecodeError) as exc:
        raise WireError(WireFault.MALFORMED, str(exc)) from exc
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise WireError(WireFault.TOO_LARGE, f"a payload of {len(payload)} bytes")
    return head, payload


def check_records(records: bytes, size: int) -> None:
    """Whole records of ``size`` bytes, not too many of them."""
    if len(records) % size:
        raise WireError(WireFault.MALFORMED, f"{len(records)} bytes are no records of {size}")
    if len(records) > size * MESSAGE_IOS_MAX:
        raise WireError(WireFault.TOO_LARGE, f"{len(records) // size} records in a message")


def cut_payload(payload: memoryview, at: int, nbytes: int, crc: int | None) -> memoryview:
    """The ``nbytes`` of one I/O, which begin there, checked against ``crc`` if there is one."""
    view = payload[at : at + nbytes]
    if len(view) != nbytes:
        raise WireError(WireFault.MALFORMED, f"the payload ends {nbytes - len(view)} bytes early")
    if crc is not None and crc32c(view) != crc:
        raise WireError(WireFault.CORRUPT, "CRC32C of a payload differs")
    return view


def check_all_used(payload: memoryview, at: int) -> None:
    """Nothing is left of it."""
    if at != len(payload):
        raise WireError(WireFault.MALFORMED, f"{len(payload) - at} bytes of payload are nobody's")


def checksum_of(views: Sequence[memoryview]) -> int:
    """CRC32C of a scatter list."""
    crc = 0
    for view in views:
        crc = crc32c(view, crc)
    return crc
