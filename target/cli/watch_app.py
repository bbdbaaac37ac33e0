"""``lunmesh top`` and ``doctor``: their flags."""

from __future__ import annotations

from typing import Annotated

import typer

from target.cli.volume_app import AdminFlag, JsonFlag


def top(
    admin: AdminFlag = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="How often to look.", show_default=True)
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One table, and no more.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Watch what a running node does: commands, bytes and times of each LUN. Ctrl-C ends it."""
    from target.cli.top import top

    top(admin, seconds=interval, once=once, as_json=as_json)
