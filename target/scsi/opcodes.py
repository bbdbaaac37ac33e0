"""What the device can do: REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) and REPORT SUPPORTED TASK
MANAGEMENT FUNCTIONS (SPC-4 6.36).

Both tell what is there: the first reads the device's own opcode table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, refuse
from target.scsi.command import Command, Kind, usage

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

MAINTENANCE_IN: Final = 0xA3
_RCTD: Final = 0x80
_OPTION: Final = 0x07

# All commands: descriptor flags
_SERVACTV: Final = 0x01
_CTDP_ALL: Final = 0x02
# One command: byte 1
_CTDP_ONE: Final = 0x80
_NOT_SUPPORTED: Final = 0x01
_SUPPORTED: Final = 0x03

_TIMEOUTS: Final = struct.pack(">HxBII", 10, 0, 0, 0)
"""Command timeouts descriptor; zero says that no time is stated (SPC-4 6.35.4)."""

_REPD: Final = 0x80
# ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET: what
# target/iscsi/management.py carries out.
_TASK_MANAGEMENT: Final = 0x80 | 0x40 | 0x10 | 0x08 | 0x02


def commands(disk: DiskDevice) -> list[Command]:
    """Rows of the opcode table."""

    def report_opcodes(req: SCSIRequest) -> None:
        cdb = req.cdb
        timeouts = bool(cdb[2] & _RCTD)
        option = cdb[2] & _OPTION
        opcode, action = cdb[3], int.from_bytes(cdb[4:6], "big")
        if option == 0:
            descriptors = b"".join(_descriptor(c, timeouts) for c in disk.table.all)
            data = len(descriptors).to_bytes(4, "big") + descriptors
        elif option <= 3:
            command = _asked_for(disk.table.by_opcode(opcode), option, action)
            data = _one_command(command, timeouts)
        else:
            raise refuse(2, 2)
        req.respond(data, req.length)

    return [
        Command(
            "REPORT SUPPORTED OPERATION CODES",
            Kind.INFORM,
            usage("a3 0c 87 ff ff ff ff ff ff ff 00 04"),
            data_in(6, 4),
            report_opcodes,
            service_action=0x0C,
        ),
        Command(
            "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            Kind.INFORM,
            usage("a3 0d 80 00 00 00 ff ff ff ff 00 04"),
            data_in(6, 4),
            _report_task_management,
            service_action=0x0D,
        ),
    ]


def _descriptor(command: Command, timeouts: bool) -> bytes:
    """SPC-4 table 260."""
    action = command.service_action
    flags = (_SERVACTV if action is not None else 0) | (_CTDP_ALL if timeouts else 0)
    head = struct.pack(">BxHxBH", command.opcode, action or 0, flags, len(command.usage))
    return head + (_TIMEOUTS if timeouts else b"")


def _asked_for(rows: list[Command], option: int, action: int) -> Command | None:
    """The row that reporting options 1 to 3 name; None if there is no such command.

    Option 1 is for opcodes without service actions, option 2 for those with, and it is an error to
    mix them up; option 3 takes both, with service action 0 where there are none.
    """
    if not rows:
        return None
    with_actions = rows[0].service_action is not None
    if (option == 1 and with_actions) or (option == 2 and not with_actions):
        raise refuse(2, 2)
    if not with_actions:
        return rows[0] if option == 1 or action == 0 else None
    return next((row for row in rows if row.service_action == action), None)


def _one_command(command: Command | None, timeouts: bool) -> bytes:
    """SPC-4 table 262.  Of a command that is not supported nothing more is said."""
    if command is None:
        return bytes((0, _NOT_SUPPORTED, 0, 0))
    support = _SUPPORTED | (_CTDP_ONE if timeouts else 0)
    head = struct.pack(">xBH", support, len(command.usage))
    return head + command.usage + (_TIMEOUTS if timeouts else b"")


def _report_task_management(req: SCSIRequest) -> None:
    """REPD asks for the extended format, whose timeouts are marked as not stated."""
    if req.cdb[2] & _REPD:
        data = bytes((_TASK_MANAGEMENT, 0, 0, 0x0C)) + bytes(12)
    else:
        data = bytes((_TASK_MANAGEMENT, 0, 0, 0))
    req.respond(data, req.length)
