"""Two minutes of `make soak`: two rounds, or more where the machine is quick."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import ROUNDS_MIN, soak

SEED = 20261123
SECONDS = 110


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_grows(tmp_path: Path) -> None:
    report = soak(tmp_path, seconds=SECONDS, seed=SEED)
    print(report)
    assert report.clean
    # It has to have done something to be worth anything.
    assert report.rounds >= ROUNDS_MIN
    assert len(report.injected) >= 10
    assert report.operations > 5000
    assert all(report.churned[name] > 5 for name in ("create", "delete", "login", "scrape"))
