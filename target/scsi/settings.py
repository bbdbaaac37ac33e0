"""What initiators have set of one logical unit, the same on every node: by MODE SELECT, START STOP
UNIT and SET TARGET PORT GROUPS.

    change ──▶ put to the newest version, kept (documents.py) ──▶ in force on every node ──▶ done

Rules:

1. What is kept decides: a change names what it sets, and the rest stays as it is kept.
2. A change is told even if it was kept already: whoever kept it may not have come to tell it.
3. Nothing is saved (SPC-4 5.16): a reset sets the defaults, as a change like any other.
4. A command that is to end does not wait for other nodes (reservations/keeper.py, rule 6).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from target.block.volume import VolumeBusy
from target.block.wait import PENDING, Resume, Wait, _Pending
from target.scsi.documents import DocumentStore, Kept, MemoryStore
from target.scsi.port_groups import AccessState
from target.scsi.sense import UA_ACCESS_STATE_CHANGED, UA_MODE_PARAMETERS_CHANGED, Sense
from workers.store import StoreStatus

if TYPE_CHECKING:
    from target.scsi.logical_unit import LogicalUnit
    from target.scsi.nexus import Attachment

log = logging.getLogger(__name__)

TRIES_MAX: Final = 20  # other nodes may be faster, but not every time


class PageBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The current bytes of a mode page."""

    code: int
    subpage: int
    data: bytes


class GroupAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What SET TARGET PORT GROUPS has set for one group."""

    number: int
    state: AccessState


class SettingsState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that differs from the defaults, perhaps."""

    pages: tuple[PageBytes, ...] = ()
    stopped: bool = False
    groups: tuple[GroupAccess, ...] = ()


DEFAULTS: Final = SettingsState()


class SettingsChange(msgspec.Struct, frozen=True):
    """What is to be set; ``None`` stays as it is, and so do pages and groups not named."""

    pages: tuple[PageBytes, ...] = ()
    stopped: bool | None = None
    groups: tuple[GroupAccess, ...] = ()
    reset: bool = False  # the defaults, first
    anew: bool = False  # a version of its own even if nothing is new: who undoes another leaves it
    undoes: tuple[int, SettingsState] | None = None  # that version, if no other has come since
    without: tuple[tuple[int, int], ...] = ()  # pages that go back to their defaults

    def put_to(self, state: SettingsState) -> SettingsState:
        """What then is set."""
        if self.reset:
            state = SettingsState(groups=state.groups)  # port_groups.py, rule 3
        pages = {(page.code, page.subpage): page for page in (*state.pages, *self.pages)}
        for key in self.without:
            pages.pop(key, None)
        stopped = state.stopped if self.stopped is None else self.stopped
        groups = {group.number: group for group in (*state.groups, *self.groups)}
        return SettingsState(_sorted(pages), stopped, _sorted(groups))


class SettingsChanged(msgspec.Struct, frozen=True, tag="settings"):
    """Settings have a new version; in force unless a node has a later one already."""

    version: int
    state: SettingsState
    quiet: bool  # a reset, which has a unit attention of its own


RESET: Final = SettingsChange(reset=True)

K = TypeVar("K", int, tuple[int, int])
V = TypeVar("V")
Done = Callable[[Exception | None], None]


class Ticket:
    """A change that has been asked for."""

    __slots__ = ("asker", "before", "change", "done", "given_up", "here", "made", "tries")

    def __init__(self, change: SettingsChange, asker: Attachment | None, done: Done) -> None:
        self.change = change
        self.asker = asker
        self.done = done
        self.tries = 0
        self.here = False  # kept, and set on this node: who is to end need not wait
        self.given_up = False  # by who asked for it (rule 4)
        self.before = DEFAULTS  # what was kept when it was tried last
        self.made: tuple[int, SettingsState] | None = None  # what is kept since then, perhaps


class Settings:
    """Those of ``unit``; what is in force is in its device."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._version = 0
        self._store: DocumentStore = MemoryStore()
        self._queue: deque[Ticket] = deque()
        self._busy = False

    def keep_in(self, store: DocumentStore, kept: Kept) -> None:
        """Where they are kept, and what is there.  Raises ValueError if that cannot be read."""
        state = _decode(kept)
        self._store = store
        self._version = kept.version
        self._put(state)

    def learn(self, version: int, state: SettingsState) -> list[Sense]:
        """A version that is kept is in force here from now on; the unit attentions for that."""
        if version <= self._version:
            return []
        self._version = version
        return self._put(state)

    def _put(self, state: SettingsState) -> list[Sense]:
        changed = [UA_MODE_PARAMETERS_CHANGED] if self._unit.device.set(state) else []
        if self._unit.set_access({group.number: group.state for group in state.groups}):
            changed.append(UA_ACCESS_STATE_CHANGED)
        return changed

    @property
    def busy(self) -> bool:
        """Whether a change is under way."""
        return self._busy

    def change(self, change: SettingsChange, done: Done, asker: Attachment | None = None) -> None:
        """Carry it out; ``done`` hears when it is in force on every node, or what went wrong.

        ``asker`` needs no unit attention.  ``VolumeBusy``: perhaps it is in force and perhaps not.
        """
        self.carry_out(Ticket(change, asker, done))

    def carry_out(self, ticket: Ticket) -> None:
        """As ``change``; the ticket can be withdrawn meanwhile."""
        self._queue.append(ticket)
        if not self._busy:
            self._next()

    def withdraw(self, ticket: Ticket) -> bool:
        """Whether nobody hears of a change: it had not begun, and never will, or is in force here.

        Otherwise ``done`` hears when it is, or what went wrong (rule 4).
        """
        if ticket in self._queue:
            self._queue.remove(ticket)
            return True
        ticket.given_up = True
        return ticket.here

    def reset(self, done: Done) -> None:
        """The defaults; costs nothing where nothing has been changed."""
        if self._version == 0 and not self._busy:
            done(None)
        else:
            self.change(RESET, done)

    def look(self, done: Callable[[bool], None]) -> None:
        """Look what is kept: another node has gone, perhaps between keeping a change and telling.

        ``done(False)``: it could not be looked up.
        """

        def loaded(kept: Kept | Exception) -> None:
            if isinstance(kept, Exception):
                done(False)
                return
            try:
                event = SettingsChanged(kept.version, _decode(kept), quiet=False)
            except ValueError as exc:
                log.error("settings cannot be read: %s", exc)
                done(False)
                return
            self._unit.happened(event, lambda: done(True))

        self._store.load(loaded)

    def _next(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            self._attempt(self._queue.popleft())

    def _attempt(self, ticket: Ticket) -> None:
        ticket.tries += 1
        if ticket.tries > TRIES_MAX:
            self._end(ticket, VolumeBusy(StoreStatus.UNAVAILABLE))
            return

        def loaded(kept: Kept | Exception) -> None:
            if isinstance(kept, Exception):
                self._end(ticket, kept)
                return
            try:
                state = _decode(kept)
            except ValueError as exc:
                log.error("settings cannot be read: %s", exc)
                self._end(ticket, VolumeBusy(StoreStatus.UNAVAILABLE))
                return
            change = ticket.change
            if change.undoes is not None and change.undoes != (kept.version, state):
                self._tell(ticket, kept.version, state)  # others have set something since
                return
            wanted = change.put_to(state)
            if wanted == state and not change.anew:
                self._tell(ticket, kept.version, wanted)
            else:
                ticket.before = state
                self._keep(ticket, kept.version, wanted)

        self._store.load(loaded)

    def _keep(self, ticket: Ticket, version: int, wanted: SettingsState) -> None:
        ticket.made = version + 1, wanted

        def replaced(result: bool | Exception) -> None:
            if isinstance(result, Exception):
                self._end(ticket, result)
            elif result:
                self._tell(ticket, version + 1, wanted)
            else:
                ticket.made = None
                self._attempt(ticket)

        self._store.replace(version, msgspec.json.encode(wanted), replaced)

    def _tell(self, ticket: Ticket, version: int, state: SettingsState) -> None:
        def told(sure: bool) -> None:
            self._next()  # a reset, perhaps, which gives this one up
            if not ticket.given_up:
                ticket.done(None if sure else VolumeBusy(StoreStatus.UNAVAILABLE))

        given_up = ticket.given_up
        ticket.here = True
        event = SettingsChanged(version, state, quiet=ticket.change.reset)
        self._unit.set_everywhere(event, ticket.asker, told)
        if given_up:
            ticket.done(VolumeBusy(StoreStatus.UNAVAILABLE))

    def _end(self, ticket: Ticket, outcome: Exception | None) -> None:
        self._next()
        ticket.done(outcome)


def _sorted(values: Mapping[K, V]) -> tuple[V, ...]:
    return tuple(values[key] for key in sorted(values))


def _decode(kept: Kept) -> SettingsState:
    return msgspec.json.decode(kept.document, type=SettingsState) if kept.document else DEFAULTS


class Set(Wait[None]):
    """A change, until it is in force everywhere."""

    __slots__ = ("_outcome", "_resume", "_settings", "_ticket")

    def __init__(self, asker: Attachment, change: SettingsChange) -> None:
        self._settings = asker.unit.settings
        self._outcome: Any = PENDING
        self._resume: Resume | None = None
        self._ticket = Ticket(change, asker, self._done)

    @property
    def undone(self) -> SettingsChange | None:
        """What sets its pages back, unless others have set something since; None: nothing is to."""
        ticket = self._ticket
        if ticket.made is None:
            return None  # it never began
        before = {(page.code, page.subpage): page for page in ticket.before.pages}
        pages = (before.get((page.code, page.subpage)) for page in ticket.change.pages)
        return SettingsChange(
            tuple(page for page in pages if page is not None),
            without=tuple(
                (page.code, page.subpage)
                for page in ticket.change.pages
                if (page.code, page.subpage) not in before
            ),
            undoes=ticket.made,
        )

    def begin(self, resume: Resume) -> BaseException | _Pending | None:
        self._settings.carry_out(self._ticket)
        if self._outcome is PENDING:
            self._resume = resume
        outcome: BaseException | _Pending | None = self._outcome
        return outcome

    def _done(self, outcome: Exception | None) -> None:
        self._outcome = outcome
        if self._resume is not None:
            self._resume(outcome)

    def cancel(self) -> bool:
        return self._settings.withdraw(self._ticket)
