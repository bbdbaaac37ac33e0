"""``lunmesh volume delete``: has a volume deleted, and waits for its data to go."""

from __future__ import annotations

import sys
import time
from http import HTTPStatus

import typer

from target.admin.client import AdminClient, Refused, volume_path
from target.cli.asking import asked_node, deleted
from target.cli.errors import CliError
from target.cli.progress import POLL_SECONDS, progress
from target.volume_info import VolumeInfo


def delete(
    admin: str | None, name: str, *, force: bool, yes: bool, wait: bool, as_json: bool
) -> None:
    """Delete a volume, if that is really meant.  Ctrl-C ends the waiting, not the deletion."""
    if not yes:
        if not sys.stdin.isatty():
            raise CliError("deleting needs a yes: give --yes", 2)
        typer.confirm(f"Delete volume {name} with all its data?", abort=True)
    with asked_node(admin) as node:
        path = volume_path(name)
        volume = node.get(path, VolumeInfo) if wait else None
        node.delete(path + ("?force=yes" if force else ""))
        if volume is not None:
            try:
                _follow(node, path, volume, quiet=as_json)
            except KeyboardInterrupt:
                print("detached: its data are deleted all the same", file=sys.stderr)
                return
    deleted(name, as_json)


def _follow(node: AdminClient, path: str, volume: VolumeInfo, *, quiet: bool) -> None:
    with progress("workers", quiet=quiet) as shown:
        bar = shown.add_task(volume.name, total=None, rate="", trouble="")
        total = len(volume.workers) or 1
        while (found := _found(node, path)) is not None and found.uuid == volume.uuid:
            if (going := found.deletion) is not None:
                total = going.workers_total or 1
                shown.update(bar, total=total, completed=going.workers_done, trouble=going.trouble)
            time.sleep(POLL_SECONDS)
        shown.update(bar, total=total, completed=total, trouble="")


def _found(node: AdminClient, path: str) -> VolumeInfo | None:
    """None: there is none, any more."""
    try:
        return node.get(path, VolumeInfo)
    except Refused as exc:
        if exc.problem.status != HTTPStatus.NOT_FOUND:
            raise
        return None
