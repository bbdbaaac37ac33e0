"""``python -m tests.soak --minutes N --seed S``, or `make soak`: does anything grow?"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    """Run, and say what was done and what has grown; exit status 1 where something has."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lunmesh-soak-") as folder:
        report = soak(Path(folder), seconds=60 * given.minutes, seed=given.seed)
    print(report)
    return 0 if report.clean else 1


sys.exit(main())
