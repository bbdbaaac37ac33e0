"""``lunmesh target``: asks a running node, and shows what it says."""

from __future__ import annotations

import sys
import urllib.parse

from rich.console import Console
from rich.table import Table

from target.admin.schema import TargetInfos
from target.cli.asking import PIPE_COLUMNS, asked_node, deleted, print_json, tell
from target.cli.errors import CliError
from target.target_info import TargetInfo
from target.target_records import TargetRecord


def show_all(admin: str | None, as_json: bool) -> None:
    """A table of the targets."""
    with asked_node(admin) as node:
        targets = node.get("/v1/targets", TargetInfos).targets
    if as_json:
        print_json(targets)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "from", "portal groups", "volumes", "sessions here"):
        table.add_column(heading)
    for it in targets:
        groups = ", ".join(it.portal_groups) or "all"
        table.add_row(it.name, it.source, groups, str(it.volumes), str(it.sessions))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)


def create(admin: str | None, name: str, groups: list[str], as_json: bool) -> None:
    """Serve another target."""
    record = TargetRecord(name=name, portal_groups=tuple(groups))
    with asked_node(admin) as node:
        tell(node.send("POST", "/v1/targets", record, TargetInfo), as_json)


def change(
    admin: str | None, name: str, groups: list[str], all_portals: bool, as_json: bool
) -> None:
    """Have other portals lead to it."""
    if all_portals == bool(groups):
        raise CliError("give either --portal-group or --all-portals", 2)
    record = TargetRecord(name=name, portal_groups=tuple(groups))
    with asked_node(admin) as node:
        tell(node.send("PATCH", "/v1/targets", record, TargetInfo), as_json)


def delete(admin: str | None, name: str, as_json: bool) -> None:
    """Serve one no more."""
    with asked_node(admin) as node:
        node.delete(f"/v1/targets?{urllib.parse.urlencode({'name': name})}")
    deleted(name, as_json)
