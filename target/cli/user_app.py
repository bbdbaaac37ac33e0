"""``lunmesh user``: its commands and flags.  What they do stands in ``user.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from target.cli.flags import flag
from target.cli.volume_app import AdminFlag, JsonFlag

user_app = typer.Typer(help="CHAP users of a running node, or of all its cluster.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A CHAP name.", show_default=False)]


@user_app.command("list")
def list_users(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the names; without any, CHAP is not asked for."""
    from target.cli import user

    user.show_all(admin, as_json)


@user_app.command()
def create(
    name: Name,
    secret_file: Annotated[
        Path | None, flag("Options", "A file that holds the secret and nothing else.", "FILE")
    ] = None,
    secret_env: Annotated[
        str | None, flag("Options", "An environment variable that holds the secret.", "VARIABLE")
    ] = None,
    admin: AdminFlag = None,
) -> None:
    """Let NAME log in; with the first user CHAP is asked for, and who has proved nothing ends."""
    from target.cli import user

    user.create(admin, name, secret_file, secret_env)


@user_app.command()
def delete(
    name: Name,
    everybody: Annotated[
        bool, flag("Options", "It is the last user: from now on no CHAP is asked for.")
    ] = False,
    admin: AdminFlag = None,
) -> None:
    """Remove NAME from the catalog; its sessions end."""
    from target.cli import user

    user.delete(admin, name, everybody)
