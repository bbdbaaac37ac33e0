"""I_T nexuses and I_T_L nexuses (SAM-5 4.7): what is kept for one initiator port."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from target.scsi.access_list import ALL, Rights
from target.scsi.command import Access
from target.scsi.countdown import countdown
from target.scsi.limits import UNIT_ATTENTIONS_MAX
from target.scsi.lun import lun_spellings
from target.scsi.reservations.exclusive import NexusLost
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import NOTHING
from target.scsi.sense import (
    LUN_NOT_SUPPORTED,
    UA_LUNS_CHANGED,
    UA_POWER_ON,
    WRITE_PROTECTED,
    Sense,
)

if TYPE_CHECKING:
    from target.scsi.bus import SCSIBus
    from target.scsi.logical_unit import LogicalUnit


class Attachment:
    """One I_T_L nexus: what a logical unit keeps for one initiator port."""

    def __init__(
        self, nexus: Nexus, unit: LogicalUnit, number: int, read_only: bool = False
    ) -> None:
        self.nexus = nexus
        self.unit = unit
        self.number = number  # the LUN, as this initiator knows it
        self.read_only = read_only  # for this initiator
        self.unit_attentions: list[Sense] = []
        self.forbidden: frozenset[Access] = NOTHING  # by reservations

    def attend(self, sense: Sense) -> None:
        """Establish a unit attention; the same one is not queued twice."""
        queue = self.unit_attentions
        if sense not in queue and len(queue) < UNIT_ATTENTIONS_MAX:
            queue.append(sense)


class Nexus:
    """One I_T nexus: an initiator port logged in to a port of ``target``.

    ``name`` is what remains of it when it is gone, and says the same on every node; ``life`` tells
    it from others that have had, or will have, this name.
    """

    def __init__(
        self,
        bus: SCSIBus,
        initiator: str,
        isid: bytes,
        rights: Rights = ALL,
        target: str = "",
    ) -> None:
        self.bus = bus
        self.rights = rights
        self.target = target
        self.initiator = initiator
        self.isid = isid
        self.name = NexusName(initiator.lower(), isid, bus.port)
        self.life = next(bus.lives)
        self.attachments: dict[bytes, Attachment] = {}
        self.absent = Attachment(self, bus.absent, bus.absent.number)
        self.remap(nobody_waits)

    def _lun_map(self) -> dict[int, tuple[LogicalUnit, bool]]:
        """By LUN, the units of the target that the initiator may see, and whether it may write.

        Who is given a LUN of its own has it; another that stands there is not seen.
        """
        found: dict[int, tuple[LogicalUnit, bool]] = {}
        others: list[tuple[LogicalUnit, bool]] = []
        for unit in self.bus.units_of(self.target):
            grant = self.rights.grant(unit.device.name)
            if grant is None:
                continue
            if grant.lun is None:
                others.append((unit, grant.may_write))
            else:
                found.setdefault(grant.lun, (unit, grant.may_write))
        for unit, may_write in others:
            found.setdefault(unit.number, (unit, may_write))
        return found

    def set_rights(self, rights: Rights, done: Callable[[], None]) -> None:
        """From now on the initiator sees what ``rights`` give; ``done()`` when nothing runs that
        they do not.
        """
        self.rights = rights
        self.remap(done)

    def remap(self, done: Callable[[], None]) -> None:
        """Show the initiator what it may see now; ``done()`` when nothing runs that may not.

        If there are others than before, it hears of it through those that it knew (SPC-4 6.33.1).
        """
        lun_map = self._lun_map()
        attached = {attachment.number: attachment for attachment in self.each_attachment()}
        kept: list[Attachment] = []
        one_done = countdown(len(attached) + 1, done)
        for number, attachment in attached.items():
            unit, may_write = lun_map.get(number, (None, False))
            if unit is not attachment.unit:
                self._detach(attachment, one_done)
                continue
            kept.append(attachment)
            del lun_map[number]
            if attachment.read_only == may_write:
                attachment.read_only = not may_write
                unit.rules_changed()
            tasks = [] if may_write else [r for r in unit.tasks_of(attachment) if r.changes]
            unit.end(tasks, WRITE_PROTECTED, one_done)
        if lun_map or len(kept) != len(attached):
            for attachment in kept:
                attachment.attend(UA_LUNS_CHANGED)
        for number, (unit, may_write) in lun_map.items():
            self._attach(unit, number, may_write)
        one_done()

    def _attach(self, unit: LogicalUnit, number: int, may_write: bool) -> None:
        """Show the unit to the initiator."""
        attachment = Attachment(self, unit, number, not may_write)
        attachment.attend(UA_POWER_ON)
        attachment.forbidden = unit.reservations.forbidden(self)
        unit.attachments.append(attachment)
        for spelling in lun_spellings(number):
            self.attachments[spelling] = attachment
        unit.rules_changed()

    def _detach(self, attachment: Attachment, done: Callable[[], None]) -> None:
        """The unit is not there for this initiator any more, and nothing of it is reserved."""
        unit = attachment.unit
        self.forget(attachment)
        unit.attachments.remove(attachment)
        unit.device.nexus_lost(self)
        unit.rules_changed()
        lost = NexusLost(self.name, self.life)
        tasks = unit.tasks_of(attachment)
        unit.end(tasks, LUN_NOT_SUPPORTED, lambda: unit.reservations.lose(lost, done))

    def forget(self, attachment: Attachment) -> None:
        """What names its LUN finds nothing from now on."""
        for spelling in lun_spellings(attachment.number):
            del self.attachments[spelling]

    def each_attachment(self) -> list[Attachment]:
        """Every attachment once."""
        return list(dict.fromkeys(self.attachments.values()))


def nobody_waits() -> None:
    """For what has no end that matters."""
