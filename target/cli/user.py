"""``lunmesh user``: asks a running node, and shows what it says; never a secret."""

from __future__ import annotations

import os
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from rich.console import Console
from rich.table import Table

from target.admin.schema import MutualChap, UserList
from target.chap_users import CATALOG, CONFIGURATION, UserInfo, UserSecret
from target.cli.asking import PIPE_COLUMNS, asked_node, deleted, print_json, tell
from target.cli.errors import CliError
from target.config.chap import CHAP_SECRET_BYTES_MAX
from target.config.file import read_text

_SOURCES: Final = {CONFIGURATION: "configuration of this node", CATALOG: "catalog"}


@dataclass(frozen=True, slots=True)
class SecretFrom:
    """Where a secret is read from, so that no other user of the machine sees it."""

    file: Path | None  # "-": the standard input
    variable: str | None

    def read(self) -> str:
        """Raises CliError or ConfigError."""
        if (self.file is None) == (self.variable is None):
            raise CliError("give either --secret-file or --secret-env", 2)
        if self.variable is not None:
            found = os.environ.get(self.variable)
            if found is None:
                raise CliError(f"{self.variable} is not in the environment", 2)
            return found
        most = CHAP_SECRET_BYTES_MAX + 1
        if str(self.file) != "-":
            return read_text(cast(Path, self.file), most).removesuffix("\n")
        secret = sys.stdin.buffer.read(most + 1)
        try:
            return secret.decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise CliError("the standard input is not UTF-8", 2) from None


def show_all(admin: str | None, as_json: bool) -> None:
    """A table of the names, and where each comes from."""
    with asked_node(admin) as node:
        users = node.get("/v1/users", UserList)
    if as_json:
        print_json(users)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("user", "from"):
        table.add_column(heading)
    for name in users.configured:
        table.add_row(name, _SOURCES[CONFIGURATION])
    for name in users.users:
        if name not in users.configured:
            table.add_row(name, _SOURCES[CATALOG])
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
    if not users.users and not users.configured:
        print("no users: CHAP is not asked for", file=sys.stderr)


def create(admin: str | None, name: str, given: SecretFrom, as_json: bool) -> None:
    """Add a user."""
    _send(admin, "POST", "/v1/users", name, given, as_json)


def change(admin: str | None, name: str, given: SecretFrom, as_json: bool) -> None:
    """Give a user another secret."""
    _send(admin, "PATCH", "/v1/users", name, given, as_json)


def delete(admin: str | None, name: str, everybody: bool, as_json: bool) -> None:
    """Remove a user; its sessions end."""
    query = urllib.parse.urlencode({"user": name, "everybody": "yes" if everybody else "no"})
    with asked_node(admin) as node:
        node.delete(f"/v1/users?{query}")
    deleted(name, as_json)


def show_mutual(admin: str | None, as_json: bool) -> None:
    """Who the node is to initiators."""
    with asked_node(admin) as node:
        found = node.get("/v1/mutual-chap", MutualChap)
    if as_json:
        print_json(found)
    elif found.mutual is None:
        print("no mutual CHAP: an initiator that asks for it is refused", file=sys.stderr)
    else:
        print(f"{found.mutual.name}  {_SOURCES[found.mutual.source]}")


def set_mutual(admin: str | None, name: str, given: SecretFrom, as_json: bool) -> None:
    """Be that to initiators."""
    _send(admin, "PUT", "/v1/mutual-chap", name, given, as_json)


def delete_mutual(admin: str | None, as_json: bool) -> None:
    """Prove nothing to initiators."""
    with asked_node(admin) as node:
        node.delete("/v1/mutual-chap")
    deleted("mutual CHAP", as_json)


def _send(
    admin: str | None, method: str, path: str, name: str, given: SecretFrom, as_json: bool
) -> None:
    try:
        asked = UserSecret(name=name, secret=given.read()).checked()
    except ValueError as exc:
        raise CliError(str(exc), 2) from None
    with asked_node(admin) as node:
        tell(node.send(method, path, asked, UserInfo), as_json)
