"""The bus: the logical units of a node's targets and their I_T nexuses (SAM-5).

    Bus ── LogicalUnit (device, task set) ── Attachment (one I_T_L nexus) ── Nexus (one I_T nexus)

Each unit is in the LUN map of one target; a nexus sees what its target has, its rights allow and
its own LUN map says.  A request finds its Attachment by LUN in its nexus.  An unknown LUN leads to
the attachment of an absent unit, whose device answers as SPC says: nothing below has an "if" for
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from target.scsi.access_list import ALL, Rights
from target.scsi.countdown import countdown
from target.scsi.device import AbsentDevice, Device
from target.scsi.hba_port import HbaPort
from target.scsi.limits import LUNS_MAX
from target.scsi.logical_unit import LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.nexus import Nexus, nobody_waits
from target.scsi.request import SCSIRequest
from target.scsi.reservations.exclusive import NexusLost
from target.scsi.sense import (
    LUN_NOT_SUPPORTED,
    UA_ACCESS_STATE_CHANGED,
    UA_BUS_RESET,
    UA_LUNS_CHANGED,
)
from target.scsi.watcher import Watcher


class SCSIBus:
    """The logical units, as one port of each target shows them.

    ``port`` is its relative target port identifier; ``live_ports`` asks for those of nodes that are
    there, ``gone_ports`` for those of nodes that have just gone, ``all_ports`` for those of nodes
    that there ever were.
    """

    def __init__(self, port: int = 1) -> None:
        self.port = port
        self.lives = itertools.count(1)
        self.watcher: Watcher | None = None
        self.live_ports: Callable[[], Iterable[int]] = tuple
        self.gone_ports: Callable[[], Iterable[int]] = tuple
        self.all_ports: Callable[[], Iterable[int]] = tuple
        # Another node does one, of a target: by a name, and once for each unit.
        self.on_cold_reset: Callable[[str, str], None] = lambda target, name: None
        self.units: dict[LunAddress, LogicalUnit] = {}
        self.absent = LogicalUnit(self, LunAddress("", 0), AbsentDevice())
        self.nexuses: list[Nexus] = []

    @property
    def ports(self) -> tuple[int, ...]:
        """The relative identifiers of all target ports, also of those of nodes that are away."""
        return tuple(sorted({self.port, *self.all_ports()}))

    def ports_changed(self) -> None:
        """Nodes have come or gone: their groups have another state."""
        for unit in self.units.values():
            unit.attend_all(UA_ACCESS_STATE_CHANGED)

    def units_of(self, target: str) -> list[LogicalUnit]:
        """The LUN map of a target, by LUN."""
        found = [unit for address, unit in self.units.items() if address.target == target]
        return sorted(found, key=lambda unit: unit.number)

    def add(self, number: int, device: Device, target: str = "") -> LogicalUnit:
        """Put a device at a LUN of ``target``."""
        address = self._free(LunAddress(target, number))
        unit = self.units[address] = LogicalUnit(self, address, device)
        self._remap(target)
        return unit

    def move(self, unit: LogicalUnit, address: LunAddress, done: Callable[[], None]) -> None:
        """Put a unit at another LUN, perhaps of another target; ``done()`` when nothing runs of
        whoever does not see it any more.
        """
        old, unit.address = unit.address, self._free(address)
        self.units[address] = self.units.pop(old)
        self._remap(old.target, address.target, done=done)

    def remove(self, address: LunAddress, done: Callable[[], None]) -> None:
        """Take a unit away.  Its commands end as those do that come too late; then ``done()``."""
        unit = self.units.pop(address)
        for attachment in unit.attachments:
            attachment.nexus.forget(attachment)
            for other in attachment.nexus.each_attachment():
                other.attend(UA_LUNS_CHANGED)
        unit.attachments.clear()
        unit.end_all(LUN_NOT_SUPPORTED, done)
        self._remap(address.target)  # something else may be seen there now

    def _free(self, address: LunAddress) -> LunAddress:
        if not 0 <= address.number < LUNS_MAX or address in self.units:
            raise ValueError(f"LUN {address} is taken or out of range")
        return address

    def _remap(self, *targets: str, done: Callable[[], None] = nobody_waits) -> None:
        nexuses = [nexus for nexus in self.nexuses if nexus.target in targets]
        one_done = countdown(len(nexuses) + 1, done)
        for nexus in nexuses:
            nexus.remap(one_done)
        one_done()

    def connect(self, initiator: str, isid: bytes, rights: Rights = ALL, target: str = "") -> Nexus:
        """A new I_T nexus; every logical unit that it sees has a unit attention for it."""
        nexus = Nexus(self, initiator, isid, rights, target)
        self.nexuses.append(nexus)
        return nexus

    def let_go(self, nexus: Nexus, done: Callable[[], None]) -> None:
        """End what a nexus that is to go has reserved (SPC-2); ``done()`` when that is over.

        None of its commands may run: the next holder must not meet them.
        """
        attachments = nexus.each_attachment()
        one_done = countdown(len(attachments) + 1, done)
        for attachment in attachments:
            attachment.unit.reservations.lose(NexusLost(nexus.name, nexus.life), one_done)
        one_done()

    def disconnect(self, nexus: Nexus, done: Callable[[], None]) -> None:
        """I_T nexus loss: its commands end, ``done()`` when they have (SAM-5 6.3.4)."""
        attachments = nexus.each_attachment()
        one_done = countdown(len(attachments) + 1, lambda: self.let_go(nexus, done))
        for attachment in attachments:
            unit = attachment.unit
            unit.attachments.remove(attachment)
            unit.device.nexus_lost(nexus)
            unit.abort(unit.tasks_of(attachment), one_done)
        self.absent.abort(self.absent.tasks_of(nexus.absent), one_done)
        self.nexuses.remove(nexus)

    def request(
        self,
        hba: HbaPort,
        nexus: Nexus,
        lun: bytes,
        tag: int,
        cdb: bytes,
        attribute: int,
        now: float,
    ) -> SCSIRequest:
        """Parse a command.  It never fails: what is wrong is answered when the request runs."""
        attachment = nexus.attachments.get(lun, nexus.absent)
        req = SCSIRequest()
        req.parse(hba, attachment, lun, tag, cdb, attribute, now)
        return req

    def reset(self, target: str, done: Callable[[bool], None], cold: str = "") -> None:
        """TARGET WARM RESET, or a ``cold`` one of that name: reset every unit of it.

        ``done`` as of ``LogicalUnit.reset``.
        """
        sure = True
        units = self.units_of(target)
        one_done = countdown(len(units) + 1, lambda: done(sure))

        def reset(unit_sure: bool) -> None:
            nonlocal sure
            sure = sure and unit_sure
            one_done()

        for unit in units:
            unit.reset(reset, UA_BUS_RESET, cold)
        one_done()
