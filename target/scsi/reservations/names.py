"""I_T nexuses by name, and the TransportIDs of iSCSI initiator ports (SPC-4 7.6.4.6)."""

from __future__ import annotations

import re
import struct
from typing import Final

import msgspec

PROTOCOL_ISCSI: Final = 5
FORMAT_DEVICE: Final = 0x00  # the name alone: all ports of that initiator
FORMAT_PORT: Final = 0x40  # the name and the ISID
NAME_BYTES_MAX: Final = 223  # RFC 7143 4.2.7.1
TRANSPORT_ID_BYTES_MIN: Final = 24
_HEAD: Final = struct.Struct(">BxH")
_PORT_NAME: Final = re.compile(rb"(?P<name>[^,\0]+),i,0x(?P<isid>[0-9a-fA-F]{12})")


class NexusName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An I_T nexus; initiator names are in lower case, as RFC 3722 has them."""

    initiator: str
    isid: bytes  # 6 bytes
    port: int  # relative target port identifier


class TransportId(msgspec.Struct, frozen=True):
    """An initiator port; all ports of the initiator where ``isid`` is None."""

    initiator: str
    isid: bytes | None


def encode_transport_id(nexus: NexusName) -> bytes:
    """The TransportID of a nexus's initiator port."""
    body = f"{nexus.initiator},i,0x{nexus.isid.hex()}".encode() + b"\0"
    body += bytes(-len(body) % 4)
    body = body.ljust(TRANSPORT_ID_BYTES_MIN - _HEAD.size, b"\0")
    return _HEAD.pack(FORMAT_PORT | PROTOCOL_ISCSI, len(body)) + body


def decode_transport_id(data: bytes) -> tuple[TransportId, int]:
    """The first TransportID of ``data`` and how many bytes it has.  Raises ValueError."""
    if len(data) < TRANSPORT_ID_BYTES_MIN:
        raise ValueError("shorter than a TransportID")
    kind, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if end < TRANSPORT_ID_BYTES_MIN or length % 4 or end > len(data):
        raise ValueError("wrong additional length")
    text, _, padding = data[_HEAD.size : end].partition(b"\0")
    if any(padding):
        raise ValueError("something behind the name")
    isid: bytes | None = None
    if kind == FORMAT_PORT | PROTOCOL_ISCSI:
        match = _PORT_NAME.fullmatch(text)
        if match is None:
            raise ValueError("not the name of an initiator port")
        text, isid = match["name"], bytes.fromhex(match["isid"].decode())
    elif kind != FORMAT_DEVICE | PROTOCOL_ISCSI:
        raise ValueError("not a TransportID of iSCSI")
    if not 0 < len(text) <= NAME_BYTES_MAX or b"," in text:
        raise ValueError("not an iSCSI name")
    return TransportId(text.decode().lower(), isid), end
