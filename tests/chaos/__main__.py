"""``python -m tests.chaos --seconds N --seed S --nodes N``: chaos by hand, as long as wanted.

With ``--backing rados`` the workers share a pool of a small real Ceph, which it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run
from tests.support.ceph_cluster import CephCluster, find_ceph


def main() -> int:
    """Run, and say what was done and seen; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="that serve the disk (default 1)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    parser.add_argument("--backing", choices=["files", "rados"], default="files")
    given = parser.parse_args()
    missing = find_ceph() if given.backing == "rados" else None
    if missing is not None:
        parser.error(missing)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lunmesh-chaos-")))
        ceph = None
        if given.backing == "rados":
            ceph = stack.enter_context(CephCluster(folder / "ceph"))
        report = run(
            folder / "run",
            seconds=given.seconds,
            seed=given.seed,
            nodes=given.nodes,
            ceph=ceph,
            faults=given.fault,
        )
    print(report)
    return 1 if report.violations else 0


sys.exit(main())
