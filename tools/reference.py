"""`make reference`: the pages of docs/reference, from the code that they describe.

A test compares what is committed with what this makes, so a page cannot be older than its code.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import typer
from prometheus_client.core import Metric
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from target.block.volume import Volume
from target.cli.app import app
from target.iscsi import constants
from target.iscsi.keys import KEYS, Key, Rule
from target.iscsi.parameters import TargetLimits
from target.scsi import logpages, modes
from target.scsi.disk import DiskDevice
from target.scsi.inquiry import VPD_PAGES
from tools import metric_families
from workers.memory_store import MemoryStore

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
_NOTE: Final = "Made by `make reference` from the code; a test holds it to it."


def command_line() -> str:
    """Every command with its flags, as `--help` has them."""
    lines = ["# Command line", "", f"{_NOTE} `--help` says the same."]
    top = typer.main.get_command(app)
    assert isinstance(top, TyperGroup)
    for path, command in _commands(top, "lunmesh"):
        arguments = [p for p in command.params if isinstance(p, TyperArgument)]
        flags = [p for p in command.params if isinstance(p, TyperOption) and p.name != "help"]
        metavars = " ".join(p.metavar or (p.name or "").upper() for p in arguments)
        lines += ["", f"## {path}", "", f"    {path} {metavars}".rstrip(), ""]
        lines += [inspect.cleandoc(command.help or "")]
        if flags:
            lines += ["", "| flag | what |", "|---|---|"]
            lines += [f"| {_flag(p)} | {_cell(p.help or '')} |" for p in flags]
    return _text(lines)


def scsi() -> str:
    """Operation codes, VPD pages, mode pages and log pages of a disk."""
    disk = DiskDevice(Volume("disk0", uuid.UUID(int=1), [MemoryStore(1 << 20)]))
    lines = ["# SCSI", "", f"{_NOTE} What is not here is answered INVALID COMMAND OPERATION CODE"]
    lines += ["or INVALID FIELD IN CDB.", "", "## Operation codes", ""]
    lines += _table(
        ("code", "service action", "command", "what it does to blocks"),
        (
            (
                f"`{c.opcode:02x}h`",
                f"`{c.service_action:02x}h`" if c.service_action is not None else "",
                c.name,
                c.kind.value,
            )
            for c in disk.table.all
        ),
    )
    lines += [
        "",
        "*inform* touches no block, *exclusive* reads and then writes what depends on it,",
    ]
    lines += ["atomically over all nodes, *control* changes the state of the logical unit.", ""]
    lines += ["## Vital product data pages", ""]
    lines += _table(
        ("page", "name"),
        (
            (f"`{number:02x}h`", page.__name__.strip("_").replace("_", " "))
            for number, page in sorted(VPD_PAGES.items())
        ),
    )
    names = {value: name for name, value in vars(modes).items() if name.isupper()}
    lines += ["", "## Mode pages", ""]
    lines += _table(
        ("page", "subpage", "name", "bytes that MODE SELECT can change"),
        (
            (
                f"`{page.code:02x}h`",
                f"`{page.subpage:02x}h`",
                names[page.key].replace("_", " ").lower(),
                _changeable(page),
            )
            for page in disk.modes.pages.values()
        ),
    )
    lines += ["", "## Log pages", ""]
    lines += _table(
        ("page", "parameters"),
        (
            (f"`{number:02x}h`", ", ".join(f"`{code:04x}h`" for code in parameters))
            for number, parameters in logpages.PAGES.items()
        ),
    )
    lines += ["", "Page `00h` lists them."]
    return _text(lines)


def iscsi() -> str:
    """Text keys with what is offered, PDUs, and task management functions."""
    lines = ["# iSCSI", "", f"{_NOTE} RFC 7143, error recovery level 0.", "", "## Text keys", ""]
    offers = TargetLimits()
    limits: dict[str, str] = {
        **{key: f"{value}" for key, value in offers.numbers().items()},
        **{key: "Yes" if value else "No" for key, value in offers.booleans().items()},
        **{key: ", ".join(values) for key, values in offers.lists().items()},
    }
    lines += _table(
        ("key", "the result is", "here", "default of the RFC", "range", "when"),
        (_key_row(key, limits.get(key.name, "")) for key in KEYS.values()),
    )
    lines += ["", "A key that is not here is answered NotUnderstood.", "", "## PDUs", ""]
    lines += _enum(constants.Opcode)
    lines += ["", "A SNACK request is rejected, as error recovery level 0 has it.", ""]
    lines += ["## Task management functions", ""]
    lines += _enum(constants.TmfFunction)
    lines += ["", "CLEAR ACA and those of RFC 7144 (query and asynchronous events) are answered"]
    lines += ["*function not supported*, TASK REASSIGN *reassignment not supported*."]
    lines += ["", "## Login status", ""]
    lines += _enum(constants.LoginStatus, digits=4)
    return _text(lines)


def metrics() -> str:
    """What /metrics has, of a node and of a worker."""
    lines = ["# Metrics", "", f"{_NOTE} `GET /metrics` of the admin address, and of where"]
    lines += [
        "`lunmesh worker --metrics` says; what to make of them: [monitoring.md](../monitoring.md)."
    ]
    lines += ["", "## Of a node", "", *_metrics(asyncio.run(metric_families.of_node()))]
    lines += ["", "## Of a worker", "", *_metrics(asyncio.run(metric_families.of_worker()))]
    lines += ["", "## Of both", "", "Besides, `process_…` as every Prometheus client has them.", ""]
    lines += _metrics(metric_families.of_both())
    return _text(lines)


def _metrics(families: Iterable[Metric]) -> list[str]:
    rows = dict.fromkeys(metric_families.row(family) for family in families)
    return _table(("name", "kind", "labels", "what"), rows)


def protos() -> str:
    """The protocol of workers, comments and all."""
    lines = ["# Protocol of workers", "", f"{_NOTE}"]
    for path in sorted((ROOT / "proto" / "lunmesh").rglob("*.proto")):
        lines += ["", f"## {path.relative_to(ROOT / 'proto')}", "", "```proto"]
        lines += [*path.read_text().splitlines(), "```"]
    return _text(lines)


PAGES: Final[dict[str, Callable[[], str]]] = {
    "command-line.md": command_line,
    "scsi.md": scsi,
    "iscsi.md": iscsi,
    "metrics.md": metrics,
    "worker-protocol.md": protos,
}


def _commands(group: TyperGroup, path: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """All that do something, and groups with flags of their own before them."""
    for name, inner in group.commands.items():
        if isinstance(inner, TyperGroup):
            if any(parameter.name != "help" for parameter in inner.params):
                yield f"{path} {name}", inner
            yield from _commands(inner, f"{path} {name}")
        elif isinstance(inner, TyperCommand) and not inner.hidden:
            yield f"{path} {name}", inner


def _flag(option: TyperOption) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag or not option.metavar else f"{names} {_cell(option.metavar)}"


def _key_row(key: Key, here: str) -> tuple[str, ...]:
    numeric = key.rule in (Rule.MINIMUM, Rule.MAXIMUM) or key.high
    return (
        f"`{key.name}`",
        key.rule.value,
        here,
        key.default or "",
        f"{key.low} to {key.high}" if numeric else "",
        key.use.value,
    )


def _changeable(page: modes.ModePage) -> str:
    body = enumerate(page.changeable)
    found = [f"{n}: `{bits:02x}h`" for n, bits in body if bits and n >= page.header_bytes]
    return ", ".join(found)


def _enum(kind: Iterable[object], digits: int = 2) -> list[str]:
    """The names and numbers of an IntEnum."""
    return _table(
        ("number", "name"),
        (
            (f"`{int(member):0{digits}x}h`", getattr(member, "name", "").replace("_", " "))  # type: ignore[call-overload]
            for member in kind
        ),
    )


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    head = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    return head + [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(text: str) -> str:
    """Text of one line that ends no cell; what rich would take for markup is written as it is."""
    joined = re.sub(r"\s+", " ", text.replace("\\[", "[")).strip()
    return joined.replace("|", "\\|").replace("<", "&lt;")


def _text(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()
