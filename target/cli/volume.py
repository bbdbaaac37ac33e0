"""``lunmesh volume``: asks a running node, and shows what it says."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from target.admin.client import volume_path
from target.admin.schema import VolumeCreate, VolumeList, VolumeMap, VolumeResize
from target.cli.asking import PIPE_COLUMNS, asked_node, print_facts, print_json, whole
from target.config import format_size
from target.volume_info import VolumeInfo


def show_all(admin: str | None, as_json: bool) -> None:
    """A table of the volumes."""
    with asked_node(admin) as node:
        volumes = node.get("/v1/volumes", VolumeList).volumes
    if as_json:
        print_json(volumes)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "LUN", "name", "size", "allocated", "where"):
        table.add_column(heading, justify="right" if heading == "LUN" else "left")
    for volume in volumes:
        allocated = volume.allocated_bytes
        table.add_row(
            volume.target,
            "-" if volume.lun is None else str(volume.lun),
            volume.name + " (read-only)" * volume.read_only,
            format_size(volume.size_bytes),
            "" if allocated is None else format_size(allocated),
            _where(volume),
        )
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False).print(table)


def _where(volume: VolumeInfo) -> str:
    if volume.lun is None:
        return "being deleted"
    if not volume.workers:
        return volume.path or volume.pool or ""
    away = sum(not worker.served for worker in volume.workers)
    count = len(volume.workers)
    return f"{count} worker{'s' * (count != 1)}" + (f", {away} away" if away else "")


def show(admin: str | None, name: str, as_json: bool) -> None:
    """One volume, a line for each thing."""
    with asked_node(admin) as node:
        volume = node.get(volume_path(name), VolumeInfo)
    print_volume(volume, as_json)


def create(
    admin: str | None,
    name: str,
    size: str,
    *,
    block: str | None,
    chunk: str | None,
    readonly: bool,
    workers: list[str] | None,
    lun: str | None,
    target: str,
    as_json: bool,
) -> None:
    """Make a volume."""
    asked = VolumeCreate(
        name=name,
        size=size,
        block=whole("block", block, 512),
        chunk=chunk or "4M",
        readonly=readonly,
        workers=workers or None,
        lun=None if lun is None else whole("lun", lun, 0),
        target=target,
    )
    with asked_node(admin) as node:
        print_volume(node.send("POST", "/v1/volumes", asked, VolumeInfo), as_json)


def resize(admin: str | None, name: str, size: str, as_json: bool) -> None:
    """Grow a volume."""
    with asked_node(admin) as node:
        grown = node.send("PATCH", volume_path(name), VolumeResize(size=size), VolumeInfo)
    print_volume(grown, as_json)


def remap(
    admin: str | None, name: str, *, target: str, lun: str | None, force: bool, as_json: bool
) -> None:
    """Show a volume elsewhere."""
    number = None if lun is None else whole("lun", lun, 0)
    asked = VolumeMap(target=target, lun=number, force=force)
    with asked_node(admin) as node:
        print_volume(node.send("PUT", f"{volume_path(name)}/lun", asked, VolumeInfo), as_json)


def print_volume(volume: VolumeInfo, as_json: bool) -> None:
    lun = "being deleted" if volume.lun is None else str(volume.lun)
    lines = [
        ("name", volume.name),
        ("target", volume.target),
        ("LUN", lun),
        ("size", format_size(volume.size_bytes)),
        ("blocks", f"{volume.block_bytes} bytes" + ", read-only" * volume.read_only),
        ("chunks", format_size(volume.chunk_bytes)),
        ("UUID", volume.uuid),
        ("named by", "configuration" if volume.configured else "lunmesh volume create"),
    ]
    if volume.path is not None:
        lines.append(("file", volume.path))
    if volume.pool is not None:
        lines.append(("pool", volume.pool))
    if volume.allocated_bytes is not None:
        lines.append(("allocated", format_size(volume.allocated_bytes)))
    for worker in volume.workers:
        lines.append(("worker", worker.address + (f": {worker.reason}" if worker.reason else "")))
    if (moving := volume.migration) is not None:
        done = f"{moving.chunks_done} of {moving.chunks_total} chunks"
        lines.append(("moving to", ", ".join(moving.workers)))
        lines.append(("moved", done + (f"; {moving.trouble}" if moving.trouble else "")))
    if (going := volume.deletion) is not None and going.workers_total:
        done = f"at {going.workers_done} of {going.workers_total} workers"
        lines.append(("deleted", done + (f"; {going.trouble}" if going.trouble else "")))
    for address in volume.retired:
        lines.append(("left", f"{address}: its share is not deleted yet"))
    print_facts(volume, lines, as_json)
