"""The documentation's site is built, asks nobody for anything, and its reference is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.reference import FOLDER, PAGES

ROOT = Path(__file__).resolve().parents[2]
# What a browser fetches by itself; a link that somebody follows is none of these.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(https?:)?//|<link(?![^>]*canonical)[^>]*\shref=[\"']?(https?:)?//"
    r"|url\([\"']?(https?:)?//|@import [\"']?(https?:)?//"
)


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make reference`"


def test_nothing_else_is_in_its_folder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.slow
def test_the_site_is_built_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
               for path in (ROOT / "docs").rglob("*.md")}  # fmt: skip
    assert sources | {"deploy/fio.html", "deploy/multipath.html"} <= pages
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css"):
            found = FETCHED.search(path.read_text())
            assert found is None, f"{path.relative_to(site)}: {found and found[0]}"
    # Decisions are in the navigation, and links out of docs/ lead to where the pages are.
    start = (site / "index.html").read_text()
    assert "decisions/0001-waits-without-an-event-loop.html" in start
    consequences = (site / "decisions" / "0010-retries-never-reorder.html").read_text()
    assert re.search("Consequences.</strong></p>\\s*<ul>", consequences)
    assert "../deploy/multipath.html" in (site / "guides" / "linux.html").read_text()
