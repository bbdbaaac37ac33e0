"""Three nodes, one disk, harm done to everything: each block stays one atomic register."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.alone_faults import COMES_TO_A_STOPPED_ONE
from tests.chaos.checker import LOST_FLUSH
from tests.chaos.history import End, Op
from tests.chaos.node_faults import LATE_WRITES
from tests.chaos.run import run
from tests.chaos.zones import Violation

NODES = 3
SECONDS = 120
SEED = 20261123
# What a node had sent does not always arrive in time to do harm.
SABOTAGED_RUNS, SABOTAGED_SECONDS = 4, 10


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_nodes_workers_redis_and_the_networks_between_them_fail(tmp_path: Path) -> None:
    report = run(tmp_path, seconds=SECONDS, seed=SEED, nodes=NODES)
    print(report)
    assert report.violations == []
    assert report.overdue == 0, "every command is answered, BUSY at worst"
    # It has to have done something to be worth anything.
    assert len(report.injected) >= 22
    assert report.overlapped.total() > 0
    assert not any(LOST_FLUSH in pair for pair in report.overlapped)
    assert report.operations[Op.WRITE, End.OK] > 3000
    assert report.operations[Op.READ, End.OK] > 3000
    assert report.operations[Op.SWAP, End.OK] > 300
    assert report.operations[Op.SWAP, End.DIFFER] > 100
    assert report.operations[Op.WRITE, End.INFO] > 10
    assert report.operations[Op.ABORT, End.OK] > 50
    assert report.moves > 20
    assert report.hand_overs >= 5
    assert report.blocks_checked > 2000


def found_with(
    sabotage: str, fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Violation]:
    """What nodes do wrong that run as the module ``sabotage``, under that fault."""
    command = f"{sys.executable} -m tests.chaos.{sabotage} serve"
    monkeypatch.setenv("LUNMESH_TEST_COMMAND", command)
    violations: list[Violation] = []
    for number in range(SABOTAGED_RUNS):
        into, seed = folder / str(number), SEED + number
        into.mkdir()
        report = run(into, seconds=SABOTAGED_SECONDS, seed=seed, nodes=2, faults=[fault])
        print(report)
        violations += report.violations
        if violations:
            break
    return violations


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_fencing_it_is_seen_that_writes_land_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_with("unfenced", LATE_WRITES, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_that_does_not_wait_for_one_that_was_alone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_with("impatient", COMES_TO_A_STOPPED_ONE, tmp_path, monkeypatch)
