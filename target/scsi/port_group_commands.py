"""REPORT TARGET PORT GROUPS (SPC-4 6.37) and SET TARGET PORT GROUPS (SPC-4 6.45)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, data_out, refuse
from target.scsi.command import Access, Command, Kind, usage
from target.scsi.port_groups import SUPPORTED, AccessState, PortGroup
from target.scsi.sense import (
    INVALID_FIELD_IN_PARAMETERS,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)
from target.scsi.settings import GroupAccess, Set, SettingsChange

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

ACTION: Final = 0x0A
_FORMAT: Final = 0xE0  # of byte 1: the parameter data format
_EXTENDED: Final = 1
_EXTENDED_HEADER: Final = bytes((0x10, 0, 0, 0))  # format 1; a transition takes no time
_GROUP: Final = struct.Struct(">BBHxBxBxxH")  # with one port

_HEADER_BYTES: Final = 4
_DESCRIPTOR: Final = struct.Struct(">BxH")
_STATE: Final = 0x0F


def commands(disk: DiskDevice) -> list[Command]:
    """Rows for a disk; what they are about is the logical unit that a request is for."""
    return [
        Command(
            "REPORT TARGET PORT GROUPS",
            Kind.INFORM,
            usage("a3 ea 00 00 00 00 ff ff ff ff 00 04"),
            data_in(6, 4),
            _report,
            service_action=ACTION,
            access=Access.ALWAYS,
        ),
        Command(
            "SET TARGET PORT GROUPS",
            Kind.CONTROL,
            usage("a4 0a 00 00 00 00 ff ff ff ff 00 04"),
            data_out(6, 4),
            lambda req: req.run(_set(req)) if req.length else req.complete(),
            service_action=ACTION,
        ),
    ]


def _report(req: SCSIRequest) -> None:
    form = (req.cdb[1] & _FORMAT) >> 5
    if form > _EXTENDED:
        raise refuse(1, 7)
    body = b"".join(map(_encode, req.attachment.unit.port_groups()))
    if form == _EXTENDED:
        body = _EXTENDED_HEADER + body
    req.respond(len(body).to_bytes(4, "big") + body, req.length)


def _encode(group: PortGroup) -> bytes:
    return _GROUP.pack(group.state, SUPPORTED, group.number, group.status, 1, group.number)


async def _set(req: SCSIRequest) -> None:
    """All or nothing: every descriptor is checked before one is believed."""
    data = await req.receive_parameters()
    if len(data) != req.length or len(data) < _HEADER_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if (len(data) - _HEADER_BYTES) % _DESCRIPTOR.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    known = {group.number for group in req.attachment.unit.port_groups()}
    wanted: dict[int, GroupAccess] = {}
    for at in range(_HEADER_BYTES, len(data), _DESCRIPTOR.size):
        state, number = _DESCRIPTOR.unpack_from(data, at)
        state &= _STATE
        if state > AccessState.UNAVAILABLE:
            raise _wrong(at, 3)
        if number not in known or number in wanted:
            raise _wrong(at + 2)
        wanted[number] = GroupAccess(number, AccessState(state))
    await Set(req.attachment, SettingsChange(groups=tuple(wanted.values())))
    req.complete()


def _wrong(byte: int, bit: int | None = None) -> CheckCondition:
    return CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(byte, bit, in_cdb=False))
