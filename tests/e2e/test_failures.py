"""`make failures` measures what it says; how long a pause is, is not a matter for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.failures.__main__ import BEGIN, END
from tests.failures.cases import Case, NotSettled, Scene, alone, play
from tests.support.lunmesh_server import PROJECT_ROOT


@pytest.mark.slow
def test_no_initiator_has_an_error_when_a_node_is_killed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}{END}after\n")
    command = [sys.executable, "-m", "tests.failures", "--rounds", "1", "--case", "node is killed"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "out"), "--docs", str(page)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["failures"] == []
    (case,) = result["cases"].items()
    assert case[0] == "the only node is killed and started again"
    (outcome,) = case[1]
    # Its process had to start: no less can it be.
    assert outcome["pauses"]["through it"] > 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert f"| {case[0]} |" in text


def test_a_disk_that_never_comes_back_is_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(scene: Scene) -> None:
        scene.nodes[0].kill()

    monkeypatch.setattr("tests.failures.cases.SETTLED_SECONDS_MAX", 0.5)
    with pytest.raises(NotSettled, match="through it"):
        play(Case("killed, for good", alone, kill), tmp_path)


def test_the_page_has_a_place_for_the_table() -> None:
    assert BEGIN in (PROJECT_ROOT / "docs" / "failures.md").read_text()
