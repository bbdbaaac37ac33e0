"""CDBs and parameter lists of reservations, as initiators make them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from target.scsi.reservations.state import Type

RESERVE6, RELEASE6 = bytes((0x16, 0, 0, 0, 0, 0)), bytes((0x17, 0, 0, 0, 0, 0))
RESERVE10, RELEASE10 = bytes((0x56,)) + bytes(9), bytes((0x57,)) + bytes(9)

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE, MOVE = range(8)
READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = range(4)
APTPL, ALL_TG_PT, SPEC_I_PT = 0x01, 0x04, 0x08
UNREG = 0x02


def pr_in(action: int, length: int = 0xFFFF) -> bytes:
    """PERSISTENT RESERVE IN."""
    return struct.pack(">BB5xHx", 0x5E, action, length)


def pr_out(action: int, kind: int = 0, length: int = 24) -> bytes:
    """PERSISTENT RESERVE OUT; ``kind`` is byte 2, scope and type."""
    return struct.pack(">BBB2xIx", 0x5F, action, kind, length)


def keys(existing: int = 0, new: int = 0, flags: int = 0) -> bytes:
    """The parameter list of all but REGISTER AND MOVE."""
    return struct.pack(">QQ4xB3x", existing, new, flags)


def with_transport_ids(existing: int, new: int, ids: Sequence[bytes], flags: int = 0) -> bytes:
    """That of REGISTER with SPEC_I_PT."""
    all_ids = b"".join(ids)
    return keys(existing, new, flags | SPEC_I_PT) + len(all_ids).to_bytes(4, "big") + all_ids


def move(existing: int, new: int, to: bytes, *, flags: int = 0, port: int = 1) -> bytes:
    """That of REGISTER AND MOVE; ``to`` is a TransportID."""
    return struct.pack(">QQxBHI", existing, new, flags, port, len(to)) + to


def transport_id(name: str, isid: bytes | None = None) -> bytes:
    """Of an iSCSI initiator port, or of all ports of an initiator."""
    text = name if isid is None else f"{name},i,0x{isid.hex()}"
    body = text.encode() + b"\0"
    body = (body + bytes(-len(body) % 4)).ljust(20, b"\0")
    return struct.pack(">BxH", 0x05 if isid is None else 0x45, len(body)) + body


def read_keys_data(generation: int, *registered: int) -> bytes:
    """What READ KEYS has to answer."""
    body = b"".join(key.to_bytes(8, "big") for key in registered)
    return struct.pack(">II", generation, len(body)) + body


def reservation_data(generation: int, key: int | None = None, kind: Type | None = None) -> bytes:
    """What READ RESERVATION has to answer."""
    if kind is None:
        return struct.pack(">II", generation, 0)
    return struct.pack(">IIQ4xBB2x", generation, 16, key, 0, kind)
