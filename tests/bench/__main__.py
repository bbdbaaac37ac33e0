"""`python -m tests.bench`, or `make bench ARGS='--rounds 5'`: the product beside its peers."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from target.config.sizes import parse_size
from tests.bench import machine
from tests.bench.clients import ClientFailed, missing_clients
from tests.bench.measure import measure
from tests.bench.report import print_report, verdicts, write_json
from tests.bench.rows import ROWS
from tests.bench.servers import PRODUCT, candidates, refusal
from tests.support.lunmesh_server import PROJECT_ROOT, ServerError

ROUNDS_MIN = 3
REPORT_COLUMNS = 120


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS_MIN, help="of all rows, default %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of one timed run, about, default %(default)s"
    )
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("256M"), help="of the disks, default 256M"
    )
    parser.add_argument(
        "--row", action="append", default=[], metavar="TEXT", help="only rows with this in the name"
    )
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME", help="only this server"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT_ROOT / "build" / "bench",
        help="for the disks (removed afterwards) and results.json",
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    return chosen


def main() -> int:
    chosen = arguments()
    # A pipe has no width, and rich would then break every row in three.
    console = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)
    progress = Console(stderr=True)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="disks-", dir=chosen.folder) as scratch:
        known = [s for s in candidates() if not chosen.server or s.name in chosen.server]
        refusals = {s.name: s.missing or refusal(s, Path(scratch)) for s in known}
        servers = [server for server in known if not refusals[server.name]]
        absent = missing_clients()
        wanted = [row for row in ROWS if all(text in row.name for text in chosen.row)]
        rows = [row for row in wanted if row.client not in absent]
        missing = [reason for reason in (*refusals.values(), *absent.values()) if reason]
        about = {**machine.describe(), **{server.name: server.version for server in servers}}
        for name, value in about.items():
            console.print(f"{name}: {value}", highlight=False)
        for reason in missing:
            console.print(
                f"missing: {reason}", style="red", markup=False, highlight=False, soft_wrap=True
            )
        if not servers or not rows or refusals.get(PRODUCT):
            console.print("nothing to measure", style="red")
            return 1
        try:
            with progress.status("making the disks") as status:
                results = measure(
                    servers,
                    rows,
                    rounds=chosen.rounds,
                    seconds=chosen.seconds,
                    size=chosen.size,
                    folder=Path(scratch),
                    say=status.update,
                )
        except (ClientFailed, ServerError) as exc:
            console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
            return 1

    names = [server.name for server in servers]
    peers = [name for name in names if name != PRODUCT]
    judged = verdicts(rows, results, peers[0]) if PRODUCT in names and peers else []
    print_report(console, rows, results, names, judged)
    path = chosen.folder / "results.json"
    write_json(
        path, about=about, rows=rows, results=results, verdicts_by_row=judged, missing=missing
    )
    failed = [verdict for verdict in judged if verdict.passed is False]
    met = sum(verdict.passed is True for verdict in judged)
    console.print(
        f"{met} of {met + len(failed)} goals met, {chosen.rounds} rounds; all samples: {path}"
        if judged
        else f"no peer to compare with; all samples: {path}"
    )
    return 1 if chosen.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
