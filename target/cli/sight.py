"""``lunmesh node``, ``session`` and ``task``: ask a running node, and show what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from target.admin.schema import TaskAbort
from target.cli.volume import PIPE_COLUMNS, asked_node, print_json
from target.sight_info import NodeList, SessionInfo, SessionList, TaskList


def list_nodes(admin: str | None, as_json: bool) -> None:
    """A table of the nodes."""
    with asked_node(admin) as node:
        nodes = node.get("/v1/nodes", NodeList).nodes
    if as_json:
        print_json(nodes)
        return
    _print(
        ("node", "epoch", "port", "state", "portals"),
        (
            (
                it.id + " (here)" * it.here,
                str(it.epoch),
                str(it.number),
                it.state,
                ", ".join(it.portals),
            )
            for it in nodes
        ),
    )


def list_sessions(admin: str | None, as_json: bool) -> None:
    """A table of the sessions."""
    with asked_node(admin) as node:
        sessions = node.get("/v1/sessions", SessionList).sessions
    if as_json:
        print_json(sessions)
        return
    _print(
        ("node", "TSIH", "initiator", "ISID", "target", "address", "commands", "digests"),
        (
            (
                it.node,
                str(it.tsih),
                it.initiator,
                it.isid,
                it.target,
                it.address,
                str(it.commands),
                ", ".join(_digests(it)),
            )
            for it in sessions
        ),
    )


def _digests(session: SessionInfo) -> list[str]:
    used = (("header", session.header_digest), ("data", session.data_digest))
    return [name for name, on in used if on]


def list_tasks(admin: str | None, as_json: bool) -> None:
    """A table of the commands that have not ended."""
    with asked_node(admin) as node:
        tasks = node.get("/v1/tasks", TaskList)
    if as_json:
        print_json(tasks)
        return
    _print(
        ("age", "state", "request", "ID"),
        ((f"{it.age_seconds:.3f}", it.state, it.request, it.id) for it in tasks.tasks),
    )
    if tasks.more:
        print("and more", file=sys.stderr)


def abort(admin: str | None, task: str) -> None:
    """End a command."""
    with asked_node(admin) as node:
        node.send("POST", "/v1/tasks/abort", TaskAbort(id=task), dict)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
