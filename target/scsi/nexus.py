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

    def __init__(self, nexus: Nexus, unit: LogicalUnit, read_only: bool = False) -> None:
        self.nexus = nexus
        self.unit = unit
        self.read_only = read_only  # for this initiator
        self.unit_attentions: list[Sense] = []
        self.forbidden: frozenset[Access] = NOTHING  # by reservations

    def attend(self, sense: Sense) -> None:
        """Establish a unit attention; the same one is not queued twice."""
        queue = self.unit_attentions
        if sense not in queue and len(queue) < UNIT_ATTENTIONS_MAX:
            queue.append(sense)


class Nexus:
    """One I_T nexus: an initiator port logged in to a target port.

    ``name`` is what remains of it when it is gone, and says the same on every node; ``life`` tells
    it from others that have had, or will have, this name.
    """

    def __init__(self, bus: SCSIBus, initiator: str, isid: bytes, rights: Rights = ALL) -> None:
        self.bus = bus
        self.rights = rights
        self.initiator = initiator
        self.isid = isid
        self.name = NexusName(initiator.lower(), isid, bus.port)
        self.life = next(bus.lives)
        self.attachments: dict[bytes, Attachment] = {}
        self.absent = Attachment(self, bus.absent)
        for unit in bus.units.values():
            self._attach(unit)

    def _attach(self, unit: LogicalUnit) -> None:
        """Show the unit to the initiator, if it may see it."""
        may_write = self.rights.may_write(unit.device.name)
        if may_write is None:
            return
        attachment = Attachment(self, unit, not may_write)
        attachment.attend(UA_POWER_ON)
        attachment.forbidden = unit.reservations.forbidden(self)
        unit.attachments.append(attachment)
        for spelling in lun_spellings(unit.number):
            self.attachments[spelling] = attachment
        unit.rules_changed()

    def set_rights(self, rights: Rights, done: Callable[[], None]) -> None:
        """From now on the initiator sees what ``rights`` give; ``done()`` when nothing runs that
        they do not.
        """
        self.rights = rights
        attached = {attachment.unit: attachment for attachment in self.each_attachment()}
        changed = False
        one_done = countdown(len(self.bus.units) + 1, done)
        for unit in self.bus.units.values():
            attachment, may_write = attached.get(unit), rights.may_write(unit.device.name)
            if attachment is None or may_write is None:
                changed = changed or (attachment is None) != (may_write is None)
                if attachment is None:
                    self._attach(unit)
                    one_done()
                else:
                    self._detach(attachment, one_done)
                continue
            attachment.read_only = not may_write
            unit.rules_changed()
            tasks = [] if may_write else [r for r in unit.tasks_of(attachment) if r.changes]
            unit.end(tasks, WRITE_PROTECTED, one_done)
        if changed:
            for attachment in self.each_attachment():
                attachment.attend(UA_LUNS_CHANGED)
        one_done()

    def _detach(self, attachment: Attachment, done: Callable[[], None]) -> None:
        """The unit is not there for this initiator any more, and nothing of it is reserved."""
        unit = attachment.unit
        unit.attachments.remove(attachment)
        for spelling in lun_spellings(unit.number):
            del self.attachments[spelling]
        unit.device.nexus_lost(self)
        unit.rules_changed()
        lost = NexusLost(self.name, self.life)
        tasks = unit.tasks_of(attachment)
        unit.end(tasks, LUN_NOT_SUPPORTED, lambda: unit.reservations.lose(lost, done))

    def each_attachment(self) -> list[Attachment]:
        """Every attachment once."""
        return list(dict.fromkeys(self.attachments.values()))
