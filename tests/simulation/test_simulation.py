"""Ten thousand clusters, each with its own faults: every block is one register in all of them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields

import pytest

from target.cluster.node import ClusterNode
from tests.simulation.registers import Operation, violation
from tests.simulation.world import Switches, World
from tests.support.skipping_loop import run_skipping

SCHEDULES = 10_000
PROCESSES = 2
CROWDED = 40  # one in so many has more going on
SABOTAGED_SCHEDULES = 400
# Where a violation takes more going on, or much of one kind of faults.
CROWDED_SWITCHES = ("who_comes_says_so", "peers_are_kept", "proofs_are_asked")
FAULTS_OF = {"peers_are_kept": "forget", "proofs_are_asked": "go_back"}


def play(
    seed: int, switches: Switches | None = None, crowded: bool = False, only: str = ""
) -> tuple[str, int, int]:
    """Why it was no single copy (or nothing), operations answered, faults."""
    if crowded:
        world = World(seed, switches, late=0.3)
        why = run_skipping(world.run(initiators=8, operations=16, only=only))
    else:
        world = World(seed, switches)
        why = run_skipping(world.run())
    return why, world.answered, world.faults


def play_some(seeds: range) -> tuple[list[str], int, int]:
    played = [(seed, *play(seed, crowded=seed % CROWDED == 0)) for seed in seeds]
    return (
        [f"seed {seed}: {why}" for seed, why, _, _ in played if why],
        sum(answered for _, _, answered, _ in played),
        sum(faults for _, _, _, faults in played),
    )


@pytest.mark.timeout(900)
def test_ten_thousand_schedules() -> None:
    parts = [range(first, first + 250) for first in range(0, SCHEDULES, 250)]
    # Not forked: other tests have left threads here.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        results = list(pool.map(play_some, parts))
    assert [why for violations, _, _ in results for why in violations] == []
    answered, faults = sum(r[1] for r in results), sum(r[2] for r in results)
    print(f"{SCHEDULES} schedules: {answered} operations answered, {faults} faults, 0 violations")
    assert answered > 20 * SCHEDULES
    assert faults > SCHEDULES


def bites(switches: Switches | None = None, crowded: bool = False, only: str = "") -> bool:
    return any(play(seed, switches, crowded, only)[0] for seed in range(SABOTAGED_SCHEDULES))


@pytest.mark.parametrize("switch", [field.name for field in fields(Switches)])
def test_without_it_the_checker_finds_a_violation(switch: str) -> None:
    crowded, only = switch in CROWDED_SWITCHES, FAULTS_OF.get(switch, "")
    assert bites(Switches(**{switch: False}), crowded, only)


def test_a_node_that_does_not_look_at_its_lease_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterNode, "leased", True)
    assert bites()


def test_a_lease_that_does_not_end_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks go at rates of their own."""
    monkeypatch.setattr("target.cluster.node.MARGIN", 0.0)
    assert bites()


# --- the checker ----------------------------------------------------------------------------------


def w(value: int, begin: float, end: float, **more: float) -> Operation:
    return Operation("write", begin, end, value, **more)  # type: ignore[arg-type]


def r(value: int, begin: float, end: float) -> Operation:
    return Operation("read", begin, end, value)


def s(compared: int, value: int, begin: float, end: float) -> Operation:
    return Operation("swap", begin, end, value, compared)


NEVER = float("inf")


@pytest.mark.parametrize(
    "history",
    [
        [w(1, 0, 1), r(1, 2, 3)],
        [w(1, 0, 5), r(0, 1, 2), r(1, 3, 4)],
        [w(1, 0, NEVER), r(0, 1, 2), r(1, 3, 4)],
        [w(1, 0, NEVER), w(2, 1, 2), r(2, 3, 4)],
        [w(1, 0, NEVER), w(2, 1, 2), r(1, 3, 4)],  # it may happen late
        [w(1, 0, 9), w(2, 1, 2), r(2, 3, 4), r(1, 5, 6)],
        [s(0, 1, 0, 1), s(1, 2, 2, 3), r(2, 4, 5)],
    ],
)
def test_what_one_register_can_do(history: list[Operation]) -> None:
    assert violation(history) == ""


@pytest.mark.parametrize(
    "history",
    [
        [r(1, 0, 1)],
        [w(1, 2, 3), r(1, 0, 1)],
        [w(1, 0, 1), r(0, 2, 3)],
        [w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)],
        [w(1, 0, 9), r(1, 1, 2), r(0, 3, 4)],
        [w(1, 0, 1), w(2, 2, NEVER), r(2, 3, 4), r(1, 5, 6)],
        [w(1, 0, NEVER, latest=2), w(2, 3, 4), r(1, 5, 6)],  # it was over
        [s(0, 1, 0, 1), s(0, 2, 2, 3)],
        [s(0, 1, 0, 1), r(0, 2, 3)],
    ],
)
def test_what_it_cannot(history: list[Operation]) -> None:
    assert violation(history)
