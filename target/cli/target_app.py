"""``lunmesh target``: its commands and flags.  What they do stands in ``target.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.flags import flag
from target.cli.volume_app import AdminFlag, JsonFlag

target_app = typer.Typer(
    help="The names by which initiators know what a node, or its cluster, serves."
)

TargetName = Annotated[str, typer.Argument(metavar="IQN", show_default=False)]


@target_app.command("list")
def list_targets(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the targets."""
    from target.cli import target

    target.show_all(admin, as_json)


@target_app.command()
def create(
    name: TargetName,
    portal_group: Annotated[
        list[str] | None,
        flag(
            "Options",
            "Reached only at portals with this label (--portal HOST:PORT,group=NAME); may be"
            " repeated. [default: all portals]",
            "NAME",
        ),
    ] = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Serve a target IQN, on all nodes; volumes come by volume create --target or volume map."""
    from target.cli import target

    target.create(admin, name, portal_group or [], as_json)


@target_app.command()
def change(
    name: TargetName,
    portal_group: Annotated[
        list[str] | None,
        flag("Options", "Reached only at portals with this label; may be repeated.", "NAME"),
    ] = None,
    all_portals: Annotated[bool, flag("Options", "Reached at all portals.")] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Have other portals lead to the target IQN; sessions at portals that do not any more end."""
    from target.cli import target

    target.change(admin, name, portal_group or [], all_portals, as_json)


@target_app.command()
def delete(name: TargetName, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Serve the target IQN no more; no volume may be in it.  Its sessions end."""
    from target.cli import target

    target.delete(admin, name, as_json)
