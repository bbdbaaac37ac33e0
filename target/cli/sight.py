"""``lunmesh node``, ``session`` and ``task``: ask a running node, and show what it says."""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from target.admin.schema import TaskAbort, TaskAborted
from target.cli.asking import PIPE_COLUMNS, asked_node, deleted, print_facts, print_json, tell
from target.cli.errors import CliError
from target.sight_info import (
    TASKS_MAX,
    NodeInfo,
    NodeList,
    SessionInfo,
    SessionList,
    TaskInfo,
    TaskList,
)


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
                it.state + ", behind" * bool(it.behind),
                ", ".join(it.portals),
            )
            for it in nodes
        ),
    )
    for it in nodes:
        for what, reason in it.behind.items():
            print(f"{it.id} is behind: {what}: {reason}", file=sys.stderr)


def show_node(admin: str | None, name: str, as_json: bool) -> None:
    """One node, a line for each thing."""
    with asked_node(admin) as node:
        it = node.get(f"/v1/nodes/{urllib.parse.quote(name, safe='')}", NodeInfo)
    lines = [
        ("node", it.id + " (here)" * it.here),
        ("state", it.state),
        ("epoch", str(it.epoch)),
        ("port", str(it.number)),
    ]
    if it.lease_seconds_left is not None:
        lines.append(("lease", f"{it.lease_seconds_left:g} s"))
    lines += [("portal", portal) for portal in it.portals]
    lines += [("behind", f"{what}: {reason}") for what, reason in it.behind.items()]
    print_facts(it, lines, as_json)


def list_sessions(admin: str | None, as_json: bool) -> None:
    """A table of the sessions."""
    with asked_node(admin) as node:
        found = node.get("/v1/sessions", SessionList)
    sessions = found.sessions
    if as_json:
        print_json(sessions)
        return
    _print(
        ("ID", "initiator", "ISID", "target", "address", "commands", "digests"),
        (
            (
                it.id,
                it.initiator,
                it.isid,
                it.target,
                it.address,
                "" if it.commands is None else str(it.commands),
                ", ".join(_digests(it)),
            )
            for it in sessions
        ),
    )
    if found.more:
        print("and more", file=sys.stderr)


def show_session(admin: str | None, session: str, as_json: bool) -> None:
    """One session, a line for each thing."""
    with asked_node(admin) as node:
        it = node.get(_session_path(session), SessionInfo)
    lines = [
        ("ID", it.id),
        ("initiator", it.initiator),
        ("ISID", it.isid),
        ("target", it.target),
        ("address", it.address),
        ("CHAP user", it.user or "none"),
        ("digests", ", ".join(_digests(it)) or "none"),
    ]
    if it.commands is not None:
        lines.append(("commands", str(it.commands)))
    print_facts(it, lines, as_json)


def drop_session(admin: str | None, session: str, as_json: bool) -> None:
    """Have it end."""
    with asked_node(admin) as node:
        node.delete(_session_path(session))
    deleted(session, as_json)


def _session_path(session: str) -> str:
    """Raises CliError."""
    node, slash, tsih = session.partition("/")
    if not (slash and node and tsih):
        raise CliError(f"{session[:80]!r} is no ID of a session: see lunmesh session list", 2)
    return "/v1/sessions/" + "/".join(urllib.parse.quote(it, safe="") for it in (node, tsih))


def _digests(session: SessionInfo) -> list[str]:
    used = (("header", session.header_digest), ("data", session.data_digest))
    return [name for name, on in used if on]


def list_tasks(admin: str | None, words: str, limit: int, as_json: bool) -> None:
    """A table of the commands that have not ended, the oldest ``limit`` that have ``words``."""
    found: list[TaskInfo] = []
    asked = {"filter": words, "cursor": ""}
    with asked_node(admin) as node:
        while True:
            query = urllib.parse.urlencode(asked | {"limit": min(limit - len(found), TASKS_MAX)})
            tasks = node.get(f"/v1/tasks?{query}", TaskList)
            found += tasks.tasks
            if not tasks.next or len(found) >= limit:
                break
            asked["cursor"] = tasks.next
    if as_json:
        print_json(msgspec.structs.replace(tasks, tasks=found))
        return
    _print(
        ("age", "state", "request", "ID"),
        ((f"{it.age_seconds:.3f}", it.state, it.request, it.id) for it in found),
    )
    if tasks.next:
        print(f"the oldest {len(found)} of {tasks.total}: see --limit", file=sys.stderr)


def abort(admin: str | None, task: str, as_json: bool) -> None:
    """End a command."""
    with asked_node(admin) as node:
        tell(node.send("POST", "/v1/tasks/abort", TaskAbort(id=task), TaskAborted), as_json)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)
