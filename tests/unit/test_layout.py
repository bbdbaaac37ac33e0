"""What the house keeps about its own files and import-linter cannot say."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("target", "workers", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_the_store_interface_imports_nothing_of_workers() -> None:
    """target/block imports it: whatever it imported would come along."""
    tree = ast.parse((ROOT / "workers" / "store.py").read_text())
    imported = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else ["." * node.level + (node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert [name for name in imported if name.startswith((".", "workers", "target"))] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_grows_past_600_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600
