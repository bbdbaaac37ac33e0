"""PERSISTENT RESERVE OUT, RESERVE and RELEASE, from one state to the next."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from target.scsi import sense as s
from target.scsi.command import Access
from target.scsi.limits import REGISTRATIONS_MAX
from target.scsi.reservations.exclusive import (
    ExclusiveChange,
    NexusLost,
    PortLost,
    ReleaseUnit,
    ReserveUnit,
    UnitReset,
    change_exclusive,
)
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.persistent import (
    Clear,
    Move,
    PersistentChange,
    Preempt,
    Register,
    Release,
    Reserve,
    change_persistent,
)
from target.scsi.reservations.state import (
    ALL_REGISTRANTS,
    EMPTY,
    REGISTRANTS,
    Attention,
    Outcome,
    ReservationState,
    Type,
    after_power_loss,
    decode_state,
    encode_state,
    forbidden,
)
from target.scsi.sense import Sense, Status
from tests.support.scsi_disk import invalid_cdb, invalid_parameter

A, B, C, D = (NexusName(f"iqn.test:{name}", bytes(6), 1) for name in "abcd")
KEY_A, KEY_B, KEY_C, KEY_D = 0xA, 0xB, 0xC, 0xD
WE, WE_RO, EA_RO, WE_AR = (
    Type.WRITE_EXCLUSIVE,
    Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
)


def register(
    nexus: NexusName,
    existing: int | None,
    key: int,
    *,
    aptpl: bool = False,
    ports: tuple[int, ...] = (),
    others: tuple[NexusName, ...] | None = None,
) -> Register:
    return Register(
        nexus=nexus, existing=existing, key=key, aptpl=aptpl, ports=ports, others=others
    )


def good(state: ReservationState, change: PersistentChange) -> Outcome:
    outcome = change_persistent(state, change)
    assert (outcome.status, outcome.sense) == (Status.GOOD, None)
    return outcome


def refused(state: ReservationState, change: PersistentChange) -> Sense | None:
    """Its sense; None is a conflict.  Nothing else may come of it."""
    outcome = change_persistent(state, change)
    assert outcome.state is state
    assert not outcome.attentions
    assert not outcome.aborted
    if outcome.status is Status.RESERVATION_CONFLICT:
        assert outcome.sense is None
        return None
    assert outcome.status is Status.CHECK_CONDITION
    assert outcome.sense is not None
    return outcome.sense


def told(outcome: Outcome) -> set[tuple[NexusName, int]]:
    """Who has which qualifier of 2Ah."""
    assert all(it.asc == 0x2A for it in outcome.attentions)
    return {(it.nexus, it.ascq) for it in outcome.attentions}


RESERVATIONS_PREEMPTED, RELEASED, REGISTRATIONS_PREEMPTED = 3, 4, 5


def registered(*who: tuple[NexusName, int]) -> ReservationState:
    state = EMPTY
    for nexus, key in who:
        state = good(state, register(nexus, 0, key)).state
    return state


@pytest.fixture
def three() -> ReservationState:
    return registered((A, KEY_A), (B, KEY_B), (C, KEY_C))


def held(state: ReservationState, kind: Type, by: NexusName = A) -> ReservationState:
    key = state.key_of(by)
    assert key is not None
    return good(state, Reserve(nexus=by, existing=key, type=kind)).state


# --- registering (SPC-4 tables 55 and 56) ---------------------------------------------------------


def test_a_nexus_registers_changes_its_key_and_leaves() -> None:
    state = good(EMPTY, register(A, 0, KEY_A)).state
    assert (state.key_of(A), state.generation) == (KEY_A, 1)
    state = good(state, register(A, KEY_A, KEY_B)).state
    assert (state.key_of(A), state.generation) == (KEY_B, 2)
    state = good(state, register(A, KEY_B, 0)).state
    assert (state.registrations, state.generation) == ((), 3)


def test_a_wrong_key_is_a_conflict(three: ReservationState) -> None:
    assert refused(EMPTY, register(A, KEY_A, KEY_A)) is None
    assert refused(three, register(A, KEY_B, KEY_D)) is None
    assert refused(three, register(A, 0, KEY_D)) is None


def test_existing_keys_may_be_ignored(three: ReservationState) -> None:
    assert good(three, register(A, None, KEY_D)).state.key_of(A) == KEY_D
    assert good(three, register(D, None, KEY_D)).state.key_of(D) == KEY_D
    assert good(three, register(A, None, 0)).state.key_of(A) is None


def test_who_is_not_registered_leaves_without_a_trace(three: ReservationState) -> None:
    assert good(three, register(D, 0, 0)).state is three
    assert good(three, register(D, None, 0)).state is three


def test_others_are_registered_along_with_it(three: ReservationState) -> None:
    state = good(three, register(D, 0, KEY_D, others=(A, NexusName("new", bytes(6), 1)))).state
    assert state.key_of(D) == state.key_of(NexusName("new", bytes(6), 1)) == KEY_D
    assert state.key_of(A) == KEY_A, "it had a key of its own"
    assert state.generation == three.generation + 1


@pytest.mark.parametrize("key", [0, KEY_D])
def test_who_is_registered_cannot_name_others(three: ReservationState, key: int) -> None:
    assert refused(three, register(A, KEY_A, key, others=(D,))) == invalid_parameter(20, 3)


def test_all_target_ports_as_if_through_each_of_them() -> None:
    on_two = replace(A, port=2)
    state = good(EMPTY, register(A, 0, KEY_A, ports=(1, 2))).state
    assert state.nexuses() == (A, on_two)
    state = good(state, register(on_two, KEY_A, KEY_B)).state
    state = good(state, register(A, KEY_A, KEY_C, ports=(1, 2))).state
    assert (state.key_of(A), state.key_of(on_two)) == (KEY_C, KEY_B), "another key is a conflict"
    state = good(state, register(A, None, 0, ports=(1, 2))).state
    assert state.registrations == ()


def test_registrations_are_bounded() -> None:
    nexuses = tuple(NexusName(f"n{i}", bytes(6), 1) for i in range(REGISTRATIONS_MAX - 1))
    full = good(EMPTY, register(A, 0, KEY_A, others=nexuses)).state
    assert len(full.registrations) == REGISTRATIONS_MAX
    assert refused(full, register(B, 0, KEY_B)) == s.INSUFFICIENT_REGISTRATIONS
    assert good(full, register(A, KEY_A, KEY_B)).state.key_of(A) == KEY_B


def test_the_last_registration_decides_on_aptpl(three: ReservationState) -> None:
    lasting = good(three, register(A, KEY_A, KEY_A, aptpl=True)).state
    assert lasting.aptpl
    assert held(lasting, WE).aptpl
    assert not good(lasting, register(B, KEY_B, KEY_B)).state.aptpl


@pytest.mark.parametrize("kind", Type)
def test_a_holder_that_leaves(three: ReservationState, kind: Type) -> None:
    outcome = good(held(three, kind), register(A, KEY_A, 0))
    if kind in ALL_REGISTRANTS:
        assert outcome.state.type is kind, "the others hold it too"
        assert told(outcome) == set()
    else:
        assert (outcome.state.type, outcome.state.holder) == (None, None)
        assert told(outcome) == ({(B, RELEASED), (C, RELEASED)} if kind in REGISTRANTS else set())


def test_the_last_registrant_ends_a_reservation_of_all_of_them() -> None:
    state = held(registered((A, KEY_A)), WE_AR)
    assert good(state, register(A, KEY_A, 0)).state.type is None


# --- reserving and releasing ----------------------------------------------------------------------


def test_only_who_is_registered_reserves(three: ReservationState) -> None:
    assert refused(three, Reserve(nexus=D, existing=0, type=WE)) is None
    assert refused(three, Reserve(nexus=A, existing=KEY_B, type=WE)) is None


@pytest.mark.parametrize("kind", Type)
def test_a_holder_may_say_it_again_and_nothing_else(three: ReservationState, kind: Type) -> None:
    state = held(three, kind)
    assert state.generation == three.generation
    assert held(state, kind) is state
    another = WE if kind is not WE else WE_RO
    assert refused(state, Reserve(nexus=A, existing=KEY_A, type=another)) is None
    second = Reserve(nexus=B, existing=KEY_B, type=kind)
    if kind in ALL_REGISTRANTS:
        assert good(state, second).state is state
    else:
        assert refused(state, second) is None


@pytest.mark.parametrize("kind", Type)
def test_release(three: ReservationState, kind: Type) -> None:
    state = held(three, kind)
    outcome = good(state, Release(nexus=A, existing=KEY_A, type=kind))
    assert outcome.state == three
    assert told(outcome) == ({(B, RELEASED), (C, RELEASED)} if kind in REGISTRANTS else set())
    wrong = WE if kind is not WE else WE_RO
    assert refused(state, Release(nexus=A, existing=KEY_A, type=wrong)) == s.INVALID_RELEASE
    assert refused(state, Release(nexus=A, existing=KEY_A, type=None)) == s.INVALID_RELEASE
    assert refused(state, Release(nexus=A, existing=KEY_B, type=kind)) is None
    assert refused(state, Release(nexus=D, existing=0, type=kind)) is None
    if kind not in ALL_REGISTRANTS:
        assert good(state, Release(nexus=B, existing=KEY_B, type=kind)).state is state
    assert good(three, Release(nexus=A, existing=KEY_A, type=kind)).state is three


def test_clear(three: ReservationState) -> None:
    outcome = good(held(three, WE), Clear(nexus=B, existing=KEY_B))
    assert outcome.state == ReservationState(generation=three.generation + 1)
    assert told(outcome) == {(A, RESERVATIONS_PREEMPTED), (C, RESERVATIONS_PREEMPTED)}
    assert refused(three, Clear(nexus=D, existing=0)) is None


# --- preempting (SPC-4 5.13.11.2.3 to 5.13.11.2.6) ------------------------------------------------


def preempt(
    by: NexusName, existing: int, victim: int, kind: Type | None = WE, *, abort: bool = False
) -> Preempt:
    return Preempt(nexus=by, existing=existing, victim=victim, type=kind, abort=abort)


def test_registrations_are_preempted(three: ReservationState) -> None:
    for state in (three, held(three, WE)):
        outcome = good(state, preempt(B, KEY_B, KEY_C, None))
        assert outcome.state.nexuses() == (A, B)
        assert (outcome.state.type, outcome.state.holder) == (state.type, state.holder)
        assert outcome.state.generation == state.generation + 1
        assert told(outcome) == {(C, REGISTRATIONS_PREEMPTED)}
        assert outcome.aborted == ()


def test_a_reservation_is_preempted_with_its_holder(three: ReservationState) -> None:
    outcome = good(held(three, EA_RO), preempt(B, KEY_B, KEY_A, EA_RO, abort=True))
    assert outcome.state.nexuses() == (B, C)
    assert (outcome.state.type, outcome.state.holder) == (EA_RO, B)
    assert told(outcome) == {(A, REGISTRATIONS_PREEMPTED)}
    assert outcome.aborted == (A,)


def test_who_stays_registered_learns_of_a_new_type(three: ReservationState) -> None:
    outcome = good(held(three, EA_RO), preempt(B, KEY_B, KEY_A, WE))
    assert told(outcome) == {(A, REGISTRATIONS_PREEMPTED), (C, RELEASED)}


def test_all_who_share_the_key_go() -> None:
    state = held(registered((A, KEY_A), (B, KEY_B), (C, KEY_A), (D, KEY_D)), WE)
    outcome = good(state, preempt(B, KEY_B, KEY_A, WE, abort=True))
    assert outcome.state.nexuses() == (B, D)
    assert set(outcome.aborted) == {A, C}


def test_a_holder_preempts_itself(three: ReservationState) -> None:
    outcome = good(held(three, WE), preempt(A, KEY_A, KEY_A, EA_RO, abort=True))
    assert outcome.state.nexuses() == (A, B, C)
    assert (outcome.state.type, outcome.state.holder) == (EA_RO, A)
    assert told(outcome) == {(B, RELEASED), (C, RELEASED)}
    assert outcome.aborted == ()


def test_who_is_no_holder_preempts_itself_out(three: ReservationState) -> None:
    outcome = good(three, preempt(A, KEY_A, KEY_A, abort=True))
    assert outcome.state.nexuses() == (B, C)
    assert not outcome.attentions
    assert not outcome.aborted


def test_all_registrants_are_preempted_by_key_0(three: ReservationState) -> None:
    state = held(three, WE_AR)
    outcome = good(state, preempt(B, KEY_B, 0, WE, abort=True))
    assert (outcome.state.nexuses(), outcome.state.type, outcome.state.holder) == ((B,), WE, B)
    assert told(outcome) == {(A, REGISTRATIONS_PREEMPTED), (C, REGISTRATIONS_PREEMPTED)}
    assert set(outcome.aborted) == {A, C}


def test_one_of_all_registrants_is_preempted_and_the_others_hold_on(
    three: ReservationState,
) -> None:
    outcome = good(held(three, WE_AR), preempt(B, KEY_B, KEY_A))
    assert (outcome.state.nexuses(), outcome.state.type) == ((B, C), WE_AR)


def test_what_cannot_be_preempted(three: ReservationState) -> None:
    state = held(three, WE)
    assert refused(state, preempt(B, KEY_B, KEY_D)) is None
    assert refused(state, preempt(D, 0, KEY_A)) is None
    assert refused(state, preempt(B, KEY_C, KEY_A)) is None
    assert refused(state, preempt(B, KEY_B, 0)) == invalid_parameter(8)
    assert refused(state, preempt(B, KEY_B, KEY_A, None)) == invalid_cdb(2, 3)


# --- moving ---------------------------------------------------------------------------------------


def moved(
    by: NexusName, existing: int, key: int, to: NexusName, *, unregister: bool = False
) -> Move:
    return Move(nexus=by, existing=existing, key=key, to=to, unregister=unregister, aptpl=True)


def test_register_and_move(three: ReservationState) -> None:
    outcome = good(held(three, WE_RO), moved(A, KEY_A, KEY_D, D))
    state = outcome.state
    assert (state.holder, state.type, state.key_of(D), state.key_of(A)) == (D, WE_RO, KEY_D, KEY_A)
    assert (state.generation, state.aptpl) == (three.generation + 1, True)
    state = good(held(three, WE_RO), moved(A, KEY_A, KEY_D, B, unregister=True)).state
    assert (state.holder, state.key_of(B), state.key_of(A)) == (B, KEY_D, None)


def test_what_cannot_be_moved(three: ReservationState) -> None:
    assert refused(three, moved(A, KEY_A, KEY_D, D)) == invalid_cdb(1, 4)
    state = held(three, WE)
    assert refused(state, moved(B, KEY_B, KEY_D, D)) is None
    assert refused(state, moved(A, KEY_B, KEY_D, D)) is None
    assert refused(state, moved(A, KEY_A, 0, D)) == invalid_parameter(8)
    assert refused(state, moved(A, KEY_A, KEY_D, A)) == invalid_parameter(24)
    assert refused(held(three, WE_AR), moved(A, KEY_A, KEY_D, D)) is None
    many = tuple(NexusName(f"n{i}", bytes(6), 1) for i in range(REGISTRATIONS_MAX - 1))
    full = held(good(EMPTY, register(A, 0, KEY_A, others=many)).state, WE)
    assert refused(full, moved(A, KEY_A, KEY_D, D)) == s.INSUFFICIENT_REGISTRATIONS
    assert good(full, moved(A, KEY_A, KEY_D, D, unregister=True)).state.holder == D


# --- RESERVE and RELEASE of SPC-2 -----------------------------------------------------------------


def exclusive(state: ReservationState, change: ExclusiveChange) -> ReservationState | None:
    outcome = change_exclusive(state, change)
    if outcome.status is Status.RESERVATION_CONFLICT:
        assert outcome.state is state
        return None
    assert (outcome.status, outcome.sense) == (Status.GOOD, None)
    assert not outcome.attentions
    assert not outcome.aborted
    return outcome.state


def test_reserve_and_release() -> None:
    state = exclusive(EMPTY, ReserveUnit(A))
    assert state is not None
    assert state.reserved_by == A
    assert exclusive(state, ReserveUnit(A)) == state
    assert exclusive(state, ReserveUnit(B)) is None
    assert exclusive(state, ReserveUnit(A, 2)) is None, "another session"
    assert exclusive(state, ReleaseUnit(A, 2)) is state
    assert forbidden(state, A, 2) == forbidden(state, B) > forbidden(state, A)
    assert exclusive(state, ReleaseUnit(B)) is state, "not its own: nothing happens"
    assert exclusive(state, ReleaseUnit(A)) == EMPTY


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (NexusLost(A), True),
        (NexusLost(B), False),
        (NexusLost(A, 2), False),
        (PortLost(1), True),
        (PortLost(2), False),
        (UnitReset(), True),
    ],
)
def test_what_ends_a_reservation(
    change: ExclusiveChange, ends: bool, three: ReservationState
) -> None:
    state = replace(EMPTY, reserved_by=A)
    assert exclusive(state, change) == (EMPTY if ends else state)
    assert exclusive(held(three, WE), change) == held(three, WE), "persistent ones stay"


def test_the_two_kinds_exclude_each_other(three: ReservationState) -> None:
    assert exclusive(three, ReserveUnit(A)) is None
    assert exclusive(three, ReleaseUnit(A)) is None
    state = replace(EMPTY, reserved_by=A)
    assert refused(state, register(A, 0, KEY_A)) is None
    assert refused(state, register(B, None, KEY_A)) is None


# --- as bytes, and after power loss ---------------------------------------------------------------


def test_a_state_is_the_same_from_bytes(three: ReservationState) -> None:
    for state in (EMPTY, held(three, WE), held(three, WE_AR), replace(EMPTY, reserved_by=A)):
        assert decode_state(encode_state(state)) == state
    with pytest.raises(ValueError, match="type"):
        decode_state(b'{"type": 2}')


def test_what_is_left_after_power_loss(three: ReservationState) -> None:
    assert after_power_loss(held(three, WE)) == EMPTY
    lasting = replace(held(three, WE), aptpl=True)
    assert after_power_loss(lasting) == replace(lasting, generation=0)
    assert after_power_loss(replace(EMPTY, reserved_by=A)) == EMPTY


# --- anything at all ------------------------------------------------------------------------------


def any_change(rng: random.Random, state: ReservationState) -> PersistentChange | ExclusiveChange:
    nexuses = [replace(nexus, port=port) for nexus in (A, B, C, D) for port in (1, 2)]
    nexus = rng.choice(nexuses)
    known = [it.key for it in state.registrations]
    existing = state.key_of(nexus) or 0
    if rng.random() < 0.2:
        existing = rng.choice([0, KEY_A, *known])
    key = rng.choice([0, KEY_A, KEY_B, KEY_C, *known])
    kind = state.type if state.type is not None and rng.random() < 0.5 else rng.choice(list(Type))
    others = tuple(rng.sample(nexuses, 2)) if rng.random() < 0.1 else None
    ports = rng.choice([(nexus.port,), (1, 2)])
    choices: list[PersistentChange | ExclusiveChange] = [
        register(nexus, existing, key, ports=ports, others=others),
        register(nexus, None, key, ports=ports),
        Reserve(nexus=nexus, existing=existing, type=kind),
        Release(nexus=nexus, existing=existing, type=kind),
        Clear(nexus=nexus, existing=existing),
        preempt(nexus, existing, key, kind, abort=rng.random() < 0.5),
        moved(nexus, existing, key, rng.choice(nexuses), unregister=rng.random() < 0.5),
        ReserveUnit(nexus),
        ReleaseUnit(nexus),
        NexusLost(nexus),
        PortLost(1),
        UnitReset(),
    ]
    return rng.choices(choices, weights=[16, 6, 12, 4, 2, 6, 4, 6, 4, 1, 1, 1])[0]


def changed(
    state: ReservationState, change: PersistentChange | ExclusiveChange
) -> tuple[Outcome, bool]:
    if isinstance(change, ExclusiveChange):
        return change_exclusive(state, change), False
    return change_persistent(state, change), True


def names(attentions: Iterable[Attention]) -> list[NexusName]:
    return [it.nexus for it in attentions]


@pytest.mark.parametrize("seed", range(4))
def test_what_holds_whatever_is_asked(seed: int) -> None:
    """A nexus loses access or registration to others only by being told, or by its own doing."""
    rng = random.Random(seed)
    state = EMPTY
    seen: set[str] = set()
    for _ in range(3000):
        change = any_change(rng, state)
        outcome, persistent = changed(state, change)
        after = outcome.state
        asks = getattr(change, "nexus", None)
        if outcome.status is not Status.GOOD:
            assert after is state
            assert not outcome.attentions
            assert not outcome.aborted
            state = after
            continue
        seen.add(type(change).__name__)
        registered_now, registered_before = set(after.nexuses()), set(state.nexuses())
        assert len(after.registrations) == len(registered_now)
        assert all(it.key for it in after.registrations)
        if after.type in ALL_REGISTRANTS:
            assert after.holder is None
            assert registered_now
        else:
            assert (after.type is None) == (after.holder is None)
            assert after.holder is None or after.holder in registered_now
        assert after.reserved_by is None or not after.registrations
        counted = after.generation != state.generation
        assert counted or after.registrations == state.registrations
        assert asks not in names(outcome.attentions)
        assert asks not in outcome.aborted
        assert set(outcome.aborted) <= registered_before
        assert decode_state(encode_state(after)) == after
        if persistent and not isinstance(change, Register):
            lost = registered_before - registered_now - {asks}
            assert lost <= set(names(outcome.attentions))
        for it in registered_now & registered_before - {asks}:
            if forbidden(state, it) < forbidden(after, it) and state.type is not None:
                assert it in names(outcome.attentions), (state, change)
        state = after
    assert len(seen) >= 9


def test_a_stranger_is_barred_from_writing_under_every_type(three: ReservationState) -> None:
    for kind in Type:
        assert Access.WRITE in forbidden(held(three, kind), D)
