"""`make bench` runs to its end and measures what it says. How fast is not a matter for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.servers import ECHO, TGTD, WORKER_UNIX
from tests.bench.suites import Suite, suites
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.tools import require_tool

# What each is compared with.
PEERS = {
    "local": TGTD,
    "digests": TGTD,
    "floor": ECHO,
    "cluster": WORKER_UNIX,
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", [suite for suite in suites() if suite.name in PEERS])
def test_every_row_is_measured(suite: Suite, tmp_path: Path) -> None:
    for tool in ("iscsi-perf", "qemu-img", "cc"):
        require_tool(tool)
    short = ("--rounds", "1", "--seconds", "0.1", "--size", "16M")
    done = bench("--suite", suite.name, *short, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "results.json").read_text())[suite.name]
    servers = {server.name for server in suite.servers if not server.missing}
    assert [row["name"] for row in result["rows"]] == [row.name for row in suite.rows]
    for row in result["rows"]:
        assert set(row["samples"]) == servers
        for (sample,) in row["samples"].values():
            assert sample["rate"] > 0
    # A peer that is not there is named, and one that is there has something said about it.
    peer = PEERS[suite.name]
    assert peer in done.stdout
    assert (peer not in servers) == any(peer in reason for reason in result["missing"])
    assert all(memory["peak_bytes"] > 0 for memory in result["memory"].values())
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "goals.svg"}


def test_a_server_that_nobody_has_is_an_error(tmp_path: Path) -> None:
    done = bench("--server", "no-such-server", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "nothing to measure" in done.stdout
