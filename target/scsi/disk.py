"""``DiskDevice``: a disk (SBC-3 direct access block device) on a volume.

The commands come from the modules of ``MODULES``, each of which makes rows of the opcode table for
a disk; the table is also what REPORT SUPPORTED OPERATION CODES tells.  The state that they share is
here: whether the unit is started, what its mode pages say, and what follows from both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from target.block.volume import Volume
from target.block.wait import Turn
from target.scsi import (
    cache,
    capacity,
    inquiry,
    logpages,
    modepages,
    opcodes,
    port_group_commands,
    primary,
    provisioning,
    readwrite,
    verify,
)
from target.scsi.command import CommandTable
from target.scsi.device import Device
from target.scsi.identity import Identity
from target.scsi.limits import COMPARE_AND_WRITE_BLOCKS_MAX, WINDOW_BYTES
from target.scsi.modes import Modes
from target.scsi.reservations import commands as reservation_commands
from target.scsi.sense import (
    NOT_READY_STOPPED,
    SOFTWARE_WRITE_PROTECTED,
    WRITE_PROTECTED,
    CheckCondition,
    Sense,
)
from target.scsi.settings import SettingsState

if TYPE_CHECKING:
    from target.scsi.nexus import Nexus

MODULES: Final = (
    primary,
    inquiry,
    modepages,
    logpages,
    opcodes,
    port_group_commands,
    capacity,
    readwrite,
    cache,
    verify,
    provisioning,
    reservation_commands,
)


class DiskDevice(Device):
    """A disk on ``volume``.

    ``port_designators`` are further designators of VPD page 83h (target port, port group), which
    the transport knows.  ``defer`` has a function called at the next turn of the event loop; long
    work that moves no data gives way there.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        identity: Identity | None = None,
        port_designators: Sequence[bytes] = (),
        defer: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.volume = volume
        self.identity = identity if identity is not None else Identity.of(volume.uuid)
        self.port_designators = list(port_designators)
        self.block_bytes = volume.block_bytes
        self.blocks = volume.size // volume.block_bytes
        if not self.blocks:
            raise ValueError(f"volume {volume.name} is smaller than one block")
        self.compare_and_write_blocks_max = min(
            COMPARE_AND_WRITE_BLOCKS_MAX, WINDOW_BYTES // 2 // self.block_bytes
        )
        self.name = volume.name
        self.modes = Modes(write_cache=volume.write_cache)
        self.stopped = False
        self.removal_prevented_by: set[Nexus] = set()  # PREVENT ALLOW MEDIUM REMOVAL
        # What stands in the way of every read and write; None as a rule.
        self.unreadable: Sense | None = None
        self.unwritable: Sense | None = None
        self._defer = defer
        self._state_changed()
        self.table = CommandTable(c for module in MODULES for c in module.commands(self))

    def grown(self) -> None:
        """The volume is larger than it was; the initiators are told by the bus."""
        self.blocks = self.volume.size // self.block_bytes

    def set(self, state: SettingsState) -> bool:
        changed = self.modes.set({(page.code, page.subpage): page.data for page in state.pages})
        self.stopped = state.stopped
        self._state_changed()
        return changed

    def when_set(self, done: Callable[[], None]) -> None:
        """Whoever switches the write cache off flushes next: what is being written is part of that.

        A command that waits for its data, perhaps for ever, goes on without a cache when it has it.
        """
        if self.volume.write_cache:
            done()
        else:
            self.volume.when_written(done)

    def _state_changed(self) -> None:
        """Mode parameters or the started state are new: draw the consequences."""
        self.descriptor_sense = self.modes.descriptor_sense
        self.volume.write_cache = self.modes.write_cache
        self.unreadable = NOT_READY_STOPPED if self.stopped else None
        if self.stopped:
            self.unwritable = NOT_READY_STOPPED
        elif self.volume.read_only:
            self.unwritable = WRITE_PROTECTED
        elif self.modes.software_write_protect:
            self.unwritable = SOFTWARE_WRITE_PROTECTED
        else:
            self.unwritable = None

    @property
    def write_protected(self) -> bool:
        """The WP bit of MODE SENSE."""
        return self.volume.read_only or self.modes.software_write_protect

    def check_readable(self) -> None:
        """Raises what stands in the way of reading the medium."""
        if self.unreadable is not None:
            raise CheckCondition(self.unreadable)

    def check_writable(self) -> None:
        """Raises what stands in the way of changing the medium."""
        if self.unwritable is not None:
            raise CheckCondition(self.unwritable)

    async def give_way(self) -> None:
        """Let others run before a long command goes on."""
        if self._defer is not None:
            await Turn(self._defer)

    def reset(self) -> None:
        """Mode parameters and the started state have their defaults already (settings.py)."""
        self.removal_prevented_by.clear()

    def nexus_lost(self, nexus: Nexus) -> None:
        self.removal_prevented_by.discard(nexus)

    def preempted(self, nexus: Nexus) -> None:
        """As if it had allowed the removal of the medium (SPC-4 6.17)."""
        self.removal_prevented_by.discard(nexus)
