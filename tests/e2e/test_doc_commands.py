"""The commands that the documentation shows do what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.doc_commands import cannot_run, has_commands, run_page, script, unmarked
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.tools import require_tool

PAGES = [
    path
    for path in [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]
    if has_commands(path.read_text())
]


@pytest.fixture
def tools() -> None:
    for tool in ("unshare", "ip", "iscsi-ls", "qemu-img", "redis-server"):
        require_tool(tool)
    if reason := cannot_run():
        if os.environ.get("LUNMESH_TEST_SKIP_MISSING") == "1":
            pytest.skip(reason)
        pytest.fail(reason)


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_the_commands_of_a_page_run(page: Path) -> None:
    done = run_page(page, 100)
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_way_in_is_among_them() -> None:
    names = {path.name for path in PAGES}
    assert {"README.md", "index.md", "single-machine.md"} <= names


def test_every_block_runs_or_says_why_not() -> None:
    docs = PROJECT_ROOT / "docs"
    for path in docs.rglob("*.md"):
        if docs / "reference" not in path.parents:  # printed by the program
            assert unmarked(path.read_text()) == [], path
    assert unmarked("\n\n```sh\nlunmesh serve\n```\n") == ["lunmesh serve"]
    assert unmarked("<!-- not run:  -->\n```sh\nls\n```\n") == ["ls"]
    assert unmarked("text:\n\n    lunmesh top\n") == ["lunmesh top"]
    assert unmarked("<!-- not run: root -->\n```sh\nls\n```\n<!-- run -->\n```sh\nls\n```\n") == []


@pytest.mark.usefixtures("tools")
def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run -->\n\n    true\n    false\n\n<!-- run -->\n```sh\necho reached\n```\n"
    )
    done = run_page(page, 30)
    assert done.returncode == 1
    assert "echo reached" not in done.stdout
    page.write_text("<!-- run: serve -->\n```sh\necho not what it should say\n```\n")
    assert "not ready: echo" in run_page(page, 30).stdout
    serves = "sh -c 'echo lunmesh ready:; exec sleep 1000'"
    page.write_text(f"<!-- run: serve -->\n```sh\n{serves}\n```\n")
    assert run_page(page, 30).returncode == 0
    page.write_text(page.read_text() + "<!-- run -->\n```sh\nsleep 1000\n```\n")
    assert run_page(page, 1).returncode != 0
    with pytest.raises(ValueError, match="perhaps"):
        script("<!-- run: perhaps -->\n", tmp_path)
