"""The compiled build, for those who want it: LUNMESH_COMPILED=1 (``make compiled``).

mypyc makes a C extension of the modules that a READ(10) passes, from the same source that runs
without (tests/unit/test_compiled.py has what that asks of it).  Where there is no C compiler, or
something goes wrong, what is built is plain Python as ever.  docs/decisions/0022-compiled.md says
what it buys.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Those that a command passes while its data are at hand; all others cost nothing there.
HOT = [
    *("target/iscsi/portal.py", "target/iscsi/channel.py", "target/iscsi/receiver.py"),
    *("target/iscsi/endpoint.py", "target/iscsi/connection.py", "target/iscsi/session.py"),
    *("target/iscsi/task.py", "target/iscsi/serial.py", "target/iscsi/sender.py"),
    *("target/scsi/cdb.py", "target/scsi/command.py", "target/scsi/request.py"),
    *("target/scsi/logical_unit.py", "target/scsi/nexus.py"),
    *("target/scsi/device.py", "target/scsi/disk.py", "target/scsi/readwrite.py"),
    *("target/scsi/stats.py", "target/block/pool.py"),
    *("target/block/ranges.py", "target/block/volume.py", "workers/file_store.py"),
]


def extensions() -> list[Extension]:
    """None of them has to succeed."""
    if os.environ.get("LUNMESH_COMPILED") != "1":
        return []
    # mypy reads the types of what we depend on: it has to be installed already.
    try:
        from mypyc.build import mypycify

        found = mypycify(HOT, target_dir="build/mypyc")
    except (ImportError, SystemExit) as exc:  # mypyc has said what is wrong
        print(f"not compiled: {exc}", file=sys.stderr)
        return []
    for extension in found:
        extension.optional = True
    return found


class AllOrNone(build_ext):
    """What is compiled is in one library, which each module looks for when it is imported."""

    def run(self) -> None:
        built = [Path(self.get_ext_fullpath(each.name)) for each in self.extensions]
        for path in built:  # of an earlier build
            path.unlink(missing_ok=True)
        super().run()
        if not all(path.exists() for path in built):
            for path in built:
                path.unlink(missing_ok=True)
            print("not compiled: the C compiler has failed", file=sys.stderr)


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": AllOrNone})
