"""``python -m tests.chaos --seconds N --seed S --nodes N``: chaos by hand, as long as wanted."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run


def main() -> int:
    """Run, and say what was done and seen; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="that serve the disk (default 1)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lunmesh-chaos-") as folder:
        report = run(
            Path(folder),
            seconds=given.seconds,
            seed=given.seed,
            nodes=given.nodes,
            faults=given.fault,
        )
    print(report)
    return 1 if report.violations else 0


sys.exit(main())
