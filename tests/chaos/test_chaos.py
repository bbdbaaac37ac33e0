"""One target and its workers, harm done to all of them: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.history import End, Op
from tests.chaos.run import NO_SPACE, run
from tests.support.ceph_cluster import CephCluster

SECONDS = 30
SEED = 20261123


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_die_stall_lose_their_streams_and_their_space(tmp_path: Path) -> None:
    report = run(tmp_path, seconds=SECONDS, seed=SEED)
    print(report)
    assert report.violations == []
    # It has to have done something to be worth anything.
    assert len(report.injected) >= 7
    assert report.operations[Op.WRITE, End.OK] > 1000
    assert report.operations[Op.READ, End.OK] > 1000
    assert report.operations[Op.FLUSH, End.FAIL] > 0
    assert report.blocks_checked > 2000
    if not report.no_disks:
        assert report.senses[NO_SPACE] > 0


@pytest.mark.ceph
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_of_a_pool_die_stall_and_stand_in_for_each_other(
    ceph: CephCluster, tmp_path: Path
) -> None:
    """Each fault once: kill -9, SIGSTOP until others stand in, with and without the OSD, cuts."""
    report = run(tmp_path, seconds=0, seed=SEED, ceph=ceph)
    print(report)
    assert report.violations == []
    assert len(report.injected) == 7
    assert report.stand_ins >= 3
    assert report.operations[Op.WRITE, End.OK] > 500
    assert report.operations[Op.READ, End.OK] > 500
    assert report.blocks_checked > 2000
