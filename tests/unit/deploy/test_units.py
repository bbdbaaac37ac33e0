"""The systemd units: what systemd itself says of them, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
NAMES = ("lunmesh.service", "lunmesh-worker@.service")
EXPOSURE_MAX = 1.5


@pytest.fixture
def analyze() -> str:
    path = shutil.which("systemd-analyze")
    if path is None:
        pytest.skip("systemd-analyze is not installed")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_it_says_itself_that_it_serves(name: str) -> None:
    """tests/e2e/test_notify.py has what it says."""
    lines = (UNITS / name).read_text("utf-8").splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_little_is_exposed(analyze: str, name: str) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_every_line(analyze: str, name: str, tmp_path: Path) -> None:
    """With the interpreter as its program: /opt/lunmesh is not on this machine."""
    unit = tmp_path / name.replace("@", "@ssd0")
    text = (UNITS / name).read_text("utf-8")
    unit.write_text(text.replace("/opt/lunmesh/bin/lunmesh", sys.executable), "utf-8")
    drop_in = "credentials.conf"
    (tmp_path / f"{unit.name}.d").mkdir()
    shutil.copyfile(UNITS / f"{name}.d" / drop_in, tmp_path / f"{unit.name}.d" / drop_in)
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert unit.name not in done.stderr, done.stderr
    assert drop_in not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
