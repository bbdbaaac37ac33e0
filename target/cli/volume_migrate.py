"""``lunmesh volume migrate``: begins a migration, and follows it."""

from __future__ import annotations

import sys
import time

from rich.filesize import decimal

from target.admin.client import AdminClient, volume_path
from target.admin.schema import VolumeMigrate
from target.cli.asking import asked_node
from target.cli.errors import CliError
from target.cli.progress import POLL_SECONDS, progress
from target.cli.volume import print_volume
from target.volume_info import MigrationInfo, VolumeInfo


def migrate(
    admin: str | None, name: str, workers: list[str], *, detach: bool, as_json: bool
) -> None:
    """Ctrl-C ends the following, not the migration."""
    if not workers:
        raise CliError("where to? Give --worker for each worker that it is to be on", 2)
    with asked_node(admin) as node:
        path = volume_path(name)
        volume = node.send("POST", f"{path}/migration", VolumeMigrate(workers=workers), VolumeInfo)
        if not detach:
            try:
                volume = _follow(node, path, volume, quiet=as_json)
            except KeyboardInterrupt:
                print(
                    "detached: the volume goes on moving; the same command shows how far it is",
                    file=sys.stderr,
                )
                return
    print_volume(volume, as_json)


def _follow(node: AdminClient, path: str, volume: VolumeInfo, *, quiet: bool) -> VolumeInfo:
    with progress("chunks", quiet=quiet) as shown:
        bar = shown.add_task(volume.name, total=None, rate="", trouble="")
        while (moving := volume.migration) is not None:
            shown.update(
                bar,
                total=moving.chunks_total,
                completed=moving.chunks_done,
                rate=_rate(moving),
                trouble=moving.trouble,
            )
            time.sleep(POLL_SECONDS)
            volume = node.get(path, VolumeInfo)
        total = -(-volume.size_bytes // volume.chunk_bytes)
        shown.update(bar, total=total, completed=total, trouble="")
    return volume


def _rate(moving: MigrationInfo) -> str:
    return f"{decimal(int(moving.bytes_per_second))}/s"
