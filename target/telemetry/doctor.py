"""What a report of a problem should say of a node: files, by name, without secrets.

Rules:

1. A part that cannot be told says why in its place; the rest is told all the same.
2. Every secret that the node has been told is struck out of every file, wherever it got there.
3. Every file is bounded: lists by their own bounds, and all by ``FILE_CHARS_MAX``.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from target import logs
from target.config.shown import HIDDEN, secrets_of, shown
from target.iscsi.target import IscsiTarget
from target.node import Node
from target.sight_info import NodeList
from target.telemetry.exposition import exposition
from target.telemetry.node import unready
from target.telemetry.stats import node_stats

FILE_CHARS_MAX: Final = 4 << 20
SECRET_CHARS_MIN: Final = 4  # a shorter one is in every other word
STACKS_MAX: Final = 200  # of coroutines
FRAMES_MAX: Final = 20
_SECONDS_MAX: Final = 10.0  # for one file


async def node_report(
    node: Node, registry: CollectorRegistry, clock: Callable[[], float]
) -> dict[str, str]:
    """``clock`` is the one that commands are timed with."""
    parts, sight = node.parts, node.sight

    async def nodes() -> str:
        return _json(NodeList(nodes=await sight.nodes()))

    async def tasks() -> str:
        return _json(await sight.tasks())

    async def volumes() -> str:
        return _json(await parts.volumes.all())

    async def sessions() -> str:
        return _json(await sight.sessions())

    async def stats() -> str:
        return _json(await node_stats(parts, node.name, clock))

    async def metrics() -> str:
        return b"".join([piece async for piece in exposition(registry)]).decode()

    texts: dict[str, Callable[[], str | Awaitable[str]]] = {
        "config.json": lambda: _json(shown(parts.config)),
        "ready.txt": lambda: f"{unready(parts) or 'ok'}\n",
        "metrics.txt": metrics,
        "stats.json": stats,
        "volumes.json": volumes,
        "targets.json": lambda: _json(node.targets.all()),
        "access.json": lambda: _json([*node.access.configured, *node.access.kept]),
        "flights.txt": lambda: flights(parts.target),
        "sessions.json": sessions,
        "nodes.json": nodes,
        "tasks.json": tasks,
        "log.txt": lambda: "\n".join([*logs.recent(), ""]),
        "stacks.txt": stacks,
    }
    secrets = [*secrets_of(parts.config), *node.users.secrets]
    return {name: strike_out(await _told(text), secrets) for name, text in texts.items()}


async def _told(text: Callable[[], str | Awaitable[str]]) -> str:
    """Rule 1."""
    try:
        said = text()
        if isinstance(said, str):
            return said
        async with asyncio.timeout(_SECONDS_MAX):
            return await said
    except Exception as exc:  # whatever is broken is what the report is for
        return f"cannot be told: {type(exc).__name__}: {exc}\n"


def strike_out(text: str, secrets: Iterable[str]) -> str:
    """Rules 2 and 3."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_CHARS_MIN:
            text = text.replace(secret, HIDDEN)
            text = text.replace(msgspec.json.encode(secret).decode()[1:-1], HIDDEN)
    return text[:FILE_CHARS_MAX]


def flights(target: IscsiTarget) -> str:
    """The last commands of each session, and those that have not ended."""
    out: list[str] = []
    for session in target.sessions.values():
        out.append(f"session {session.tsih} of {session.initiator}")
        out += [f"  {line}" for line in session.flight.lines(tuple(session.tasks.values()))]
    return "\n".join([*out, ""])


def stacks() -> str:
    """Where every thread and every coroutine is.  Places only: values may be anybody's data."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        out.write(f"thread {names.get(ident, ident)}\n")
        out.writelines(traceback.format_stack(frame)[-FRAMES_MAX:])
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks[:STACKS_MAX]:
        out.write(f"\n{task.get_name()}\n")
        out.writelines(_awaiting(task.get_coro()))
    if len(tasks) > STACKS_MAX:
        out.write(f"\nand {len(tasks) - STACKS_MAX} more\n")
    return out.getvalue()


def _awaiting(coroutine: object) -> Iterator[str]:
    """Where a coroutine is, and what it awaits: a task's own stack has its outermost frame only."""
    for _ in range(FRAMES_MAX):
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            return
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}\n'
        coroutine = getattr(coroutine, "cr_await", None)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
