"""Three nodes, one disk, harm done to everything: each block stays one atomic register."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.history import End, Op
from tests.chaos.node_faults import LATE_WRITES
from tests.chaos.run import run

NODES = 3
SECONDS = 120
SEED = 20261123
# What a node had sent does not always arrive in time to do harm.
UNFENCED_RUNS, UNFENCED_SECONDS = 4, 10


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_nodes_workers_redis_and_the_networks_between_them_fail(tmp_path: Path) -> None:
    report = run(tmp_path, seconds=SECONDS, seed=SEED, nodes=NODES)
    print(report)
    assert report.violations == []
    assert report.overdue == 0, "every command is answered, BUSY at worst"
    # It has to have done something to be worth anything.
    assert len(report.injected) >= 20
    assert report.operations[Op.WRITE, End.OK] > 3000
    assert report.operations[Op.READ, End.OK] > 3000
    assert report.operations[Op.SWAP, End.OK] > 300
    assert report.operations[Op.SWAP, End.DIFFER] > 100
    assert report.operations[Op.WRITE, End.INFO] > 10
    assert report.operations[Op.ABORT, End.OK] > 50
    assert report.moves > 20
    assert report.blocks_checked > 2000


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_fencing_it_is_seen_that_writes_land_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"{sys.executable} -m tests.chaos.unfenced serve"
    monkeypatch.setenv("LUNMESH_TEST_COMMAND", command)
    for number in range(UNFENCED_RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        report = run(
            folder, seconds=UNFENCED_SECONDS, seed=SEED + number, nodes=2, faults=[LATE_WRITES]
        )
        print(report)
        if report.violations:
            return
    pytest.fail("nothing that was late has been found")
