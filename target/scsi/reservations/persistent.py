"""PERSISTENT RESERVE OUT as functions from one state to the next (SPC-4 5.13, 6.16).

Each takes the state and what was asked, and says what becomes of it.  Nothing here knows a CDB, or
an object that lives no longer than a session.

Rules:

1. Nothing persistent happens while a RESERVE of SPC-2 is in force (SPC-2 5.5.1).
2. Who asks has to be registered, with the key that it names; only the two ways to register do
   without.
3. PRGENERATION counts what changes registrations; RESERVE and RELEASE leave it (SPC-4 5.13.2).
4. Whoever asked gets no unit attention from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from target.scsi.limits import REGISTRATIONS_MAX
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import (
    ALL_REGISTRANTS,
    GENERATION_MASK,
    REGISTRANTS,
    Outcome,
    Registration,
    ReservationState,
    Type,
    attend,
    with_port,
)
from target.scsi.sense import (
    INSUFFICIENT_REGISTRATIONS,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETERS,
    INVALID_RELEASE,
    UA_REGISTRATIONS_PREEMPTED,
    UA_RESERVATIONS_PREEMPTED,
    UA_RESERVATIONS_RELEASED,
)

# Where the parameter list has what is found wrong here (SPC-4 tables 229 and 232).
NEW_KEY_AT: Final = 8  # SERVICE ACTION RESERVATION KEY
SPEC_I_PT_AT: Final = 20
TRANSPORT_ID_AT: Final = 24  # of REGISTER AND MOVE


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """REGISTER; REGISTER AND IGNORE EXISTING KEY if ``existing`` is None.

    ``ports`` are further target ports through which it counts as received (ALL_TG_PT), ``others``
    the nexuses that it names (SPEC_I_PT; None: it names none).
    """

    nexus: NexusName
    existing: int | None
    key: int
    aptpl: bool
    ports: tuple[int, ...] = ()
    others: tuple[NexusName, ...] | None = None


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """RESERVE."""

    nexus: NexusName
    existing: int
    type: Type


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """RELEASE; a ``type`` of None is one that there is not."""

    nexus: NexusName
    existing: int
    type: Type | None


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """CLEAR."""

    nexus: NexusName
    existing: int


class Preempt(msgspec.Struct, frozen=True, kw_only=True):
    """PREEMPT; with ``abort`` PREEMPT AND ABORT.  A ``type`` of None is one that there is not."""

    nexus: NexusName
    existing: int
    victim: int  # whose key
    type: Type | None
    abort: bool = False


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """REGISTER AND MOVE."""

    nexus: NexusName
    existing: int
    key: int
    to: NexusName
    unregister: bool
    aptpl: bool


PersistentChange = Register | Reserve | Release | Clear | Preempt | Move


def change_persistent(state: ReservationState, change: PersistentChange) -> Outcome:
    """What becomes of one PERSISTENT RESERVE OUT."""
    if state.reserved_by is not None:  # rule 1
        return Outcome.conflict(state)
    if isinstance(change, Register):
        return _register(state, change)
    if state.key_of(change.nexus) != change.existing:  # rule 2
        return Outcome.conflict(state)
    match change:
        case Reserve():
            return _reserve(state, change)
        case Release():
            return _release(state, change)
        case Clear():
            return _clear(state, change)
        case Preempt():
            return _preempt(state, change)
        case Move():
            return _move(state, change)


# --- registering ----------------------------------------------------------------------------------


def _register(state: ReservationState, change: Register) -> Outcome:
    """SPC-4 tables 55 and 56."""
    mine = state.key_of(change.nexus)
    existing = mine or 0 if change.existing is None else change.existing
    if existing != (mine or 0):
        return Outcome.conflict(state)
    if mine is not None and change.others is not None:
        return Outcome.refused(
            state, INVALID_FIELD_IN_PARAMETERS.field(SPEC_I_PT_AT, 3, in_cdb=False)
        )
    if mine is None and change.key == 0:
        return Outcome(state)
    state = with_port(state, max(change.ports, default=0))
    keys = _keys(state)
    named: set[NexusName] = set()
    for port in dict.fromkeys((change.nexus.port, *change.ports)):
        nexus = replace(change.nexus, port=port)
        if change.existing is None or keys.get(nexus, 0) == existing:
            keys[nexus] = change.key
            named.add(nexus)
    for nexus in change.others or ():
        if nexus not in keys:
            keys[nexus] = change.key
            named.add(nexus)
    gone = {nexus for nexus, key in keys.items() if key == 0}
    after = _changed(state, keys, gone, aptpl=change.aptpl)
    everywhere = {it.nexus for it in state.registrations if it.everywhere} - named
    everywhere |= named if change.ports else set()
    after = replace(
        after,
        ports=max(state.ports, *change.ports) if change.ports else state.ports,
        registrations=tuple(
            replace(it, everywhere=it.nexus in everywhere) for it in after.registrations
        ),
    )
    if len(after.registrations) > REGISTRATIONS_MAX:
        return Outcome.refused(state, INSUFFICIENT_REGISTRATIONS)
    released = after.type is None and state.type in REGISTRANTS
    told = set(after.nexuses()) - {change.nexus} if released else ()
    return Outcome(after, attentions=attend(told, UA_RESERVATIONS_RELEASED))


def _keys(state: ReservationState) -> dict[NexusName, int]:
    return {it.nexus: it.key for it in state.registrations}


def _changed(
    state: ReservationState,
    keys: Mapping[NexusName, int],
    gone: Collection[NexusName] = (),
    *,
    aptpl: bool | None = None,
) -> ReservationState:
    """With these registrations but those of ``gone``; a reservation ends with its last holder."""
    everywhere = {it.nexus for it in state.registrations if it.everywhere}
    left = tuple(
        Registration(nexus, key, everywhere=nexus in everywhere)
        for nexus, key in keys.items()
        if nexus not in gone
    )
    ended = not left if state.type in ALL_REGISTRANTS else state.holder in gone
    return replace(
        state,
        generation=state.generation + 1 & GENERATION_MASK,  # rule 3
        aptpl=state.aptpl if aptpl is None else aptpl,
        registrations=left,
        type=None if ended else state.type,
        holder=None if ended else state.holder,
    )


def _move(state: ReservationState, change: Move) -> Outcome:
    """REGISTER AND MOVE (SPC-4 5.13.8)."""
    if state.type is None:
        return Outcome.refused(state, INVALID_FIELD_IN_CDB.field(1, 4))
    if state.holder != change.nexus:  # nor can it be moved where all registrants are holders
        return Outcome.conflict(state)
    if change.key == 0:
        return Outcome.refused(state, INVALID_FIELD_IN_PARAMETERS.field(NEW_KEY_AT, in_cdb=False))
    if change.to == change.nexus:
        return Outcome.refused(
            state, INVALID_FIELD_IN_PARAMETERS.field(TRANSPORT_ID_AT, in_cdb=False)
        )
    keys = _keys(state)
    keys[change.to] = change.key
    moved = replace(state, holder=change.to)
    gone = (change.nexus,) if change.unregister else ()
    after = _changed(moved, keys, gone, aptpl=change.aptpl)
    if len(after.registrations) > REGISTRATIONS_MAX:
        return Outcome.refused(state, INSUFFICIENT_REGISTRATIONS)
    return Outcome(after)


# --- reserving ------------------------------------------------------------------------------------


def _reserve(state: ReservationState, change: Reserve) -> Outcome:
    """SPC-4 5.13.9: a holder may say again what it said."""
    if state.type is None:
        return Outcome(_reserved(state, change.type, change.nexus))
    if state.type is change.type and state.holds(change.nexus):
        return Outcome(state)
    return Outcome.conflict(state)


def _reserved(state: ReservationState, kind: Type, holder: NexusName) -> ReservationState:
    return replace(state, type=kind, holder=None if kind in ALL_REGISTRANTS else holder)


def _release(state: ReservationState, change: Release) -> Outcome:
    """SPC-4 5.13.11.2.2: only a holder releases; for others nothing happens."""
    if not state.holds(change.nexus):
        return Outcome(state)
    if state.type is not change.type:
        return Outcome.refused(state, INVALID_RELEASE)
    told = set(state.nexuses()) - {change.nexus} if state.type in REGISTRANTS else ()
    after = replace(state, type=None, holder=None)
    return Outcome(after, attentions=attend(told, UA_RESERVATIONS_RELEASED))


def _clear(state: ReservationState, change: Clear) -> Outcome:
    """SPC-4 5.13.11.2.7: the reservation and all registrations go."""
    keys = _keys(state)
    told = keys.keys() - {change.nexus}
    return Outcome(
        _changed(state, keys, keys.keys()), attentions=attend(told, UA_RESERVATIONS_PREEMPTED)
    )


def _preempt(state: ReservationState, change: Preempt) -> Outcome:
    """SPC-4 5.13.11.2.3 to 5.13.11.2.6: the key tells whether the reservation is meant as well."""
    keys = _keys(state)
    if state.type in ALL_REGISTRANTS:
        takes = change.victim == 0
    else:
        takes = state.holder is not None and keys[state.holder] == change.victim
    if takes:
        if change.type is None:
            return Outcome.refused(state, INVALID_FIELD_IN_CDB.field(2, 3))
        gone = {
            nexus
            for nexus, key in keys.items()
            if change.victim in (0, key) and nexus != change.nexus
        }
        after = _changed(_reserved(state, change.type, change.nexus), keys, gone)
        retyped = after.type is not state.type
        told = set(after.nexuses()) - {change.nexus} if retyped else set()
    else:
        if change.victim == 0:
            return Outcome.refused(
                state, INVALID_FIELD_IN_PARAMETERS.field(NEW_KEY_AT, in_cdb=False)
            )
        gone = {nexus for nexus, key in keys.items() if key == change.victim}
        if not gone:
            return Outcome.conflict(state)
        after = _changed(state, keys, gone)
        gone.discard(change.nexus)  # it may name itself, and learns nothing new
        told = set()
    attentions = attend(gone, UA_REGISTRATIONS_PREEMPTED) + attend(told, UA_RESERVATIONS_RELEASED)
    return Outcome(after, attentions=attentions, aborted=tuple(gone) if change.abort else ())
