"""What the house keeps about its own files and import-linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
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


def test_what_belongs_together_runs_in_one_process(request: pytest.FixtureRequest) -> None:
    """A pair of pytest and xdist that does not know each other forgets the groups in silence."""
    worker = getattr(request.config, "workerinput", None)
    if worker is None or not any("loadgroup" in argument for argument in worker["mainargv"]):
        pytest.skip("only where groups are asked for, as `make test` does")
    assert request.node.nodeid.endswith("@tests/unit/test_layout.py")


def test_a_node_alone_loads_nothing_that_it_does_not_use() -> None:
    """Each costs memory and time to start, where there are neither workers nor Redis nor traces."""
    costly = ("grpc", "google.protobuf", "redis", "prometheus_client", "opentelemetry", "aiofiles")
    code = f"import sys, target.cli.serve; print(*set({costly}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
