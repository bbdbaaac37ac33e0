"""What initiators have set of one logical unit, the same on every node: by MODE SELECT, START STOP
UNIT and SET TARGET PORT GROUPS.

    change ──▶ put to the newest version, kept (documents.py) ──▶ in force on every node ──▶ done

Rules:

1. What is kept decides: a change names what it sets, and the rest stays as it is kept.
2. A change is told even if it was kept already: whoever kept it may not have come to tell it.
3. Nothing is saved (SPC-4 5.16): a reset sets the defaults, as a change like any other.
4. A command that is to end does not wait for other nodes (tickets.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from target.block.volume import VolumeBusy
from target.scsi.documents import DocumentStore, Kept, MemoryStore
from target.scsi.port_groups import AccessState
from target.scsi.sense import UA_ACCESS_STATE_CHANGED, UA_MODE_PARAMETERS_CHANGED, Sense
from target.scsi.tickets import CarriedOut, Ticket, withdraw
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


class Made(NamedTuple):
    """What a change has made of what was kept before."""

    version: int
    state: SettingsState
    before: SettingsState


class SettingsChange(msgspec.Struct, frozen=True):
    """What is to be set; ``None`` stays as it is, and so do pages and groups not named."""

    pages: tuple[PageBytes, ...] = ()
    stopped: bool | None = None
    groups: tuple[GroupAccess, ...] = ()
    reset: bool = False  # the defaults, first
    anew: bool = False  # a version of its own even if nothing is new: who undoes another leaves it
    undoes: Made | None = None  # nothing else, and only if nobody has set anything since

    def put_to(self, state: SettingsState) -> SettingsState:
        """What then is set."""
        if self.undoes is not None:
            return self.undoes.before
        if self.reset:
            state = SettingsState(groups=state.groups)  # port_groups.py, rule 3
        pages = {(page.code, page.subpage): page for page in (*state.pages, *self.pages)}
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


class SettingsTicket(Ticket[SettingsChange, None]):
    """A change that has been asked for."""

    __slots__ = ("made",)

    def __init__(self, change: SettingsChange, done: Done, asker: Attachment | None = None) -> None:
        super().__init__(change, done, asker)
        self.made: Made | None = None  # it is kept, perhaps


class Settings:
    """Those of ``unit``; what is in force is in its device."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._version = 0
        self._store: DocumentStore = MemoryStore()
        self._queue: deque[SettingsTicket] = deque()
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
        self.carry_out(SettingsTicket(change, done, asker))

    def carry_out(self, ticket: SettingsTicket) -> None:
        """As ``change``; the ticket can be withdrawn meanwhile."""
        self._queue.append(ticket)
        if not self._busy:
            self._next()

    def withdraw(self, ticket: SettingsTicket) -> bool:
        """As of tickets.py."""
        return withdraw(self._queue, ticket)

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

    def _attempt(self, ticket: SettingsTicket) -> None:
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
            change, undoes = ticket.change, ticket.change.undoes
            if undoes is not None and undoes[:2] != (kept.version, state):
                self._tell(ticket, kept.version, state)  # others have set something since
                return
            wanted = change.put_to(state)
            if wanted == state and not change.anew:
                self._tell(ticket, kept.version, wanted)
            else:
                self._keep(ticket, Made(kept.version + 1, wanted, before=state))

        self._store.load(loaded)

    def _keep(self, ticket: SettingsTicket, made: Made) -> None:
        ticket.made = made

        def replaced(result: bool | Exception) -> None:
            if isinstance(result, Exception):
                self._end(ticket, result)
            elif result:
                self._tell(ticket, made.version, made.state)
            else:
                ticket.made = None
                self._attempt(ticket)

        self._store.replace(made.version - 1, msgspec.json.encode(made.state), replaced)

    def _tell(self, ticket: SettingsTicket, version: int, state: SettingsState) -> None:
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

    def _end(self, ticket: SettingsTicket, outcome: Exception | None) -> None:
        self._next()
        ticket.done(outcome)


def _sorted(values: Mapping[K, V]) -> tuple[V, ...]:
    return tuple(values[key] for key in sorted(values))


def _decode(kept: Kept) -> SettingsState:
    return msgspec.json.decode(kept.document, type=SettingsState) if kept.document else DEFAULTS


class Set(CarriedOut[None]):
    """A change of settings, until it is in force everywhere."""

    __slots__ = ("_asked",)

    def __init__(self, asker: Attachment, change: SettingsChange) -> None:
        self._asked = SettingsTicket(change, self._done, asker)
        super().__init__(asker.unit.settings, self._asked)

    @property
    def undone(self) -> SettingsChange | None:
        """What takes it back, unless others have set something since; None: it never began."""
        made = self._asked.made
        return None if made is None else SettingsChange(undoes=made)
