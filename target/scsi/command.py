"""The opcode table's rows: what a command is, how its CDB is parsed, what runs it.

A device's table maps an opcode, or an opcode with its service action, to a :class:`Command`.  The
CDB is decoded by ``parse`` once; below the SCSI layer nobody sees an opcode.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from target.scsi.sense import INVALID_FIELD_IN_CDB, INVALID_OPCODE, CheckCondition, Sense
from target.scsi.stats import class_of

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest


class Kind(enum.Enum):
    """How a command relates to others: for reservations and for the task tracker."""

    INFORM = "inform"  # touches no medium; allowed through reservations where SPC says so
    READ = "read"
    WRITE = "write"
    EXCLUSIVE = "exclusive"  # reads, then writes what depends on it: atomic over all nodes
    CONTROL = "control"  # changes the state of the logical unit


CHANGING: Final = (Kind.WRITE, Kind.EXCLUSIVE)  # blocks


class Access(enum.Enum):
    """What a reservation of another nexus makes of a command (SPC-4 table 65, SBC-3 table 13).

    Of the combinations that the tables could have, these are the ones they do have.
    """

    ALWAYS = "always"  # no reservation stands in its way
    READY = "ready"  # that of SPC-2 does (TEST UNIT READY)
    READ = "read"  # exclusive access does, write exclusive does not
    WRITE = "write"  # every one does
    RESERVATION = "reservation"  # changes reservations: target/scsi/reservations has its own rules


Step = Callable[["SCSIRequest"], None]


_ACCESS_OF_KIND: Final = {
    Kind.INFORM: Access.READ,  # the stricter of what SPC-4 has for them: others are stated
    Kind.READ: Access.READ,
    Kind.WRITE: Access.WRITE,
    Kind.EXCLUSIVE: Access.WRITE,
    Kind.CONTROL: Access.WRITE,
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a device.

    ``usage`` is the CDB usage data of REPORT SUPPORTED OPERATION CODES (SPC-4 6.35): for each CDB
    byte the mask of bits that are evaluated; its length is the CDB's.  ``parse`` sets direction,
    length, LBA and block count or raises ``CheckCondition``; ``start`` runs the command.
    ``through_unit_attention``: runs although a unit attention is pending (SAM-5 5.14).
    ``access``: what reservations make of it; where it is not stated, that of its kind.
    ``opclass``: what it is counted as.
    """

    name: str
    kind: Kind
    usage: bytes
    parse: Step
    start: Step
    service_action: int | None = None
    through_unit_attention: bool = False
    access: Access | None = None
    opclass: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opclass", class_of(self.opcode))

    @property
    def needs(self) -> Access:
        """What a reservation must leave to others for this to run."""
        return self.access if self.access is not None else _ACCESS_OF_KIND[self.kind]

    @property
    def opcode(self) -> int:
        """Operation code."""
        return self.usage[0]


def usage(text: str) -> bytes:
    """CDB usage data from hexadecimal text; the first byte is the opcode itself."""
    return bytes.fromhex(text)


def check_control(req: SCSIRequest) -> None:
    """The CONTROL byte: NACA asks for an ACA condition, which is not supported (SAM-5 5.2)."""
    last = len(req.command.usage) - 1
    if len(req.cdb) > last and req.cdb[last] & 0x04:
        raise CheckCondition(INVALID_FIELD_IN_CDB.field(last, 2))


class CommandTable:
    """Opcode → command; for opcodes with service actions, (opcode, service action) → command."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self.all = sorted(commands, key=lambda c: (c.opcode, c.service_action or 0))
        self.plain: dict[int, Command] = {}  # those without service actions, by opcode
        self._actions: dict[int, dict[int, Command]] = {}
        for command in self.all:
            if command.service_action is None:
                assert command.opcode not in self.plain, f"two commands for {command.opcode:#x}"
                self.plain[command.opcode] = command
            else:
                actions = self._actions.setdefault(command.opcode, {})
                assert command.service_action not in actions
                actions[command.service_action] = command

    def find(self, cdb: bytes) -> Command:
        """The row for a CDB; an unknown one gets a row that answers so."""
        command = self.plain.get(cdb[0])
        if command is not None:
            return command
        actions = self._actions.get(cdb[0])
        if actions is None:
            return UNKNOWN_OPCODE
        # Variable-length CDBs have their service action in bytes 8-9, others in byte 1.
        action = int.from_bytes(cdb[8:10], "big") if cdb[0] == 0x7F else cdb[1] & 0x1F
        return actions.get(action, UNKNOWN_SERVICE_ACTION)

    def by_opcode(self, opcode: int) -> list[Command]:
        """All rows with this opcode."""
        return [c for c in self.all if c.opcode == opcode]


def answer(name: str, sense: Sense, *, through_unit_attention: bool = False) -> Command:
    """A row that answers every CDB with this sense."""

    def parse(req: SCSIRequest) -> None:
        raise CheckCondition(sense)

    def start(req: SCSIRequest) -> None:
        req.fail(sense)

    return Command(
        name,
        Kind.INFORM,
        bytes(6),
        parse,
        start,
        through_unit_attention=through_unit_attention,
        access=Access.ALWAYS,
    )


UNKNOWN_OPCODE = answer("UNKNOWN OPCODE", INVALID_OPCODE)
UNKNOWN_SERVICE_ACTION = answer("UNKNOWN SERVICE ACTION", INVALID_FIELD_IN_CDB.field(1, 4))
