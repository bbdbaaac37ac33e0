"""What mkdocs.yml cannot say: pages from outside docs/, the decisions, and links that lead out.

1. Every README.md below deploy/ is a page too: deploy/fio/README.md is deploy/fio.md of the site.
2. A link to one of them, or from one of them into docs/, is turned to where the page is here.
   One to any other file outside docs/ becomes its text: the site has no sources to show.
3. A list may follow the line above it at once, as on GitHub; Python-Markdown wants a blank line.
4. Decisions stand in the navigation by number, and what mkdocs.yml does not name, under "More".
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
_CODE: Final = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LIST_AT_ONCE: Final = re.compile(r"^((?!- |\d+\. |\s).+)\n(?=- |1\. )", re.M)
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def _outside() -> dict[str, Path]:
    """Where pages from outside docs/ are in the site, and where they come from."""
    found = sorted((ROOT / "deploy").rglob("README.md"))
    return {f"{path.parent.relative_to(ROOT).as_posix()}.md": path for path in found}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Rule 4."""
    decisions = [f"decisions/{path.name}" for path in sorted((DOCS / "decisions").glob("*.md"))]
    nav: list[Any] = [*(config.nav or []), {"Decisions": decisions}]
    named = set(_pages_in(nav))
    pages = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))]
    if more := [page for page in (*pages, *_outside()) if page not in named]:
        nav.append({"More": more})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Rule 1."""
    for uri, path in _outside().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rules 2 and 3."""
    outside = _outside()
    uri = page.file.src_uri
    source = outside.get(uri, DOCS / uri)
    in_site = {path: uri for uri, path in outside.items()}

    def turned(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        target = Path(os.path.normpath(source.parent / link))
        if target in in_site:
            goal = in_site[target]
        elif target.is_relative_to(DOCS):
            goal = target.relative_to(DOCS).as_posix()
        else:
            return text
        return f"[{text}]({os.path.relpath(goal, os.path.dirname(uri) or '.')}{anchor})"

    pieces = _CODE.split(_LINK.sub(turned, markdown))  # every other one is code
    pieces[::2] = [_LIST_AT_ONCE.sub(r"\1\n\n", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _pages_in(nav: object) -> list[str]:
    """The files that a navigation names."""
    match nav:
        case str():
            return [nav]
        case dict():
            return [page for inner in nav.values() for page in _pages_in(inner)]
        case list():
            return [page for inner in nav for page in _pages_in(inner)]
        case _:
            return []
