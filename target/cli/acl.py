"""``lunmesh acl``: asks a running node, and shows what it says."""

from __future__ import annotations

import sys
import urllib.parse
from typing import Literal

from rich.console import Console
from rich.table import Table

from target.admin.schema import AccessEntries
from target.cli.errors import CliError
from target.cli.volume import PIPE_COLUMNS, asked_node, print_json
from target.scsi.access_list import AccessEntry


def show_all(admin: str | None, as_json: bool) -> None:
    """A table of the entries."""
    with asked_node(admin) as node:
        entries = node.get("/v1/acls", AccessEntries).acls
    if as_json:
        print_json(entries)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("initiator", "user", "volumes"):
        table.add_column(heading)
    for entry in entries:
        volumes = [f"{name}:{mode}" for name, mode in entry.volumes.items()]
        table.add_row(entry.initiator, entry.user or "any", ", ".join(volumes) or "all")
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
    if not entries:
        print("no entries: everybody who logs in may use every volume", file=sys.stderr)


def create(admin: str | None, initiator: str, user: str, volumes: list[str]) -> None:
    """Add or replace an entry."""
    modes: dict[str, Literal["rw", "ro"]] = {}
    for text in volumes:
        name, colon, mode = text.partition(":")
        if not name or (colon and mode not in ("rw", "ro")):
            raise CliError(f"bad volume {text!r}: write NAME or NAME:ro", 2)
        modes[name] = "ro" if mode == "ro" else "rw"
    entry = AccessEntry(initiator=initiator, user=user, volumes=modes)
    with asked_node(admin) as node:
        node.send("PUT", "/v1/acls", entry, AccessEntry)


def delete(admin: str | None, initiator: str, user: str, everybody: bool) -> None:
    """Remove an entry."""
    query = urllib.parse.urlencode(
        {"initiator": initiator, "user": user, "everybody": "yes" if everybody else "no"}
    )
    with asked_node(admin) as node:
        node.delete(f"/v1/acls?{query}")
