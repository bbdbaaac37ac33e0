"""`python -m tests.load`, or `make load ARGS='--rounds 1'`: fio's jobs of deploy/fio, beside tgtd.

Nothing is mounted: fio reaches the disks through qemu-storage-daemon, and through the kernel of a
virtual machine. Leaves report.html and results.json in build/load.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from target.config.sizes import parse_size
from tests.bench import machine
from tests.bench.servers import lunmesh, refusal, tgtd
from tests.e2e.packages import MissingTools
from tests.e2e.vm import VmError
from tests.load import fio
from tests.load.jobs import JOBS
from tests.load.measure import chosen_sections, measure
from tests.load.report import Report, as_json, page, print_tables, publish
from tests.load.ways import KERNEL, NBD
from tests.support.lunmesh_server import PROJECT_ROOT, ServerError

REPORT_COLUMNS = 130
SECONDS_MIN = 0.1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of one run, default %(default)s"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="of all sections, default %(default)s"
    )
    parser.add_argument(
        "--job", action="append", default=[], choices=JOBS, help="only this; default: all"
    )
    parser.add_argument(
        "--way", action="append", default=[], choices=[NBD, KERNEL], help="only this; default: both"
    )
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("256M"), help="of the disks, default 256M"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT_ROOT / "build" / "load",
        help="for the disks (removed afterwards), report.html and results.json",
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", help="write fio.md and its pictures there as well"
    )
    chosen = parser.parse_args()
    if chosen.seconds < SECONDS_MIN:
        parser.error(f"--seconds: at least {SECONDS_MIN:g}")
    if chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    if chosen.size < parse_size("64M"):
        parser.error("--size: at least 64M, which deploy/fio/verify.fio writes to")
    return chosen


def run(chosen: argparse.Namespace) -> int:
    """The exit status: 1 if a server or a run failed."""
    console = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)

    def complain(text: str) -> None:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)

    if missing := fio.missing():
        complain(f"missing: {missing}")
        return 1
    chosen.folder.mkdir(parents=True, exist_ok=True)
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **machine.describe(), **_versions()}
    try:
        with tempfile.TemporaryDirectory(prefix="disks-", dir=chosen.folder) as scratch:
            known = (lunmesh(), tgtd())
            refused = [server.missing or refusal(server, Path(scratch)) for server in known]
            servers = [server for server, reason in zip(known, refused, strict=True) if not reason]
            with Console(stderr=True).status("") as status:
                points = measure(
                    servers,
                    {
                        way: chosen_sections(way, chosen.job)
                        for way in (NBD, KERNEL)
                        if not chosen.way or way in chosen.way
                    },
                    rounds=chosen.rounds,
                    seconds=chosen.seconds,
                    size=chosen.size,
                    folder=Path(scratch),
                    say=status.update,
                )
    except (ServerError, VmError, MissingTools) as exc:
        complain(str(exc))
        return 1
    report = Report(
        about,
        {server.name: server.version for server in servers},
        list(filter(None, refused)),
        points,
    )
    for name, value in (*report.about.items(), *report.versions.items()):
        console.print(f"{name}: {value}", highlight=False)
    print_tables(console, report)
    for text in (*report.missing, *report.failures()):
        complain(text)
    (chosen.folder / "results.json").write_text(
        json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n"
    )
    written = [chosen.folder / "report.html"]
    written[0].write_text(page(report))
    if chosen.docs is not None:
        command = f"make load ARGS={shlex.quote(shlex.join(sys.argv[1:]))}"
        written.append(publish(report, command, chosen.docs))
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True, highlight=False)
    return 1 if report.failures() else 0


def _versions() -> dict[str, str]:
    return {
        name: subprocess.run(
            [name, "--version"], capture_output=True, text=True, check=False
        ).stdout.partition("\n")[0]
        for name in ("fio", "qemu-storage-daemon")
    }


if __name__ == "__main__":
    sys.exit(run(arguments()))
