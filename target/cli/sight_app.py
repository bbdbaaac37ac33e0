"""``lunmesh node``, ``session`` and ``task``: their commands and flags."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.flags import flag
from target.cli.volume_app import AdminFlag, JsonFlag

node_app = typer.Typer(help="The nodes that serve the same volumes.")
session_app = typer.Typer(help="The sessions of initiators, on all nodes.")
task_app = typer.Typer(help="Commands that have not ended, on all nodes.")


NodeName = Annotated[
    str, typer.Argument(metavar="NAME", help="As the list shows it.", show_default=False)
]
SessionId = Annotated[
    str, typer.Argument(metavar="ID", help="As the list shows it.", show_default=False)
]


@node_app.command("list")
def list_nodes(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the nodes."""
    from target.cli import sight

    sight.list_nodes(admin, as_json)


@node_app.command("show")
def show_node(name: NodeName, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Show what there is to know of the node NAME."""
    from target.cli import sight

    sight.show_node(admin, name, as_json)


@session_app.command("list")
def list_sessions(admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """List the sessions: those of the node that is asked, then those of the others."""
    from target.cli import sight

    sight.list_sessions(admin, as_json)


@session_app.command("show")
def show_session(session: SessionId, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Show what there is to know of a session."""
    from target.cli import sight

    sight.show_session(admin, session, as_json)


@session_app.command("drop")
def drop_session(session: SessionId, admin: AdminFlag = None, as_json: JsonFlag = False) -> None:
    """Ask its initiator to log out, and close it after 3 seconds; it may come back."""
    from target.cli import sight

    sight.drop_session(admin, session, as_json)


@task_app.command("list")
def list_tasks(
    words: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="WORDS",
            help="Only those with all these words: node, lun=N, initiator, state, the request.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        str | None, flag("Options", "The oldest N of them. [default: 1000]", "N")
    ] = None,
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """List the commands that have not ended, the oldest first."""
    from target.cli import asking, sight

    most = asking.whole("limit", limit, 1000)
    sight.list_tasks(admin, words or "", most, as_json)


@task_app.command()
def abort(
    task: Annotated[
        str,
        typer.Argument(metavar="ID", help="As the list shows it.", show_default=False),
    ],
    admin: AdminFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """End a command: its initiator is told ABORTED COMMAND."""
    from target.cli import sight

    sight.abort(admin, task, as_json)
