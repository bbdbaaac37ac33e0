"""``lunmesh node``, ``session`` and ``task``: their commands and flags."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.volume_app import AdminFlag, JsonFlag

node_app = typer.Typer(help="The nodes that serve the same volumes.")
session_app = typer.Typer(help="The sessions of a running node.")
task_app = typer.Typer(help="Commands that have not ended, on all nodes.")


@node_app.command("list")
def list_nodes(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the nodes."""
    from target.cli import sight

    sight.list_nodes(admin, as_json)


@session_app.command("list")
def list_sessions(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the sessions of the node."""
    from target.cli import sight

    sight.list_sessions(admin, as_json)


@task_app.command("list")
def list_tasks(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the commands that have not ended, the oldest first."""
    from target.cli import sight

    sight.list_tasks(admin, as_json)


@task_app.command()
def abort(
    task: Annotated[
        str,
        typer.Argument(metavar="ID", help="As the list shows it.", show_default=False),
    ],
    admin: AdminFlag = None,
) -> None:
    """End a command: its initiator is told ABORTED COMMAND."""
    from target.cli import sight

    sight.abort(admin, task)
