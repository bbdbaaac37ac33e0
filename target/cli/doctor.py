"""``lunmesh doctor``: a file for a report of a problem."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import tarfile
import time
from pathlib import Path

from rich.filesize import decimal

from target.admin.schema import Report
from target.cli.asking import asked_node
from target.cli.errors import CliError
from target.cli.version import version_report

MODE = 0o600  # for whoever made it; it has no secrets, but names of machines and users


def doctor(admin: str | None, output: Path | None) -> None:
    """Ask the node, and write what it says beside what is known here."""
    when = time.time()
    files = {"machine.json": json.dumps(_machine(), indent=2) + "\n"}
    try:
        with asked_node(admin) as node:
            files |= node.get("/v1/report", Report).files
    except CliError as exc:
        if exc.status != 1:  # a mistake in --admin
            raise
        files["node.txt"] = f"{exc}\n"
        print(f"lunmesh: {exc}", file=sys.stderr)
    if output is None:
        output = Path(time.strftime("lunmesh-report-%Y%m%d-%H%M%S.tar.gz", time.localtime(when)))
    nbytes = _write(output, files, int(when))
    print(f"wrote {output} ({decimal(nbytes)}): {', '.join(sorted(files))}")
    print("It has no secrets, but names of machines, volumes and initiators: have a look at it.")


def _machine() -> dict[str, object]:
    report: dict[str, object] = dict(version_report())
    report["processors"] = os.cpu_count()
    report["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    report["load"] = os.getloadavg()
    report["files_max"] = resource.getrlimit(resource.RLIMIT_NOFILE)
    return report


def _write(output: Path, files: dict[str, str], when: int) -> int:
    """Raises OSError: a file that is there stays as it is."""
    folder = output.name.removesuffix(".tar.gz")
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with (
        os.fdopen(descriptor, "wb") as out,
        tarfile.open(fileobj=out, mode="w:gz") as archive,
    ):
        for name, text in sorted(files.items()):
            data = text.encode(errors="replace")
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), when, MODE
            archive.addfile(entry, io.BytesIO(data))
    return output.stat().st_size
