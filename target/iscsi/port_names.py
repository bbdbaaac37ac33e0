"""The names of a target port in VPD page 83h (SPC-4 7.8.6, RFC 7143 4.4.2).

An iSCSI target port is called ``<target name>,t,0x<portal group tag>``; the target device has the
target name itself.
"""

from __future__ import annotations

import struct
from typing import Final

from target.scsi.identity import designator

PROTOCOL_ISCSI: Final = 5
_BINARY, _UTF8 = 1, 3
_RELATIVE_TARGET_PORT, _TARGET_PORT_GROUP, _SCSI_NAME = 4, 5, 8
_PORT, _DEVICE = 1, 2  # ASSOCIATION


def port_designators(target_name: str, portal_group_tag: int, relative_port: int) -> list[bytes]:
    """Relative port identifier, port group, and the SCSI names of port and device."""

    def number(kind: int, value: int) -> bytes:
        body = struct.pack(">xxH", value)
        return designator(kind, _BINARY, body, association=_PORT, protocol=PROTOCOL_ISCSI)

    def name(association: int, text: str) -> bytes:
        # SPC-4 7.8.6.11: null-terminated, padded to a multiple of four.
        body = text.encode() + b"\0"
        body += bytes(-len(body) % 4)
        return designator(_SCSI_NAME, _UTF8, body, association=association, protocol=PROTOCOL_ISCSI)

    return [
        number(_RELATIVE_TARGET_PORT, relative_port),
        number(_TARGET_PORT_GROUP, portal_group_tag),
        name(_PORT, f"{target_name},t,{portal_group_tag:#06x}"),
        name(_DEVICE, target_name),
    ]
