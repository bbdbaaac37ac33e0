"""`python -m tests.bench`, or `make bench ARGS='--rounds 5'`: the product beside its peers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from target.config.sizes import parse_size
from tests.bench import machine, tools
from tests.bench.clients import ClientFailed, missing_clients
from tests.bench.growth import Growth
from tests.bench.measure import measure, spy_on
from tests.bench.plot import as_svg
from tests.bench.report import Verdict, as_json, print_goals, print_report, print_spent, verdicts
from tests.bench.rows import Row
from tests.bench.servers import Candidate, refusal
from tests.bench.suites import Suite, suites
from tests.support.lunmesh_server import PROJECT_ROOT, ServerError

ROUNDS = 5
GROWTH = "growth"  # what grows with sessions, volumes and size: no suite of rows
REPORT_COLUMNS = 150
# Beside its time a run takes this for warming the file and for qemu-img's first short run, a server
# this for its disks, and `growth` this for its servers and what it has them hold.
RUN_SECONDS, SERVER_SECONDS, GROWTH_SECONDS = 1.0, 5.0, 150.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [*(suite.name for suite in suites()), GROWTH]
    parser.add_argument(
        "--suite", action="append", default=[], choices=names, help="only this; default: all"
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="of all rows, default %(default)s"
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
    parser.add_argument(
        "--spy",
        action="store_true",
        help="print where CPU time goes instead, one run a row",
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="the target of another checkout: what it was like before (workers are of this one)",
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    chosen = parser.parse_args()
    if chosen.source is not None:
        if not (chosen.source / "target").is_dir():
            parser.error(f"--source: there is no target in {chosen.source}")
        os.environ["LUNMESH_TEST_PACKAGES"] = str(chosen.source.resolve())
    if chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    return chosen


class Bench:
    """One call of the command."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        # A pipe has no width, and rich would then break every row in three.
        self._console = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)
        self._progress = Console(stderr=True)
        self._document: dict[str, object] = {}
        self._spied: dict[str, dict[str, object]] = {}  # by suite and server
        self._judged: list[Verdict] = []
        self._unmeasured: list[str] = []  # rows, and why

    def run(self) -> int:
        """All suites that were chosen; the exit status."""
        chosen = self._chosen
        chosen.folder.mkdir(parents=True, exist_ok=True)
        about = machine.describe()
        self._print_lines(about)
        self._document["about"] = about
        self._print_lines({"takes": f"about {self._seconds() / 60:.0f} minutes"})
        for suite in self._suites():
            try:
                self._measure(suite)
            except (ClientFailed, ServerError) as exc:
                self._complain(f"{suite.name}: {exc}")
                return 1
        if self._grows():
            self._grow()
        if self._spied:
            self._document["spied"] = self._spied
        if len(self._document) == 1:
            self._complain("nothing to measure")
            return 1
        path = chosen.folder / "results.json"
        path.write_text(json.dumps(self._document, indent=1, ensure_ascii=False) + "\n")
        if self._spied:
            self._console.print(f"all functions: {path}", soft_wrap=True)
            return 0
        print_goals(self._console, self._judged)
        for row in self._unmeasured:
            self._complain(f"not measured: {row}")
        if any(verdict.goal for verdict in self._judged):
            picture = as_svg(self._judged, f"{about['processor']}, load {about['load before']}")
            (chosen.folder / "goals.svg").write_text(picture)
        failed = [verdict for verdict in self._judged if verdict.passed is False]
        met = sum(verdict.passed is True for verdict in self._judged)
        self._console.print(
            f"{met} of {met + len(failed)} goals met, {chosen.rounds} rounds; all samples: {path}"
            if met + len(failed)
            else f"no peer to compare with; all samples: {path}",
            soft_wrap=True,
        )
        return 1 if chosen.check and failed else 0

    def _suites(self) -> list[Suite]:
        chosen = self._chosen
        return [suite for suite in suites() if not chosen.suite or suite.name in chosen.suite]

    def _grows(self) -> bool:
        chosen = self._chosen
        everything = not (chosen.spy or chosen.server or chosen.row or chosen.suite)
        return everything or GROWTH in chosen.suite

    def _rows(self, suite: Suite) -> list[Row]:
        return [row for row in suite.rows if all(text in row.name for text in self._chosen.row)]

    def _servers(self, suite: Suite) -> list[Candidate]:
        chosen = self._chosen
        return [s for s in suite.servers if not chosen.server or s.name in chosen.server]

    def _seconds(self) -> float:
        """What all of it takes, about, if nothing is missing."""
        chosen = self._chosen
        rounds = 1 if chosen.spy else chosen.rounds
        each = chosen.seconds + RUN_SECONDS
        taken = 0.0
        for suite in self._suites():
            servers = len(self._servers(suite))
            taken += servers * (SERVER_SECONDS + rounds * len(self._rows(suite)) * each)
        return taken + GROWTH_SECONDS + 6 * rounds * each if self._grows() else taken

    def _grow(self) -> None:
        chosen = self._chosen
        if why := tools.missing():
            self._complain(f"missing: {why}")
            return
        with (
            tempfile.TemporaryDirectory(prefix="disks-", dir=chosen.folder) as scratch,
            self._progress.status("") as status,
        ):
            growth = Growth(Path(scratch), chosen.rounds, chosen.seconds, status.update)
            found = growth.run()
        self._judged += found
        self._unmeasured += growth.unmeasured
        self._document[GROWTH] = {
            "verdicts": [asdict(verdict) for verdict in found],
            "unmeasured": growth.unmeasured,
        }

    def _measure(self, suite: Suite) -> None:
        chosen = self._chosen
        with tempfile.TemporaryDirectory(prefix="disks-", dir=chosen.folder) as scratch:
            known = self._servers(suite)
            refusals = {s.name: s.missing or refusal(s, Path(scratch)) for s in known}
            servers = [server for server in known if not refusals[server.name]]
            absent = missing_clients()
            rows = [row for row in self._rows(suite) if row.client not in absent]
            missing = [reason for reason in (*refusals.values(), *absent.values()) if reason]
            self._console.rule(f"{suite.name}: {suite.title}", align="left")
            versions = {server.name: server.version for server in servers}
            self._print_lines(versions)
            for reason in missing:
                self._complain(f"missing: {reason}")
            if not servers or not rows:
                return
            if chosen.spy:
                self._spy(suite.name, servers, rows, Path(scratch))
                return
            with self._progress.status("") as status:
                results = measure(
                    servers,
                    rows,
                    rounds=chosen.rounds,
                    seconds=chosen.seconds,
                    size=chosen.size,
                    folder=Path(scratch),
                    say=status.update,
                )
        judged = verdicts(rows, results, suite.comparisons)
        self._judged += judged
        unmeasured = [f"{row}: {why}" for row, why in results.unmeasured.items()]
        self._unmeasured += unmeasured
        for text in unmeasured:
            self._complain(f"not measured: {text}")
        print_report(self._console, rows, results, [server.name for server in servers], judged)
        measured = as_json(rows, results, judged)
        self._document[suite.name] = {
            "servers": versions,
            "missing": missing,
            "unmeasured": unmeasured,
            **measured,
        }

    def _spy(self, suite: str, servers: list[Candidate], rows: list[Row], scratch: Path) -> None:
        chosen = self._chosen
        for server in servers:
            found = spy_on(server, rows, seconds=chosen.seconds, size=chosen.size, folder=scratch)
            for row, spent in found.items():
                print_spent(self._console, server.name, row, spent)
            by_row = {row: [asdict(it) for it in spent] for row, spent in found.items()}
            self._spied.setdefault(suite, {})[server.name] = by_row

    def _print_lines(self, about: dict[str, str]) -> None:
        for name, value in about.items():
            self._console.print(f"{name}: {value}", highlight=False)

    def _complain(self, text: str) -> None:
        self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(Bench(arguments()).run())
