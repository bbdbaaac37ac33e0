"""The command line, ``lunmesh``.  Commands import what they run when they run it."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script."""
    from target.cli.run import run

    sys.exit(run(sys.argv[1:]))
