"""The reservations of one logical unit, in force: one change at a time, kept, then told.

    change ──▶ decided (persistent.py, exclusive.py) ──▶ kept (documents.py) ──▶ in force here
           ──▶ in force on other nodes, commands of whoever was preempted are gone ──▶ done

Rules:

1. What is kept decides, not what is in force here: a change that was decided on an old version is
   decided again.
2. A change that may have been kept and may not is looked up.  If that fails too, its initiator
   tries again, and whatever comes next looks first.
3. Telling and aborting hold nobody up: the next change is decided meanwhile.
4. What must not fail (a nexus is gone, the unit was reset) and could not be kept is owed, and goes
   with the next change.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.block.volume import VolumeBusy
from target.scsi.command import Access
from target.scsi.documents import DocumentStore, Kept, MemoryStore
from target.scsi.reservations.exclusive import (
    ExclusiveChange,
    NexusLost,
    PortLost,
    UnitReset,
    change_exclusive,
)
from target.scsi.reservations.persistent import PersistentChange, change_persistent
from target.scsi.reservations.state import (
    EMPTY,
    Outcome,
    ReservationState,
    attend,
    decode_state,
    encode_state,
    forbidden,
)
from target.scsi.sense import UA_REGISTRATIONS_PREEMPTED
from target.scsi.unit_events import ReservationsChanged
from workers.store import StoreStatus

if TYPE_CHECKING:
    from target.scsi.logical_unit import LogicalUnit
    from target.scsi.nexus import Nexus

log = logging.getLogger(__name__)

TRIES_MAX: Final = 20  # other nodes may be faster, but not every time

Loss = NexusLost | PortLost | UnitReset
Change = PersistentChange | ExclusiveChange | None
"""None changes nothing: it is there to look."""
Done = Callable[[Outcome | Exception], None]


class Ticket:
    """A change that has been asked for."""

    __slots__ = ("change", "done", "tries")

    def __init__(self, change: Change, done: Done) -> None:
        self.change = change
        self.done = done
        self.tries = 0


class Reservations:
    """Those of ``unit``; ``state`` is what is in force here."""

    def __init__(self, unit: LogicalUnit) -> None:
        self.state = EMPTY
        self._unit = unit
        self._version = 0
        self._store: DocumentStore = MemoryStore()
        self._in_doubt = False  # rule 2
        self._owed: list[Loss] = []  # rule 4
        self._queue: deque[Ticket] = deque()
        self._current: Ticket | None = None
        self._advancing = False

    def keep_in(self, store: DocumentStore, kept: Kept) -> None:
        """Where they are kept, and what is there.  Raises ValueError if that cannot be read."""
        state = decode_state(kept.document)
        self._store = store
        self._version, self.state = kept.version, state
        self._in_force()

    @property
    def lasting(self) -> bool:
        """Whether they can outlive the loss of power."""
        return self._store.lasting

    # --- what is in force -------------------------------------------------------------------------

    @property
    def any(self) -> bool:
        """Whether a command may be in conflict."""
        return self.state.type is not None or self.state.reserved_by is not None

    def forbidden(self, nexus: Nexus) -> frozenset[Access]:
        """Which commands of a nexus end in RESERVATION CONFLICT."""
        return forbidden(self.state, nexus.name, nexus.life)

    def learn(self, version: int, state: ReservationState) -> None:
        """A version that is kept; an older one than that in force is no news."""
        if version > self._version:
            self._version, self.state = version, state
            self._in_force()

    def _in_force(self) -> None:
        for attachment in self._unit.attachments:
            attachment.forbidden = self.forbidden(attachment.nexus)
        self._unit.rules_changed()

    # --- changes ----------------------------------------------------------------------------------

    def change(self, change: Change, done: Done) -> Ticket:
        """Carry it out; ``done`` hears of it once, perhaps before this returns.

        An exception as the outcome is that of the store: nobody knows, or ``VolumeBusy``.
        """
        ticket = Ticket(change, done)
        self._queue.append(ticket)
        self._next()
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        """Whether a change had not begun; then it never will, and nobody hears of it."""
        if ticket not in self._queue:
            return False
        self._queue.remove(ticket)
        return True

    def lose(self, loss: Loss, done: Callable[[], None]) -> None:
        """What cannot be refused: ``done()`` when it is in force, or owed (rule 4)."""
        if self.state.reserved_by is None and self._current is None and not self._in_doubt:
            done()  # there is nothing that it could end
            return

        def ended(outcome: Outcome | Exception) -> None:
            if isinstance(outcome, Exception) and loss not in self._owed:
                log.warning("a reservation is to end and cannot yet: %s", outcome)
                self._owed.append(loss)
            done()

        self.change(loss, ended)

    def look(self, done: Callable[[bool], None], *, lost_port: int | None = None) -> None:
        """Look what is kept: another node has gone, perhaps between keeping a change and telling.

        Who has lost its registration by that may have been preempted, and is treated as if it had
        been aborted.  ``lost_port``: that of the node; nothing of SPC-2 is reserved by it any more.
        ``done(False)``: it could not be looked up.
        """
        before = self.state
        self._in_doubt = True

        def looked(outcome: Outcome | Exception) -> None:
            if isinstance(outcome, Exception):
                done(False)
                return
            lost = tuple(set(before.nexuses()) - set(self.state.nexuses()))
            told = attend(lost, UA_REGISTRATIONS_PREEMPTED)
            event = ReservationsChanged(self._version, self.state, told, lost)
            self._unit.happened(event, lambda: done(True))

        self.change(PortLost(lost_port) if lost_port is not None else None, looked)

    def _next(self) -> None:
        if self._advancing:
            return  # whoever does it goes on
        self._advancing = True
        while self._current is None and self._queue:
            ticket = self._current = self._queue.popleft()
            if self._in_doubt:
                self._load(ticket)
            else:
                self._attempt(ticket)
        self._advancing = False

    def _load(self, ticket: Ticket) -> None:
        def loaded(kept: Kept | Exception) -> None:
            if isinstance(kept, Exception):
                self._in_doubt = True
                self._end(ticket, kept)
                return
            try:
                self.learn(kept.version, decode_state(kept.document))
            except ValueError as exc:
                log.error("reservations cannot be read: %s", exc)
                self._end(ticket, VolumeBusy(StoreStatus.UNAVAILABLE))
                return
            self._in_doubt = False
            self._attempt(ticket)

        self._store.load(loaded)

    def _attempt(self, ticket: Ticket) -> None:
        ticket.tries += 1
        if ticket.tries > TRIES_MAX:
            self._end(ticket, VolumeBusy(StoreStatus.UNAVAILABLE))
            return
        owed = tuple(self._owed)
        outcome = self._decide(ticket.change, owed)
        if outcome.state == self.state:
            self._settle(owed)
            self._end(ticket, outcome)
            return
        version, document = self._version, encode_state(outcome.state)
        wanted = Kept(version + 1, document)

        def replaced(result: bool | Exception) -> None:
            if result is True:
                self._settle(owed)
                self.learn(wanted.version, outcome.state)
                self._end(ticket, outcome, wanted.version)
            elif result is False:
                self._load(ticket)
            else:
                self._find_out(ticket, outcome, wanted, result)

        self._store.replace(version, document, replaced)

    def _find_out(self, ticket: Ticket, outcome: Outcome, wanted: Kept, failure: Exception) -> None:
        """Whether a change has been kept (rule 2)."""

        def loaded(kept: Kept | Exception) -> None:
            if kept == wanted:
                self.learn(wanted.version, outcome.state)
                self._end(ticket, outcome, wanted.version)
            else:
                self._in_doubt = True
                self._end(ticket, failure)

        self._store.load(loaded)

    def _decide(self, change: Change, owed: tuple[Loss, ...]) -> Outcome:
        state = self.state
        for loss in owed:
            state = change_exclusive(state, loss).state
        if change is None:
            return Outcome(state)
        if isinstance(change, ExclusiveChange):
            return change_exclusive(state, change)
        return change_persistent(state, change)

    def _settle(self, owed: tuple[Loss, ...]) -> None:
        self._owed = [loss for loss in self._owed if loss not in owed]

    def _end(self, ticket: Ticket, outcome: Outcome | Exception, version: int = 0) -> None:
        """``version``: of what was kept; 0: nothing was."""
        assert self._current is ticket, "ended twice"
        self._current = None
        if isinstance(outcome, Outcome) and version:
            event = ReservationsChanged(version, outcome.state, outcome.attentions, outcome.aborted)

            def in_force(sure: bool) -> None:
                ticket.done(outcome if sure else VolumeBusy(StoreStatus.UNAVAILABLE))

            self._unit.reserve_everywhere(event, in_force)
        else:
            ticket.done(outcome)
        self._next()
