"""REPORT LUNS (SPC-4 6.33), which every LUN answers, whether there is a logical unit or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, refuse
from target.scsi.command import Access, Command, Kind, usage
from target.scsi.lun import encode_lun
from target.scsi.sense import UA_LUNS_CHANGED

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest

ALLOCATION_BYTES_MIN: Final = 16
_WELL_KNOWN_ONLY: Final = 0x01
_REPORTS: Final = frozenset({0x00, _WELL_KNOWN_ONLY, 0x02})

_parse_allocation = data_in(6, 4)


def report_luns() -> Command:
    """The row for REPORT LUNS."""
    return Command(
        "REPORT LUNS",
        Kind.INFORM,
        usage("a0 00 ff 00 00 00 ff ff ff ff 00 04"),
        _parse,
        _start,
        through_unit_attention=True,
        access=Access.ALWAYS,
    )


def _parse(req: SCSIRequest) -> None:
    _parse_allocation(req)
    if req.cdb[2] not in _REPORTS:
        raise refuse(2)
    if req.length < ALLOCATION_BYTES_MIN:
        raise refuse(6)


def _start(req: SCSIRequest) -> None:
    nexus = req.attachment.nexus
    # There are no well known logical units.
    attachments = nexus.each_attachment()
    numbers = sorted(attachment.number for attachment in attachments)
    if req.cdb[2] == _WELL_KNOWN_ONLY:
        numbers = []
    luns = b"".join(encode_lun(number) for number in numbers)
    if not req.respond(len(luns).to_bytes(4, "big") + bytes(4) + luns, req.length):
        return
    for attachment in attachments:  # LUICLR of VPD page 86h
        if UA_LUNS_CHANGED in attachment.unit_attentions:
            attachment.unit_attentions.remove(UA_LUNS_CHANGED)
