"""`make sbom`: everything that is needed to run is in it, as it is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tools.sbom import document

PROJECT = Path(__file__).resolve().parents[2]


def test_all_that_runs_is_in_it_with_its_licence() -> None:
    bill = document()
    components = {it["name"]: it for it in bill["components"]}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    direct = [re.split(r"[<>=~! ]", it)[0].lower() for it in project["dependencies"]]
    assert {name.replace("_", "-") for name in direct} <= set(components)
    assert "pytest" not in components, "what only tests need does not run"
    for name, it in components.items():
        assert it.get("licenses"), f"{name} has no licence"
    refs = {it["bom-ref"] for it in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    for it in bill["dependencies"]:
        assert {it["ref"], *it["dependsOn"]} <= refs


def test_versions_are_the_pinned_ones() -> None:
    lines = (PROJECT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    for it in document()["components"]:
        assert pinned[it["name"]] == it["version"]


def test_the_same_environment_gives_the_same_document() -> None:
    assert document() == document()
