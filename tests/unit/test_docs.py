"""The documentation keeps up with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from target.cli.app import app
from target.config import Options, load_serve_config
from target.config.options import VolumeTable, field_of, option_names

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
# | `name` | `default` | text |
ROW = re.compile(r"^\| `([a-z-]+)` \| (?:`([^`]*)`)? ?\|", re.MULTILINE)


def table_under(heading: str) -> dict[str, str]:
    section = REFERENCE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return {name: default or "" for name, default in ROW.findall(section)}


def flags_of_serve() -> dict[str, str]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return {
        parameter.opts[0].removeprefix("--"): getattr(parameter, "help", "") or ""
        for parameter in group.commands["serve"].params
    }


def test_the_reference_names_every_option() -> None:
    assert set(table_under("Options")) == set(option_names())
    assert set(table_under("Volumes")) == set(VolumeTable.__struct_fields__)


def test_the_metrics_are_those_that_there_are() -> None:
    """That the reference has all of them is `make reference`'s affair."""
    there = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    told = set(re.findall(r"`(lunmesh_[a-z_]+)`", there))
    used = set(re.findall(r"\b(lunmesh_[a-z_]+)", (ROOT / "docs" / "monitoring.md").read_text()))
    assert len(used) > 10
    assert {name.removesuffix("_bucket") for name in used} <= told


def test_every_option_is_a_flag_and_the_other_way_round() -> None:
    assert set(flags_of_serve()) == {"config", *option_names()}


def test_defaults_are_the_same_in_help_reference_and_code() -> None:
    documented = table_under("Options")
    in_help = {
        name: match[1]
        for name, text in flags_of_serve().items()
        if (match := re.search(r"\[default: (.*)\]", text.replace("\\", "")))
    }
    assert in_help == {name: default for name, default in documented.items() if default}
    # Written out, the defaults must make no difference.
    needed: dict[str, object] = {"redis": "redis://localhost", "worker": "localhost"}
    given = needed | {field_of(name): default for name, default in in_help.items()}
    for name in ("queue_depth", "io_threads", "busy_poll", "processes"):
        given[name] = int(str(given[name]))
    seconds = {
        name
        for name in given
        if name.endswith(("_timeout", "_interval", "_wait", "lease", "_ratio"))
    }
    for name in seconds:
        given[name] = float(str(given[name]))
    for name in ("chap_discovery", "strict"):
        given[name] = given[name] == "yes"
    written_out = load_serve_config(Options(**given))  # type: ignore[arg-type]
    assert written_out == load_serve_config(Options(**needed))  # type: ignore[arg-type]


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", REFERENCE, re.DOTALL))
def test_examples_are_accepted(example: str, tmp_path: Path) -> None:
    tomllib.loads(example)
    file = tmp_path / "config.toml"
    file.write_text(example)
    load_serve_config(Options(), file=file)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not re.match(r"[a-z]+:", link):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"
