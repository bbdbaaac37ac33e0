"""``lunmesh user``: its commands and flags.  What they do stands in ``user.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from target.cli.flags import flag
from target.cli.volume_app import AdminFlag, JsonFlag

user_app = typer.Typer(help="CHAP users of a running node, or of all its cluster.")
mutual_app = typer.Typer(help="How its nodes prove themselves to initiators that ask.")
user_app.add_typer(mutual_app, name="mutual")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A CHAP name.", show_default=False)]
SecretFile = Annotated[
    Path | None,
    flag(
        "Options", "A file that holds the secret and nothing else; -: the standard input.", "FILE"
    ),
]
SecretEnv = Annotated[
    str | None, flag("Options", "An environment variable that holds the secret.", "VARIABLE")
]


@user_app.command("list")
def list_users(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the names; without any, CHAP is not asked for."""
    from target.cli import user

    user.show_all(admin, as_json)


@user_app.command()
def create(
    name: Name,
    secret_file: SecretFile = None,
    secret_env: SecretEnv = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Let NAME log in; with the first user CHAP is asked for, and who has proved nothing ends."""
    from target.cli import user

    user.create(admin, name, user.SecretFrom(secret_file, secret_env), as_json)


@user_app.command()
def change(
    name: Name,
    secret_file: SecretFile = None,
    secret_env: SecretEnv = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Give NAME another secret; who is logged in stays."""
    from target.cli import user

    user.change(admin, name, user.SecretFrom(secret_file, secret_env), as_json)


@user_app.command()
def delete(
    name: Name,
    everybody: Annotated[
        bool, flag("Options", "It is the last user: from now on no CHAP is asked for.")
    ] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove NAME from the catalog; its sessions end."""
    from target.cli import user

    user.delete(admin, name, everybody, as_json)


@mutual_app.command("show")
def show_mutual(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Show the name by which the node proves itself."""
    from target.cli import user

    user.show_mutual(admin, as_json)


@mutual_app.command("set")
def set_mutual(
    name: Name,
    secret_file: SecretFile = None,
    secret_env: SecretEnv = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Be NAME to initiators that ask, on all nodes that are not configured otherwise."""
    from target.cli import user

    user.set_mutual(admin, name, user.SecretFrom(secret_file, secret_env), as_json)


@mutual_app.command("delete")
def delete_mutual(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Prove nothing to initiators: who asks is refused."""
    from target.cli import user

    user.delete_mutual(admin, as_json)
