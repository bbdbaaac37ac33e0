"""`make bench` runs to its end and measures what it says. How fast is not a matter for a test."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.bench import growth
from tests.bench.servers import (
    ECHO,
    EMBEDDED,
    GRPC,
    TGTD,
    TWO_WORKERS,
    WORKER_UNIX,
    WORKER_WIRE,
)
from tests.bench.suites import Suite, suites
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.tools import require_tool

# What each is compared with.
PEERS = {
    "local": TGTD,
    "digests": TGTD,
    "floor": ECHO,
    "workers": TGTD,
    "cluster": WORKER_UNIX,
}
# Where not all that the suite has can be measured in a test's time: those with goals, and the wire.
SERVERS = {"workers": (WORKER_UNIX, WORKER_WIRE, TWO_WORKERS, TGTD, GRPC)}
SHORT = ("--rounds", "1", "--seconds", "0.1", "--size", "16M")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", [suite for suite in suites() if suite.name in PEERS])
def test_every_row_is_measured(suite: Suite) -> None:
    with tempfile.TemporaryDirectory(prefix="b-") as folder:  # short: for Unix sockets
        measure_every_row(suite, Path(folder))


def measure_every_row(suite: Suite, tmp_path: Path) -> None:
    for tool in ("iscsi-perf", "qemu-img", "cc"):
        require_tool(tool)
    wanted = SERVERS.get(suite.name, ())
    chosen = [word for name in wanted for word in ("--server", name)]
    done = bench("--suite", suite.name, *chosen, *SHORT, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "results.json").read_text())[suite.name]
    servers = {
        server.name
        for server in suite.servers
        if not server.missing and (not wanted or server.name in wanted)
    }
    assert [row["name"] for row in result["rows"]] == [row.name for row in suite.rows]
    unmeasured = [reason.split(":")[0] for reason in result["unmeasured"]]
    for row in result["rows"]:
        assert set(row["samples"]) == servers
        for samples in row["samples"].values():
            assert len(samples) == (row["name"] not in unmeasured)
            assert all(sample["rate"] > 0 for sample in samples)
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_grows_is_measured() -> None:
    require_tool("cc")
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        done = bench("--suite", "growth", *SHORT, "--folder", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((Path(folder) / "results.json").read_text())["growth"]
    found = {verdict["row"]: verdict for verdict in result["verdicts"]}
    unmeasured = {reason.split(":")[0] for reason in result["unmeasured"]}
    assert found.keys() | unmeasured == growth.GOALS.keys()
    assert unmeasured <= {growth.CPU_LARGE}
    for row in growth.COMMAND.values():
        assert 0.1 < found[row]["value"] < 64  # so many were outstanding that they can be told


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_where_cpu_time_goes_is_found_for_reads_and_writes(tmp_path: Path) -> None:
    require_tool("cc")
    chosen = ("--suite", "local", "--server", EMBEDDED, "--row", " load", "--size", "16M")
    # A checkout to compare with may be any; here it is this one.
    source = ("--source", str(PROJECT_ROOT))
    done = bench("--spy", *chosen, *source, "--seconds", "1", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "results.json").read_text())["spied"]["local"][EMBEDDED]
    phases: set[str] = set()
    for size in ("4 KiB random", "256 KiB seq"):
        for op in ("read", "write"):
            (spent,) = (
                found
                for row, found in result.items()
                if row in (f"{size} {op} d32 load", f"{size} {op} d8 load")
            )
            assert abs(sum(it["share"] for it in spent) - 1) < 1e-6
            assert sum(it["microseconds"] for it in spent) > 0
            assert sum(it["looks"] for it in spent) > 0
            phases |= {it["phase"] for it in spent}
            assert f"{size} {op}" in done.stdout
    assert {"iSCSI", "the socket: sendmsg"} <= phases
    assert any(phase.startswith("the page cache") for phase in phases)


def test_a_checkout_without_a_target_is_an_error(tmp_path: Path) -> None:
    done = bench("--source", str(tmp_path))
    assert done.returncode == 2
    assert "there is no target" in done.stderr
