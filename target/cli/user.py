"""``lunmesh user``: asks a running node, and shows what it says; never a secret."""

from __future__ import annotations

import os
import sys
import urllib.parse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from target.admin.schema import UserList
from target.chap_users import UserRecord
from target.cli.errors import CliError
from target.cli.volume import PIPE_COLUMNS, asked_node, print_json
from target.config.chap import CHAP_SECRET_BYTES_MAX
from target.config.file import read_text


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
        table.add_row(name, "configuration of this node")
    for name in users.users:
        if name not in users.configured:
            table.add_row(name, "catalog")
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
    if not users.users and not users.configured:
        print("no users: CHAP is not asked for", file=sys.stderr)


def create(admin: str | None, name: str, secret_file: Path | None, secret_env: str | None) -> None:
    """Add a user with the secret that the file or the variable holds."""
    if (secret_file is None) == (secret_env is None):
        raise CliError("give either --secret-file or --secret-env", 2)
    if secret_file is not None:
        secret = read_text(secret_file, CHAP_SECRET_BYTES_MAX + 1).removesuffix("\n")
    else:
        found = os.environ.get(secret_env or "")
        if found is None:
            raise CliError(f"{secret_env} is not in the environment", 2)
        secret = found
    try:
        user = UserRecord(name=name, secret=secret).checked()
    except ValueError as exc:
        raise CliError(str(exc), 2) from None
    with asked_node(admin) as node:
        node.send("POST", "/v1/users", user, UserList)


def delete(admin: str | None, name: str, everybody: bool) -> None:
    """Remove a user; its sessions end."""
    query = urllib.parse.urlencode({"user": name, "everybody": "yes" if everybody else "no"})
    with asked_node(admin) as node:
        node.delete(f"/v1/users?{query}")
