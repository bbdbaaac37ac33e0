"""``lunmesh top``: what a node does now, asked for again and again."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from target.admin.client import AdminClient
from target.cli.asking import PIPE_COLUMNS, asked_node, print_json
from target.cli.errors import CliError
from target.config import format_size
from target.telemetry.rates import ClassRates, LunRates, NodeRates, rates
from target.telemetry.stats import NodeStats

SECONDS_MIN, SECONDS_MAX = 0.1, 3600.0
_CLASSES = ("read", "write")  # have columns of their own
_NONE = ClassRates(iops=0.0, bytes_per_second=0.0)


def top(admin: str | None, *, seconds: float, once: bool, as_json: bool) -> None:
    """Until Ctrl-C; ``once``, and where nobody can watch: one table."""
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise CliError(f"--interval: must be {SECONDS_MIN:g} to {SECONDS_MAX:g} seconds", 2)
    with asked_node(admin) as node:
        looks = _looks(node, seconds)
        if as_json:
            print_json(next(looks))
        elif once or not sys.stdout.isatty():
            width = None if sys.stdout.isatty() else PIPE_COLUMNS
            Console(width=width, highlight=False).print(_view(next(looks)))
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _watch(looks)


def _looks(node: AdminClient, seconds: float) -> Iterator[NodeRates]:
    before = node.get("/v1/stats", NodeStats)
    while True:
        time.sleep(seconds)
        after = node.get("/v1/stats", NodeStats)
        yield rates(before, after)
        before = after


def _watch(looks: Iterator[NodeRates]) -> None:
    with Live(Text("…"), auto_refresh=False, screen=True) as live:
        for look in looks:
            live.update(_view(look), refresh=True)


def _view(look: NodeRates) -> Group:
    head = Text(
        f"{look.node}   {look.sessions} sessions   CPU {look.cpu_percent:.0f} %   buffers"
        f" {format_size(look.buffer_used_bytes)} of {format_size(look.buffer_total_bytes)}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("LUN", justify="right")
    table.add_column("volume")
    for heading in ("read/s", "bytes/s", "write/s", "bytes/s", "other/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("p50", "p99", "failed/s", "tasks", "oldest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for lun in sorted(look.luns, key=lambda it: (-it.all.iops, it.lun)):
        table.add_row(*_row(lun))
    return Group(head, table)


def _row(lun: LunRates) -> Iterator[str]:
    yield str(lun.lun)
    yield lun.volume
    shown = [lun.classes.get(name, _NONE) for name in _CLASSES]
    for it in shown:
        yield f"{it.iops:.0f}"
        yield decimal(int(it.bytes_per_second))
    yield f"{max(0.0, lun.all.iops - sum(it.iops for it in shown)):.0f}"
    yield _time(lun.all.p50_seconds)
    yield _time(lun.all.p99_seconds)
    yield f"{lun.failures_per_second:.0f}"
    yield str(lun.tasks)
    yield f"{lun.oldest_task_seconds:.1f} s" if lun.tasks else ""


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
