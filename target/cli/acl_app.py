"""``lunmesh acl``: its commands and flags.  What they do stands in ``acl.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.flags import flag
from target.cli.volume_app import AdminFlag, JsonFlag

acl_app = typer.Typer(help="Who may use which volumes of a running node, or of all its cluster.")

Initiator = Annotated[
    str,
    typer.Argument(
        metavar="INITIATOR",
        help="A name, or a pattern such as 'iqn.*:rack1-*'.",
        show_default=False,
    ),
]
UserFlag = Annotated[
    str | None, flag("Options", "Only for logins as this CHAP user. [default: any]", "NAME")
]
TargetFlag = Annotated[
    str | None, flag("Options", "Only for logins to this target. [default: any]", "IQN")
]


@acl_app.command("list")
def list_entries(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the entries; without any, everybody who logs in may use everything."""
    from target.cli import acl

    acl.show_all(admin, as_json)


@acl_app.command()
def create(
    initiator: Initiator,
    volume: Annotated[
        list[str] | None,
        flag(
            "Options",
            "What it may use, read-only with :ro, at LUN N with :N; may be repeated. "
            "[default: all volumes]",
            "NAME[:ro][:N]",
        ),
    ] = None,
    user: UserFlag = None,
    target: TargetFlag = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Let INITIATOR in; an entry that there is for it is replaced."""
    from target.cli import acl

    acl.create(admin, initiator, user or "", target or "", volume or [], as_json)


@acl_app.command()
def delete(
    initiator: Initiator,
    user: UserFlag = None,
    target: TargetFlag = None,
    everybody: Annotated[
        bool, flag("Options", "It is the last entry: from now on everybody may log in.")
    ] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove the entry for INITIATOR."""
    from target.cli import acl

    acl.delete(admin, initiator, user or "", target or "", everybody, as_json)
