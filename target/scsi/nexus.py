"""I_T nexuses and I_T_L nexuses (SAM-5 4.7): what is kept for one initiator port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from target.scsi.command import Access
from target.scsi.limits import UNIT_ATTENTIONS_MAX
from target.scsi.lun import lun_spellings
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import NOTHING
from target.scsi.sense import (
    UA_POWER_ON,
    Sense,
)

if TYPE_CHECKING:
    from target.scsi.bus import SCSIBus
    from target.scsi.logical_unit import LogicalUnit


class Attachment:
    """One I_T_L nexus: what a logical unit keeps for one initiator port."""

    def __init__(self, nexus: Nexus, unit: LogicalUnit) -> None:
        self.nexus = nexus
        self.unit = unit
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

    def __init__(self, bus: SCSIBus, initiator: str, isid: bytes) -> None:
        self.bus = bus
        self.initiator = initiator
        self.isid = isid
        self.name = NexusName(initiator.lower(), isid, bus.port)
        self.life = next(bus.lives)
        self.attachments: dict[bytes, Attachment] = {}
        self.absent = Attachment(self, bus.absent)
        for unit in bus.units.values():
            self._attach(unit)

    def _attach(self, unit: LogicalUnit) -> None:
        attachment = Attachment(self, unit)
        attachment.attend(UA_POWER_ON)
        attachment.forbidden = unit.reservations.forbidden(self)
        unit.attachments.append(attachment)
        for spelling in lun_spellings(unit.number):
            self.attachments[spelling] = attachment

    def each_attachment(self) -> list[Attachment]:
        """Every attachment once."""
        return list(dict.fromkeys(self.attachments.values()))
