"""``lunmesh volume``: its commands and flags.  What they do stands in ``volume.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.flags import flag

volume_app = typer.Typer(help="Make, grow and delete the volumes of a running node.")

AdminFlag = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="HOST:PORT",
        envvar="LUNMESH_ADMIN",
        show_envvar=False,
        help="The node's admin address, also from LUNMESH_ADMIN. \\[default: 127.0.0.1:3280]",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="As JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Size = Annotated[str, typer.Argument(metavar="SIZE", help="Such as 10G.", show_default=False)]
TargetFlag = Annotated[
    str | None,
    flag("Options", "The target that has it. [default: the one that every node has]", "IQN"),
]


@volume_app.command("list")
def list_volumes(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the volumes."""
    from target.cli import volume

    volume.show_all(admin, as_json)


@volume_app.command()
def show(name: Name, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Show what there is to know of NAME."""
    from target.cli import volume

    volume.show(admin, name, as_json)


@volume_app.command()
def create(
    name: Name,
    size: Size,
    block: Annotated[
        str | None, flag("Options", "Bytes of a block. [default: 512]", "512|4096")
    ] = None,
    chunk: Annotated[
        str | None, flag("Options", "What lies on one worker. [default: 4M]", "SIZE")
    ] = None,
    readonly: Annotated[bool, flag("Options", "Initiators may not write.")] = False,
    worker: Annotated[
        list[str] | None,
        flag(
            "Options",
            "Where its chunks go; may be repeated. [default: the node's own workers, if any]",
            "HOST:PORT|unix:PATH",
        ),
    ] = None,
    lun: Annotated[
        str | None, flag("Options", "Its LUN. [default: the first that is free]", "N")
    ] = None,
    target: TargetFlag = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a thin volume NAME of SIZE and show it to the initiators."""
    from target.cli import volume

    volume.create(
        admin,
        name,
        size,
        block=block,
        chunk=chunk,
        readonly=readonly,
        workers=worker,
        lun=lun,
        target=target or "",
        as_json=as_json,
    )


@volume_app.command("map")
def remap(
    name: Name,
    target: TargetFlag = None,
    lun: Annotated[
        str | None,
        flag("Options", "Its LUN there. [default: the first that is free in another target]", "N"),
    ] = None,
    force: Annotated[
        bool, flag("Options", "Although initiators are logged in and may be using it.")
    ] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Show NAME in another target, or at another LUN; the initiators are told."""
    from target.cli import volume

    volume.remap(admin, name, target=target or "", lun=lun, force=force, as_json=as_json)


@volume_app.command()
def resize(name: Name, size: Size, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Grow NAME to SIZE while it is in use; the initiators are told."""
    from target.cli import volume

    volume.resize(admin, name, size, as_json)


@volume_app.command()
def migrate(
    name: Name,
    worker: Annotated[
        list[str] | None,
        flag(
            "Options",
            "A worker that it is on from now on; repeat it for each, those that stay as well.",
            "HOST:PORT|unix:PATH",
        ),
    ] = None,
    detach: Annotated[bool, flag("Options", "Do not wait for the end.")] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Move NAME to other workers while it is in use; given again, show how far it is."""
    from target.cli import volume_migrate

    volume_migrate.migrate(admin, name, worker or [], detach=detach, as_json=as_json)


@volume_app.command()
def delete(
    name: Name,
    force: Annotated[
        bool, flag("Options", "Although initiators are logged in and may be using it.")
    ] = False,
    yes: Annotated[bool, flag("Options", "Do not ask.")] = False,
    wait: Annotated[
        bool, flag("Options", "Until its data are gone, not only it; shows how far that is.")
    ] = False,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete NAME with all its data."""
    from target.cli import volume_delete

    volume_delete.delete(admin, name, force=force, yes=yes, wait=wait, as_json=as_json)
