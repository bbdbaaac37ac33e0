"""Where a server's CPU time goes, by py-spy (`make bench ARGS='--spy …'`): shares by component.

A share of what an I/O costs in a run before that, which nobody looks at, is what a component costs.

py-spy looks at each thread that runs, many times a second.  What it finds inside C code counts for
the Python frame that called it: the event loop's frame stands for uvloop, gRPC's callbacks and
system calls, a bare thread for gRPC's poller.  It slows a server down, so such a run is not timed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RATE = 250  # samples a second
SECONDS_MAX = 600
COMPONENTS = (  # the first whose mark is in the innermost frame
    ("target/iscsi/portal", "the socket: recv and sendmsg"),
    ("workers/file_store", "the page cache: preadv and pwritev"),
    ("target/iscsi", "iSCSI"),
    ("target/scsi", "SCSI"),
    ("target/hba", "SCSI"),
    ("target/cluster", "the tracker"),
    ("target/block", "volumes and the way to workers"),
    ("workers/wire", "messages: packing and unpacking"),
    ("workers/rados", "RADOS"),
    ("workers/", "the worker"),
    ("grpc/", "gRPC"),
    ("(threading.py", "gRPC's poller, librados"),
    ("(asyncio/runners.py", "event loop, gRPC's callbacks, system calls"),
)


def py_spy() -> str | None:
    """The program, if it is there."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


@contextmanager
def spying(pids: tuple[int, ...]) -> Iterator[dict[int, Counter[str]]]:
    """Samples by component for each process; they are there when the context has ended."""
    program = py_spy()
    assert program is not None, "checked by the caller"
    found: dict[int, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {pid: Path(folder) / str(pid) for pid in pids}
        record = [program, "record", "--format", "raw", "--rate", str(RATE)]
        record += ["--duration", str(SECONDS_MAX)]
        spies = [
            subprocess.Popen(
                [*record, "--output", str(file), "--pid", str(pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for pid, file in files.items()
        ]
        try:
            yield found
        finally:
            for spy in spies:
                spy.send_signal(signal.SIGINT)  # it then writes what it has
            for spy in spies:
                spy.wait(30)
        for pid, file in files.items():
            found[pid] = _components(file.read_text() if file.exists() else "")


def _components(raw: str) -> Counter[str]:
    """A line of ``raw``: frames from the outermost to the innermost, and how often."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = stack.rpartition(";")[2]
        name = next((name for mark, name in COMPONENTS if mark in frame), "else")
        counts[name] += int(count)
    return counts
