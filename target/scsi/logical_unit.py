"""A logical unit with its task set and task management (SAM-5 clauses 7 and 8).

Rules of the task set (SAM-5 clause 8):

1. SIMPLE runs at once unless an ORDERED or HEAD OF QUEUE command is running or anything is queued.
2. ORDERED runs when all commands before it have ended, and holds back all after it.
3. HEAD OF QUEUE runs at once, and holds back all that is not running yet.  ACA is refused: NormACA
   is 0.
4. Where other nodes serve the unit too, a command whose turn it is passes the unit's gate first; it
   counts as running from then on.
5. The state of the port's group, and then reservations, are asked last, when a command is about to
   run: what runs already goes on.
6. A unit attention comes before all of these: it is the answer to the next command that comes.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from target.scsi.command import Access
from target.scsi.countdown import countdown
from target.scsi.device import Device
from target.scsi.gate import Gate
from target.scsi.lun import LunAddress
from target.scsi.nexus import Attachment, nobody_waits
from target.scsi.port_groups import AccessState, PortGroup, port_groups
from target.scsi.port_groups import hindrance as hindrance_of
from target.scsi.request import BLOCKED, COMPLETED, SCSIRequest
from target.scsi.reservations.exclusive import UnitReset
from target.scsi.reservations.keeper import Reservations
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import attend
from target.scsi.sense import (
    INVALID_MESSAGE,
    IO_PROCESS_TERMINATED,
    UA_COMMANDS_CLEARED,
    UA_DEVICE_RESET,
    UA_REGISTRATIONS_PREEMPTED,
    WRITE_PROTECTED,
    Sense,
    SenseKey,
    Status,
)
from target.scsi.settings import Settings, SettingsChanged
from target.scsi.stats import UnitStats
from target.scsi.unit_events import (
    ClearTaskSet,
    EndTask,
    ReservationsChanged,
    ResetUnit,
    UnitEvent,
    ends_commands,
)

if TYPE_CHECKING:
    from target.scsi.bus import SCSIBus


class Attribute(enum.IntEnum):
    """Task attributes, as iSCSI codes them (RFC 7143 11.3.1); UNTAGGED is treated as SIMPLE."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


SIMPLE: Final = int(Attribute.SIMPLE)  # a plain integer: it is compared for every command


class _Wait:
    """Someone who waits until some commands are gone."""

    def __init__(self, commands: set[SCSIRequest], done: Callable[[], None]) -> None:
        self.commands = commands
        self.done = done


class LogicalUnit:
    """A device at a LUN, with its task set."""

    def __init__(self, bus: SCSIBus, address: LunAddress, device: Device) -> None:
        self.address = address
        self.device = device
        self._bus = bus
        self.commands = device.table.plain  # where most are found, and sooner
        self.command_for = device.table.find
        self.stats = UnitStats()
        self.attachments: list[Attachment] = []
        self.active: dict[SCSIRequest, None] = {}  # running and not ended, oldest first
        self.blocked: deque[SCSIRequest] = deque()
        self._gated = False  # rule 1, 2 or 3 stands in the way of a SIMPLE command
        self._ordered: SCSIRequest | None = None
        self._heads: set[SCSIRequest] = set()  # running with HEAD OF QUEUE
        self._waits: list[_Wait] = []
        self.reservations = Reservations(self)
        self.settings = Settings(self)
        self._gate: Gate | None = None
        self._access: dict[int, AccessState] = {}  # of groups, as it was set
        self._state = AccessState.OPTIMIZED  # of the group that our port is in
        self._straight = True  # neither rule 4 nor rule 5 concerns any command

    @property
    def number(self) -> int:
        """Its LUN in the map of its target; an initiator may know it as another."""
        return self.address.number

    @property
    def gate(self) -> Gate | None:
        """Rule 4; set before the first command."""
        return self._gate

    @gate.setter
    def gate(self, gate: Gate | None) -> None:
        self._gate = gate
        self.rules_changed()

    def rules_changed(self) -> None:
        """What rules 4 and 5 ask about is new."""
        self._straight = (
            self._gate is None
            and not self.reservations.any
            and self._state <= AccessState.NON_OPTIMIZED
            and not any(attachment.read_only for attachment in self.attachments)
        )

    def port_groups(self) -> list[PortGroup]:
        """Those of all nodes, as they are for this unit."""
        bus = self._bus
        return port_groups({bus.port, *bus.live_ports()}, bus.gone_ports(), self._access)

    def set_access(self, access: dict[int, AccessState]) -> bool:
        """What SET TARGET PORT GROUPS has set; whether a state is other than before."""
        before = [group.state for group in self.port_groups()]
        self._access = access
        self._state = access.get(self._bus.port, AccessState.OPTIMIZED)
        self.rules_changed()
        return before != [group.state for group in self.port_groups()]

    def submit(self, req: SCSIRequest) -> None:
        """Run a parsed request, now or when its task attribute allows."""
        pending = req.attachment.unit_attentions
        if pending and not req.command.through_unit_attention:
            req.rejected = pending.pop(0)  # rule 6: what waited could be aborted, and not say it
            req.start()
        elif self._gated or req.attribute > SIMPLE:
            self._submit_attributed(req)
        elif self._straight:
            req.start()
            if req.state < COMPLETED:
                self._watch(req)
        else:
            self._start(req)

    def _submit_attributed(self, req: SCSIRequest) -> None:
        if req.attribute == Attribute.ACA:
            req.rejected = INVALID_MESSAGE
        if req.attribute in (Attribute.ACA, Attribute.HEAD_OF_QUEUE):
            self._start_head(req)
        elif req.attribute == Attribute.ORDERED and not self.active and not self.blocked:
            self._start_ordered(req)
            self._unblock()  # what came while it ended
        else:
            req.state = BLOCKED
            if req.early_transient:
                req.hba.keep_early(req)
            req.on_end = self._ended
            self.blocked.append(req)
            self._gated = True

    def _start_head(self, req: SCSIRequest) -> None:
        self._heads.add(req)
        self._gated = True
        self._start(req)
        if req.state >= COMPLETED:
            self._heads.discard(req)
            self._unblock()

    def _start_ordered(self, req: SCSIRequest) -> None:
        self._ordered = req
        self._gated = True
        self._start(req)
        if req.state >= COMPLETED and self._ordered is req:
            self._ordered = None
            self._gated = bool(self.blocked or self._heads)

    def _start(self, req: SCSIRequest) -> None:
        # It counts from here on: buffers that it gives back may let another one end meanwhile, and
        # then nothing may start that has to wait for this one.
        self.active[req] = None
        req.on_end = None  # ends inside start: nobody has to be told
        if self._gate is None or self._gate.enter(req):
            self._run(req)
        else:
            req.state = BLOCKED
            if req.early_transient:
                req.hba.keep_early(req)
        if req.state < COMPLETED:
            req.on_end = self._ended
        else:
            del self.active[req]
            if self._gate is not None:
                self._gate.left(req)
            if self._waits:  # someone may wait for it since it was blocked
                self._tell_waiters(req)

    def _run(self, req: SCSIRequest) -> None:
        """Rule 5."""
        hindrance = hindrance_of(self._state, req.command)
        if hindrance is not None:
            req.fail(hindrance)
        elif req.attachment.read_only and req.changes:
            req.fail(WRITE_PROTECTED)
        elif req.command.needs in req.attachment.forbidden and not req.harmless:
            req.complete(Status.RESERVATION_CONFLICT)
        else:
            req.start()

    def admit(self, req: SCSIRequest) -> None:
        """The gate lets a command go on."""
        if req.state == BLOCKED:
            self._run(req)

    def turn_away(self, req: SCSIRequest) -> None:
        """The gate does not let a command go on: its initiator tries again."""
        if req.state == BLOCKED:
            req.complete(Status.BUSY)

    def _watch(self, req: SCSIRequest) -> None:
        self.active[req] = None
        req.on_end = self._ended

    def _ended(self, req: SCSIRequest) -> None:
        if self.active.pop(req, self) is self:
            self.blocked.remove(req)  # aborted before its turn
        elif self._gate is not None:
            self._gate.left(req)
        if self._gated:
            self._heads.discard(req)
            if self._ordered is req:
                self._ordered = None
            self._unblock()
        if self._waits:
            self._tell_waiters(req)

    def _unblock(self) -> None:
        while self.blocked and self._ordered is None and not self._heads:
            head = self.blocked[0]
            if head.attribute == Attribute.ORDERED:
                if self.active:
                    break
                self.blocked.popleft()
                self._start_ordered(head)
            else:
                self.blocked.popleft()
                self._start(head)
        self._gated = bool(self.blocked or self._heads) or self._ordered is not None

    # --- task management (SAM-5 clause 7) -------------------------------------------------------

    def find(self, attachment: Attachment, tag: int) -> SCSIRequest | None:
        """The unfinished command of a nexus with this tag."""
        for req in (*self.active, *self.blocked):
            if req.tag == tag and req.attachment is attachment:
                return req
        return None

    def tasks_of(self, attachment: Attachment | None = None) -> list[SCSIRequest]:
        """The unfinished commands, of one nexus or of all."""
        tasks = (*self.active, *self.blocked)
        return [r for r in tasks if attachment is None or r.attachment is attachment]

    def abort(self, victims: Iterable[SCSIRequest], done: Callable[[], None]) -> None:
        """Abort commands of this unit; ``done()`` once every one of them is gone."""
        waited = self._when_gone(victims, done)
        # Those that wait for their turn go first, the last of them before the others, or the end of
        # one would start the next.
        for req in (*reversed(self.blocked), *self.active):
            if req in waited:
                req.abort()

    def end_all(self, sense: Sense, done: Callable[[], None]) -> None:
        """End every command with ``sense``; ``done()`` once every one of them is gone."""
        self.end(self.tasks_of(), sense, done)

    def end(self, commands: Iterable[SCSIRequest], sense: Sense, done: Callable[[], None]) -> None:
        """End commands with ``sense``; ``done()`` once every one of them is gone."""
        victims = self._when_gone(commands, done)
        for req in (*reversed(self.blocked), *self.active):
            if req in victims:
                req.interrupt(sense)

    def _when_gone(
        self, commands: Iterable[SCSIRequest], done: Callable[[], None]
    ) -> set[SCSIRequest]:
        """Those of them that have not ended; ``done()`` when they have."""
        waited = {req for req in commands if req.state < COMPLETED}
        if waited:
            self._waits.append(_Wait(waited, done))
        else:
            done()
        return waited

    def _tell_waiters(self, req: SCSIRequest) -> None:
        for wait in list(self._waits):
            if req not in wait.commands:
                continue  # perhaps over since: what is done may end other commands
            wait.commands.discard(req)
            if not wait.commands:
                self._waits.remove(wait)
                wait.done()

    def end_task(self, event: EndTask) -> bool:
        """End a command because the operator says so; False: it is not here."""
        for attachment in self.attachments:
            if attachment.nexus.name == event.nexus:
                req = self.find(attachment, event.tag)
                if req is not None:
                    req.interrupt(IO_PROCESS_TERMINATED)
                    return True
        return False

    def clear_task_set(self, asker: Attachment, done: Callable[[bool], None]) -> None:
        """CLEAR TASK SET: the commands of all nexuses; the others learn of it.

        ``done(False)``: it is not known whether other nodes have done it.
        """
        here = self._everywhere(ClearTaskSet(), done)
        self._clear(asker, here)

    def _clear(self, asker: Attachment | None, done: Callable[[], None]) -> None:
        victims = self.tasks_of()
        for other in {r.attachment for r in victims} - {asker}:
            other.attend(UA_COMMANDS_CLEARED)
        self.abort(victims, done)

    def reset(
        self, done: Callable[[bool], None], attention: Sense = UA_DEVICE_RESET, cold: str = ""
    ) -> None:
        """LOGICAL UNIT RESET: everything ends, and every nexus learns of it (SAM-5 6.3.3).

        A ``cold`` one, of the whole target, ends sessions on other nodes as well.
        ``done(False)``: it is not known whether other nodes have done it.
        """

        def set_back(failure: Exception | None) -> None:
            def let_go(sure: bool) -> None:
                sure = sure and failure is None
                self.reservations.lose(UnitReset(), lambda: done(sure))

            event = ResetUnit(asc=attention.asc, ascq=attention.ascq, cold=cold)
            here = self._everywhere(event, let_go)
            self._reset(attention, here)

        # A change of settings before this one may wait for what a store is writing, which is not
        # wanted any more: it ends sooner.
        if self.settings.busy:
            self.abort(self.tasks_of(), nobody_waits)
        self.settings.reset(set_back)

    def _reset(self, attention: Sense, done: Callable[[], None]) -> None:
        self.device.reset()
        for attachment in self.attachments:
            attachment.attend(attention)
        self.abort(self.tasks_of(), done)

    # --- other nodes ------------------------------------------------------------------------------

    def reserve_everywhere(
        self,
        event: ReservationsChanged,
        lost: frozenset[NexusName],
        asker: SCSIRequest | None,
        here: Callable[[], None],
        done: Callable[[bool], None],
    ) -> None:
        """Reservations are new: have it done here and on other nodes what that means.

        ``asker`` waits for that, and goes on whatever it means to its nexus.
        ``here()`` when it has been done here, before ``done``.
        ``lost``: those of this node that nobody tells of (reservations/owed.py, rule 3).
        ``done(False)``: it is not known whether other nodes have done it.
        """
        half_done = self._everywhere(event, done)

        def done_here() -> None:
            here()
            half_done()

        self._reserve(event, done_here, lost, asker)

    def _reserve(
        self,
        event: ReservationsChanged,
        done: Callable[[], None],
        lost: frozenset[NexusName] = frozenset(),
        asker: SCSIRequest | None = None,
    ) -> None:
        newly_lost = self.reservations.learn(event.version, event.state)
        lost |= newly_lost if event.found else set()
        attentions = (*event.attentions, *attend(lost, UA_REGISTRATIONS_PREEMPTED))
        for attachment in self.attachments:
            for it in attentions:
                if it.nexus == attachment.nexus.name:
                    attachment.attend(Sense(SenseKey.UNIT_ATTENTION, it.asc, it.ascq))
            if attachment.nexus.name in lost.union(event.aborted):
                self.device.preempted(attachment.nexus)
        others = [r for r in self.tasks_of() if r is not asker]
        victims = [r for r in others if r.attachment.nexus.name in event.aborted]
        # What such a nexus changes of reservations was decided on what is kept, or will be; it may
        # be what waits for this.
        victims += [
            req
            for req in others
            if req.attachment.nexus.name in lost and req.command.access is not Access.RESERVATION
        ]
        for attachment in {r.attachment for r in victims}:
            attachment.attend(UA_COMMANDS_CLEARED)
        one_done = countdown(2, done)
        self.reservations.keep_here(one_done)
        self.abort(victims, one_done)

    def set_everywhere(
        self, event: SettingsChanged, asker: Attachment | None, done: Callable[[bool], None]
    ) -> None:
        """Settings are new, here and on other nodes; ``asker`` knows.

        ``done(False)``: it is not known whether other nodes have done it.
        """
        here = self._everywhere(event, done)
        self._set(event, asker, here)

    def _set(
        self, event: SettingsChanged, asker: Attachment | None, done: Callable[[], None]
    ) -> None:
        for attention in self.settings.learn(event.version, event.state):
            if not event.quiet:
                self.attend_all(attention, but=asker)
        if event.quiet:  # a reset, which ends what began before
            done()
        else:
            self.device.when_set(done)

    def _everywhere(self, event: UnitEvent, done: Callable[[bool], None]) -> Callable[[], None]:
        """Have other nodes do ``event``; call what is returned when it has been done here."""
        all_sure = True

        def both_done() -> None:
            done(all_sure)

        one_done = countdown(2, both_done)

        def half_done(sure: bool) -> None:
            nonlocal all_sure
            all_sure = all_sure and sure
            one_done()

        if self._gate is None:
            half_done(True)
            return one_done
        self._gate.tell(event, half_done)
        return partial(self._gate.quiet, half_done) if ends_commands(event) else one_done

    def quiet(self, done: Callable[[bool], None]) -> None:
        """``done(True)`` when nothing that was aborted may still happen; False: nobody is sure.

        A node alone holds back whoever would see the difference.
        """
        if self._gate is None:
            done(True)
        else:
            self._gate.quiet(done)

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        """Do what another node says; ``done()`` when that is over."""
        match event:
            case ResetUnit():
                self._reset(Sense(SenseKey.UNIT_ATTENTION, event.asc, event.ascq), done)
                if event.cold:
                    self._bus.on_cold_reset(self.address.target, event.cold)
            case ClearTaskSet():
                self._clear(None, done)
            case ReservationsChanged():
                self._reserve(event, done)
            case SettingsChanged():
                self._set(event, None, done)
            case EndTask():
                self.end_task(event)
                done()
            case _:
                done()

    def attend_all(self, sense: Sense, but: Attachment | None = None) -> None:
        """A unit attention on every nexus but one."""
        for attachment in self.attachments:
            if attachment is not but:
                attachment.attend(sense)
