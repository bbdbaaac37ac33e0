"""What the bus asks of a device: a table of commands and a reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from target.scsi import sense as s
from target.scsi.command import Command, CommandTable, Kind

if TYPE_CHECKING:
    from target.scsi.bus import Nexus
    from target.scsi.request import SCSIRequest


class Device:
    """Anything that can stand at a LUN."""

    table: CommandTable

    def reset(self) -> None:
        """A logical unit reset condition (SAM-5 6.3.3)."""

    def nexus_lost(self, nexus: Nexus) -> None:
        """An initiator port is gone: forget what was kept for it."""
