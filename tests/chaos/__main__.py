"""``python -m tests.chaos --seconds N --seed S``: chaos by hand, for as long as wanted."""

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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lunmesh-chaos-") as folder:
        report = run(Path(folder), seconds=given.seconds, seed=given.seed)
    print(report)
    return 1 if report.violations else 0


sys.exit(main())
