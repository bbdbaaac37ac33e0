"""`python -m tests.failures`, or `make failures`: how long initiators wait when a part dies.

Prints a table of medians, with the least and the most of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console

from tests.bench import machine
from tests.bench.servers import product_version
from tests.failures.cases import CASES, Case, NotSettled, Outcome, on_ceph, play
from tests.support.ceph_cluster import CephCluster, CephError, find_ceph
from tests.support.lunmesh_server import PROJECT_ROOT, ServerError
from tests.support.lunmesh_worker import WorkerProcessError
from tests.support.redis_server import RedisProcessError

WATCHERS = ("through it", "elsewhere, same blocks", "elsewhere, other blocks")
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.failures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all cases, default %(default)s")
    parser.add_argument(
        "--case", action="append", default=[], metavar="TEXT", help="only cases with this in them"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT_ROOT / "build" / "failures",
        help="for results.json",
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="put the table into this page as well"
    )
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    return chosen


def run(chosen: argparse.Namespace) -> int:
    """The exit status: 1 if an initiator had an I/O error or was not answered again."""
    console, progress = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    found: dict[str, list[Outcome]] = {}
    failures: list[str] = []
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "lunmesh": product_version()}
    about |= machine.describe()
    with contextlib.ExitStack() as stack:
        # Short, for Unix sockets.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fail-")))
        ceph = CephCluster(scratch / "ceph")
        on_pool = _chosen(on_ceph(ceph), chosen.case)
        try:
            if on_pool and (missing := find_ceph()) is not None:
                console.print(f"missing: {missing}")
                on_pool = []
            if on_pool:
                stack.enter_context(ceph)
            cases = [*_chosen(CASES, chosen.case), *on_pool]
            for number in range(chosen.rounds):
                for place, case in enumerate(cases):
                    progress.print(f"round {number + 1}: {case.what}")
                    try:
                        outcome = play(case, scratch / f"{number}-{place}")
                    except NotSettled as exc:
                        failures.append(f"{case.what}: {exc}")
                        continue
                    found.setdefault(case.what, []).append(outcome)
                    failures += [f"{case.what}: {error}" for error in outcome.errors]
        except (ServerError, WorkerProcessError, RedisProcessError, CephError) as exc:
            console.print(str(exc))
            return 1
    if not found and not failures:
        console.print("nothing to measure")
        return 1
    table = _table(found)
    lines = [*(f"{name}: {value}" for name, value in about.items()), "", *table, ""]
    console.print("\n".join(lines), markup=False)
    for text in failures:
        console.print(text, markup=False)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    outcomes = {
        what: [{"pauses": o.pauses, "errors": o.errors} for o in outcomes]
        for what, outcomes in found.items()
    }
    document = {"about": about, "cases": outcomes, "failures": failures}
    (chosen.folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    if chosen.docs is not None:
        _publish(chosen.docs, about, table)
    return 1 if failures else 0


def _chosen(cases: Sequence[Case], texts: Sequence[str]) -> list[Case]:
    return [case for case in cases if all(text in case.what for text in texts)]


def _table(found: dict[str, list[Outcome]]) -> list[str]:
    lines = [f"| what | {' | '.join(WATCHERS)} | I/O errors |", "|---|" + "--:|" * 4]
    for what, outcomes in found.items():
        cells = []
        for watcher in WATCHERS:
            pauses = [o.pauses[watcher] for o in outcomes if watcher in o.pauses]
            cells.append(
                f"{median(pauses):.2f} s ({min(pauses):.2f}–{max(pauses):.2f})" if pauses else ""
            )
        errors = sum(len(outcome.errors) for outcome in outcomes)
        lines.append(f"| {what} | {' | '.join(cells)} | {errors} |")
    return lines


def _publish(page: Path, about: dict[str, str], table: list[str]) -> None:
    """Between the marks of the page."""
    command = f"make failures ARGS={shlex.quote(shlex.join(sys.argv[1:]))}"
    where = f"`{command}` printed on {about['date']} (lunmesh {about['lunmesh']}, "
    where += f"{about['processor']}, load {about['load before']} before):"
    text = "\n".join(["", where, "", *table, "", ""])
    old = page.read_text()
    new = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{text}{END}", old, flags=re.S)
    page.write_text(new)


if __name__ == "__main__":
    sys.exit(run(arguments()))
