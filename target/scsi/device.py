"""What the bus asks of a device: a table of commands and a reset; and the device that is not there.

A device answers for a LUN.  ``AbsentDevice`` answers for every LUN that names no logical unit, so
that nothing below or above has an "if" for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in
from target.scsi.command import Access, Command, CommandTable, Kind, answer, usage
from target.scsi.identity import VENDOR
from target.scsi.report_luns import report_luns
from target.scsi.sense import INVALID_FIELD_IN_CDB, LUN_NOT_SUPPORTED, CheckCondition

if TYPE_CHECKING:
    from target.scsi.nexus import Nexus
    from target.scsi.request import SCSIRequest
    from target.scsi.settings import SettingsState


class Device:
    """Anything that can stand at a LUN."""

    table: CommandTable
    name: str = ""  # of the volume that it shows
    descriptor_sense: bool = False  # D_SENSE of the control mode page (SPC-4 7.5.10)

    def set(self, state: SettingsState) -> bool:
        """What MODE SELECT and START STOP UNIT have set is in force from now on.

        Whether mode parameters are other than before.
        """
        return False

    def when_set(self, done: Callable[[], None]) -> None:
        """``done()`` when what began before the last ``set``, and should follow it, has ended."""
        done()

    def reset(self) -> None:
        """A logical unit reset condition (SAM-5 6.3.3)."""

    def nexus_lost(self, nexus: Nexus) -> None:
        """An initiator port is gone: forget what was kept for it."""

    def preempted(self, nexus: Nexus) -> None:
        """PREEMPT AND ABORT has ended what an initiator port was doing."""


NOT_CAPABLE: Final = 0x7F
"""Peripheral qualifier 3, type 1Fh: no device can be at this LUN (SPC-4 6.6.2)."""

_ABSENT: Final = answer("LUN NOT SUPPORTED", LUN_NOT_SUPPORTED)


class _AbsentTable(CommandTable):
    def find(self, cdb: bytes) -> Command:
        return self.plain.get(cdb[0], _ABSENT)


class AbsentDevice(Device):
    """A LUN that names no logical unit (SPC-4 4.5.3, SAM-5 5.13)."""

    def __init__(self) -> None:
        self.table = _AbsentTable(
            [
                Command(
                    "INQUIRY",
                    Kind.INFORM,
                    usage("12 03 ff ff ff 04"),
                    data_in(3, 2),
                    _inquiry,
                    through_unit_attention=True,
                    access=Access.ALWAYS,
                ),
                Command(
                    "REQUEST SENSE",
                    Kind.INFORM,
                    usage("03 01 00 00 ff 04"),
                    data_in(4, 1),
                    _request_sense,
                    through_unit_attention=True,
                    access=Access.ALWAYS,
                ),
                report_luns(),
            ]
        )


def _inquiry(req: SCSIRequest) -> None:
    if req.cdb[1] & 2:  # CMDDT, of SPC-2
        raise CheckCondition(INVALID_FIELD_IN_CDB.field(1, 1))
    if req.cdb[2]:
        raise CheckCondition(INVALID_FIELD_IN_CDB.field(2))
    if req.cdb[1] & 1:
        req.respond(bytes((NOT_CAPABLE, 0x00, 0, 1, 0x00)), req.length)  # VPD page 00h, alone
        return
    data = bytearray(36)
    data[:5] = NOT_CAPABLE, 0, 6, 0x12, len(data) - 5
    data[8:16] = VENDOR
    data[16:36] = b" " * 20
    req.respond(bytes(data), req.length)


def _request_sense(req: SCSIRequest) -> None:
    """The sense is data and the status GOOD (SPC-4 6.39)."""
    req.respond(LUN_NOT_SUPPORTED.encode(bool(req.cdb[1] & 1)), req.length)
