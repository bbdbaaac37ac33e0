"""``lunmesh acl``: asks a running node, and shows what it says."""

from __future__ import annotations

import sys
import urllib.parse

from rich.console import Console
from rich.table import Table

from target.admin.schema import AccessEntries
from target.cli.asking import PIPE_COLUMNS, asked_node, deleted, print_json, tell
from target.cli.errors import CliError
from target.config.acl import access_entry
from target.scsi.access_list import AccessEntry


def show_all(admin: str | None, as_json: bool) -> None:
    """A table of the entries."""
    with asked_node(admin) as node:
        found = node.get("/v1/acls", AccessEntries)
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("initiator", "user", "target", "volumes", "from"):
        table.add_column(heading)
    entries = [(entry, "configuration of this node") for entry in found.configured]
    entries += [(entry, "catalog") for entry in found.acls]
    for entry, source in entries:
        volumes = [_shown(entry, name) for name in entry.volumes]
        table.add_row(
            entry.initiator,
            entry.user or "any",
            entry.target or "any",
            ", ".join(volumes) or "all",
            source,
        )
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
    if not entries:
        print("no entries: everybody who logs in may use every volume", file=sys.stderr)


def _shown(entry: AccessEntry, volume: str) -> str:
    number = entry.luns.get(volume)
    return f"{volume}:{entry.volumes[volume]}" + (f":{number}" if number is not None else "")


def create(
    admin: str | None, initiator: str, user: str, target: str, volumes: list[str], as_json: bool
) -> None:
    """Add or replace an entry."""
    try:
        entry = access_entry(initiator, user, target, volumes)
    except ValueError as exc:
        raise CliError(str(exc), 2) from None
    with asked_node(admin) as node:
        tell(node.send("PUT", "/v1/acls", entry, AccessEntry), as_json)


def delete(
    admin: str | None, initiator: str, user: str, target: str, everybody: bool, as_json: bool
) -> None:
    """Remove an entry."""
    entry = {"initiator": initiator, "user": user, "target": target}
    query = urllib.parse.urlencode(entry | {"everybody": "yes" if everybody else "no"})
    with asked_node(admin) as node:
        node.delete(f"/v1/acls?{query}")
    deleted(entry, as_json)
