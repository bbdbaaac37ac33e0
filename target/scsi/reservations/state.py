"""The reservations of one logical unit as a value, and what may run under them (SPC-4 5.13)."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import msgspec

from target.scsi.command import Access
from target.scsi.limits import REGISTRATIONS_MAX
from target.scsi.reservations.names import NexusName
from target.scsi.sense import Sense, Status

GENERATION_MASK: Final = 0xFFFFFFFF


class Type(enum.IntEnum):
    """Of a persistent reservation (SPC-4 table 61)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


WRITE_EXCLUSIVE: Final = frozenset({Type(1), Type(5), Type(7)})  # others may read
ALL_REGISTRANTS: Final = frozenset({Type(7), Type(8)})  # every registrant is a holder
REGISTRANTS: Final = frozenset({Type(5), Type(6)}) | ALL_REGISTRANTS  # who is registered has access


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An I_T nexus that has registered a key."""

    nexus: NexusName
    key: int  # 64 bits, not 0
    everywhere: bool = False  # by ALL_TG_PT: through ports that are yet to come as well


class ReservationState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that there is to know of one logical unit.  Persistent and SPC-2 exclude each other."""

    generation: int = 0  # PRGENERATION
    ports: int = 0  # up to which port those are registered that are so everywhere
    aptpl: bool = False  # activate persist through power loss
    restored: int = 0  # the version as which it was put back when it had been forgotten
    registrations: tuple[Registration, ...] = ()  # in the order in which they came
    type: Type | None = None  # of the persistent reservation; None: there is none
    holder: NexusName | None = None  # of it, unless all registrants are
    reserved_by: NexusName | None = None  # RESERVE of SPC-2
    reserved_life: int = 0  # by which session of that nexus: such a reservation ends with it

    def key_of(self, nexus: NexusName) -> int | None:
        """The key of a nexus; None: it is not registered."""
        return next((it.key for it in self.registrations if it.nexus == nexus), None)

    def holds(self, nexus: NexusName) -> bool:
        """Whether ``nexus`` is a holder of the persistent reservation."""
        if self.type in ALL_REGISTRANTS:
            return self.key_of(nexus) is not None
        return self.type is not None and self.holder == nexus

    def nexuses(self) -> tuple[NexusName, ...]:
        """Who is registered."""
        return tuple(it.nexus for it in self.registrations)


def with_port(state: ReservationState, port: int) -> ReservationState:
    """A port has come, if it is a new one: who is registered everywhere is so through it."""
    everywhere = [it for it in state.registrations if it.everywhere]
    if not everywhere or port <= state.ports:
        return state
    known = set(state.nexuses())
    found: dict[NexusName, Registration] = {}
    for new in range(state.ports + 1, port + 1):
        for it in everywhere:
            nexus = msgspec.structs.replace(it.nexus, port=new)
            if nexus not in known:
                found.setdefault(nexus, Registration(nexus, it.key, everywhere=True))
    registrations = (*state.registrations, *found.values())[:REGISTRATIONS_MAX]
    return msgspec.structs.replace(state, registrations=registrations, ports=port)


EMPTY: Final = ReservationState()
NOTHING: Final[frozenset[Access]] = frozenset()
_EXCLUSIVE: Final = frozenset({Access.READY, Access.READ, Access.WRITE})  # SPC-2 5.5.1
_ACCESS: Final = frozenset({Access.READ, Access.WRITE})
_WRITE: Final = frozenset({Access.WRITE})


def forbidden(state: ReservationState, nexus: NexusName, life: int = 0) -> frozenset[Access]:
    """Which commands of a nexus end in RESERVATION CONFLICT (SPC-4 table 65, SBC-3 table 13)."""
    if state.reserved_by is not None:
        held = (state.reserved_by, state.reserved_life) == (nexus, life)
        return NOTHING if held else _EXCLUSIVE
    if state.type is None or state.holds(nexus):
        return NOTHING
    if state.type in REGISTRANTS and state.key_of(nexus) is not None:
        return NOTHING
    return _WRITE if state.type in WRITE_EXCLUSIVE else _ACCESS


class Attention(msgspec.Struct, frozen=True):
    """A unit attention that a nexus is to have."""

    nexus: NexusName
    asc: int
    ascq: int


class Outcome(msgspec.Struct, frozen=True):
    """What becomes of a request to change the state."""

    state: ReservationState
    status: Status = Status.GOOD
    sense: Sense | None = None
    attentions: tuple[Attention, ...] = ()
    aborted: tuple[NexusName, ...] = ()  # whose commands end

    @classmethod
    def conflict(cls, state: ReservationState) -> Outcome:
        """RESERVATION CONFLICT; nothing changes."""
        return cls(state, Status.RESERVATION_CONFLICT)

    @classmethod
    def refused(cls, state: ReservationState, sense: Sense) -> Outcome:
        """CHECK CONDITION; nothing changes."""
        return cls(state, Status.CHECK_CONDITION, sense)


def attend(nexuses: Iterable[NexusName], sense: Sense) -> tuple[Attention, ...]:
    """The same unit attention for several nexuses."""
    return tuple(Attention(nexus, sense.asc, sense.ascq) for nexus in nexuses)


# --- as bytes -------------------------------------------------------------------------------------


def encode_state(state: ReservationState) -> bytes:
    """For whoever keeps it; nothing where there is nothing to keep."""
    return b"" if state == EMPTY else msgspec.json.encode(state)


def decode_state(document: bytes) -> ReservationState:
    """Raises ValueError."""
    return msgspec.json.decode(document, type=ReservationState) if document else EMPTY


def after_power_loss(state: ReservationState) -> ReservationState:
    """What is left when every node has been off (SPC-4 5.13.5): PRGENERATION begins anew."""
    if not state.aptpl:
        return EMPTY
    return msgspec.structs.replace(state, generation=0, reserved_by=None, reserved_life=0)
