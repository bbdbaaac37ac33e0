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
5. What is kept is told until all nodes have it, and nothing is answered before (owed.py).
6. A command that is to end does not wait for other nodes (target/scsi/tickets.py).
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
    PortCame,
    PortLost,
    ReleaseUnit,
    ReserveUnit,
    UnitReset,
    change_exclusive,
)
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.owed import Made, Owed
from target.scsi.reservations.persistent import PersistentChange, change_persistent
from target.scsi.reservations.state import (
    EMPTY,
    Outcome,
    ReservationState,
    decode_state,
    encode_state,
    forbidden,
)
from target.scsi.sense import Status
from target.scsi.tickets import Ticket, withdraw
from workers.store import StoreStatus

if TYPE_CHECKING:
    from target.scsi.logical_unit import LogicalUnit
    from target.scsi.nexus import Nexus

log = logging.getLogger(__name__)

TRIES_MAX: Final = 20  # other nodes may be faster, but not every time

Loss = NexusLost | PortLost | PortCame | UnitReset
Change = PersistentChange | ExclusiveChange | None
"""None changes nothing: it is there to look."""
Done = Callable[[Outcome | Exception], None]
ChangeTicket = Ticket[Change, Outcome]


class Reservations:
    """Those of ``unit``; ``state`` is what is in force here."""

    def __init__(self, unit: LogicalUnit) -> None:
        self.state = EMPTY
        self._unit = unit
        self._version = 0
        self._store: DocumentStore = MemoryStore()
        self._in_doubt = False  # rule 2
        self._owed: list[Loss] = []  # rule 4
        self._to_tell = Owed()  # rule 5
        self._queue: deque[ChangeTicket] = deque()
        self._current: ChangeTicket | None = None
        self._advancing = False

    def keep_in(self, store: DocumentStore, kept: Kept) -> None:
        """Where they are kept, and what is there.  Raises ValueError if that cannot be read."""
        state = decode_state(kept.document)
        self._store = store
        self._version, self.state = kept.version, state
        self._to_tell.found(kept.version)
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

    @property
    def unsure(self) -> bool:
        """Whether what is kept may not be in force on every node; ``change(None)`` sees to it."""
        return self._in_doubt or self._to_tell.any

    def learn(self, version: int, state: ReservationState) -> set[NexusName]:
        """A version that is kept; an older one than that in force is no news.

        Returns who has lost its registration by that.
        """
        if version <= self._version:
            return set()
        lost = set(self.state.nexuses()) - set(state.nexuses())
        self._version, self.state = version, state
        self._in_force()
        return lost

    def keep_here(self, done: Callable[[], None]) -> None:
        """``done()`` when this node has of what is in force what it must not forget."""
        self._store.in_force(Kept(self._version, encode_state(self.state)), done)

    def _in_force(self) -> None:
        for attachment in self._unit.attachments:
            attachment.forbidden = self.forbidden(attachment.nexus)
        self._unit.rules_changed()

    # --- changes ----------------------------------------------------------------------------------

    def change(self, change: Change, done: Done) -> None:
        """Carry it out; ``done`` hears of it once, perhaps before this returns.

        An exception as the outcome is that of the store: nobody knows, or ``VolumeBusy``.
        """
        self.carry_out(Ticket(change, done))

    def carry_out(self, ticket: ChangeTicket) -> None:
        """As ``change``; the ticket can be withdrawn meanwhile."""
        self._queue.append(ticket)
        self._next()

    def withdraw(self, ticket: ChangeTicket) -> bool:
        """As of tickets.py."""
        return withdraw(self._queue, ticket)

    def lose(self, loss: Loss, done: Callable[[], None]) -> None:
        """What cannot be refused: ``done()`` when it is in force, or owed (rule 4)."""
        nothing = change_exclusive(self.state, loss).state == self.state
        if nothing and self._current is None and not self.unsure:
            done()
            return

        def ended(outcome: Outcome | Exception) -> None:
            if isinstance(outcome, Exception) and loss not in self._owed:
                log.warning("a reservation is to end and cannot yet: %s", outcome)
                self._owed.append(loss)
            done()

        self.change(loss, ended)

    def look(self, done: Callable[[bool], None], *, lost_port: int | None = None) -> None:
        """Look what is kept: another node may have gone between keeping a change and telling.

        ``lost_port``: that of the node; nothing of SPC-2 is reserved by it any more.
        ``done(False)``: it could not be looked up, or what was found could not be told.
        """
        self._in_doubt = True

        def looked(outcome: Outcome | Exception) -> None:
            done(not isinstance(outcome, Exception))

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

    def _load(self, ticket: ChangeTicket) -> None:
        def loaded(kept: Kept | Exception) -> None:
            if isinstance(kept, Exception):
                self._in_doubt = True
                self._end(ticket, kept)
            elif self._found(ticket, kept):
                self._in_doubt = False
                self._attempt(ticket)

        self._store.load(loaded)

    def _found(self, ticket: ChangeTicket, kept: Kept) -> bool:
        """Put in force what is kept; False: it cannot be read, and that is what the ticket is told.

        What this node may have kept has been, or never will be, if there is its version.
        """
        try:
            state = decode_state(kept.document)
        except ValueError as exc:
            log.error("reservations cannot be read: %s", exc)
            self._end(ticket, VolumeBusy(StoreStatus.UNAVAILABLE))
            return False
        if kept.version > self._version:
            here = {attachment.nexus.name for attachment in self._unit.attachments}
            lost = self.learn(kept.version, state)
            self._to_tell.found(kept.version, lost & here)  # other nodes see to theirs
        self._to_tell.settle(kept.version, state)
        return True

    def _attempt(self, ticket: ChangeTicket) -> None:
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
        again = ticket.change if isinstance(ticket.change, PersistentChange) else None
        made = Made(again, self.state, outcome, version + 1)

        def replaced(result: bool | Exception) -> None:
            if result is True:
                self._settle(owed)
                made.kept = True
                self.learn(made.version, outcome.state)
                self._end(ticket, outcome, made)
            elif result is False:
                self._load(ticket)
            else:
                self._find_out(ticket, made, Kept(made.version, document), result)

        self._store.replace(version, document, replaced)

    def _find_out(self, ticket: ChangeTicket, made: Made, wanted: Kept, failure: Exception) -> None:
        """Whether a change has been kept (rule 2)."""

        def in_doubt() -> None:
            self._in_doubt = True
            self._to_tell.remember(made)
            self._end(ticket, failure)

        def loaded(kept: Kept | Exception) -> None:
            if isinstance(kept, Exception) or kept.version < made.version:
                in_doubt()  # it may be kept yet
            elif kept == wanted:
                made.kept = True
                self.learn(made.version, made.outcome.state)
                self._end(ticket, made.outcome, made)
            elif self._found(ticket, kept):
                made.kept = made.stands(self.state)
                if made.kept:
                    self._end(ticket, made.outcome, made)
                else:
                    self._attempt(ticket)

        self._store.load(loaded)

    def _decide(self, change: Change, owed: tuple[Loss, ...]) -> Outcome:
        state = self.state
        for loss in owed:
            state = change_exclusive(state, loss).state
        if change is None:
            return Outcome(state)
        if isinstance(change, ExclusiveChange):
            return change_exclusive(state, change)
        outcome = change_persistent(state, change)
        conflict = outcome.status is Status.RESERVATION_CONFLICT
        if conflict and self._to_tell.tried_again(change, state):
            return Outcome(state)
        return outcome

    def _settle(self, owed: tuple[Loss, ...]) -> None:
        self._owed = [loss for loss in self._owed if loss not in owed]

    def _end(
        self, ticket: ChangeTicket, outcome: Outcome | Exception, made: Made | None = None
    ) -> None:
        """``made``: what was kept for that."""
        assert self._current is ticket, "ended twice"
        self._current = None
        if isinstance(outcome, Exception):
            ticket.done(outcome)
        elif made is not None or self.unsure or self._promises(ticket.change, outcome):
            self._tell(ticket, outcome, made)
        else:
            self._answer(ticket, outcome)
        self._next()

    def _answer(self, ticket: ChangeTicket, outcome: Outcome) -> None:
        if isinstance(ticket.change, PersistentChange):
            self._to_tell.answered(ticket.change.nexus)
        ticket.done(outcome)

    def _promises(self, change: Change, outcome: Outcome) -> bool:
        """Whether an answer that changes nothing says what other nodes may not know yet."""
        asked = isinstance(change, PersistentChange | ReserveUnit | ReleaseUnit)
        return asked and outcome.status is Status.GOOD and not self._to_tell.told(self._version)

    def _tell(self, ticket: ChangeTicket, outcome: Outcome, made: Made | None) -> None:
        telling = self._to_tell.begin(self._version, self.state, made)

        def here() -> None:
            ticket.here = True
            if ticket.given_up:
                ticket.done(VolumeBusy(StoreStatus.UNAVAILABLE))

        def in_force(sure: bool) -> None:
            self._to_tell.end(telling, sure)
            if not sure and made is not None:
                self._to_tell.remember(made)
            if ticket.given_up:
                return
            if sure:
                self._answer(ticket, outcome)
            else:
                ticket.done(VolumeBusy(StoreStatus.UNAVAILABLE))

        self._unit.reserve_everywhere(telling.event, telling.lost, ticket.asker, here, in_force)
