"""Where a server's CPU time goes (`make bench ARGS='--spy …'`): µs of an I/O by phase and function.

Each Python process looks at its own main thread every 4 ms of that thread's CPU time
(spied/sitecustomize.py).  What it finds inside C code counts for the Python function that called
it, ``SocketChannel._send`` for ``sendmsg`` for instance; what it finds in the event loop (uvloop,
``epoll``, gRPC's callbacks) also for the function that the loop calls next.  CPU time of other
threads, and of programs that are not Python, is the kernel's account.

A profiler that looks from outside has to stop the process for it.  On two busy cores it then finds
what comes after a sleep far more often than its share: py-spy gave a 256 KiB read's ``preadv`` one
part in a hundred, where ``perf trace`` found nearly half of the system calls' time.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests.bench.procstat import cpu_seconds, thread_cpu_seconds
from tests.bench.spied.sitecustomize import START, STOP
from tests.support.lunmesh_server import PROJECT_ROOT

ANSWER_SECONDS_MAX = 10.0
OTHER_THREADS = "other threads: gRPC's poller, librados, I/O that waits for a disk"
NOT_PYTHON = "no Python"
EVENT_LOOP = "the event loop: uvloop, epoll, gRPC's callbacks"
PHASES = (  # the first whose mark is in "FUNCTION (FILE)"
    ("SocketChannel._readable", EVENT_LOOP),
    ("SocketChannel._pass", "the socket: recv"),
    ("SocketChannel._send", "the socket: sendmsg"),
    ("FileStore.read_now", "the page cache: preadv"),
    ("FileStore._gated", "the page cache: preadv, pwritev"),
    ("DirectFile.", "the page cache: preadv"),
    ("target/iscsi", "iSCSI"),
    ("target/scsi", "SCSI"),
    ("target/hba", "SCSI"),
    ("target/cluster", "the tracker"),
    ("target/block", "volumes and the way to workers"),
    ("workers/wire", "messages: packing and unpacking"),
    ("workers/rados", "RADOS"),
    ("workers/", "the worker and its stores"),
    ("grpc/", "gRPC's Python"),
    ("asyncio/", EVENT_LOOP),
    ("uvloop/", EVENT_LOOP),
)


@dataclass(frozen=True)
class Spent:
    """CPU time of an I/O that one function took, with the C functions that it calls."""

    process: str  # "target", "process 2" …, in the order of the endpoint
    phase: str
    function: str
    microseconds: float
    share: float  # of this process
    looks: int  # that found it there: with few of them, the figures are rough


@contextmanager
def spied(folder: Path) -> Iterator[None]:
    """Python processes that are started meanwhile can be spied on, by what they put there."""
    paths = [str(PROJECT_ROOT / "tests" / "bench" / "spied"), os.environ.get("PYTHONPATH", "")]
    changed = {"LUNMESH_SPY": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with mock.patch.dict(os.environ, changed):
        yield


class Spy:
    """On these processes, while the context is entered; ``spent`` is for afterwards."""

    def __init__(self, folder: Path, pids: Sequence[int]) -> None:
        self._folder = folder
        self._pids = pids
        self._python = {pid for pid in pids if (folder / f"{pid}.ready").exists()}
        self._cpu: dict[int, tuple[float, float]] = {}  # by process: its main thread's, all
        self._found: dict[int, Counter[str]] = {}

    def __enter__(self) -> Spy:
        for pid in self._python:
            (self._folder / str(pid)).unlink(missing_ok=True)
            os.kill(pid, START)
        self._cpu = {pid: _cpu(pid) for pid in self._pids}
        return self

    def __exit__(self, *about: object) -> None:
        for pid, before in self._cpu.items():
            after = _cpu(pid)
            self._cpu[pid] = after[0] - before[0], after[1] - before[1]
        for pid in self._python:
            os.kill(pid, STOP)
        for pid in self._python:
            self._found[pid] = _answer(self._folder / str(pid))

    def spent(self, ios: float) -> list[Spent]:
        """Of each process the most expensive functions first."""
        found = []
        for number, pid in enumerate(self._pids, 1):
            process = "target" if number == 1 else f"process {number}"
            main, whole = (1e6 * seconds / ios for seconds in self._cpu[pid])
            samples = self._found.get(pid, Counter())
            if not samples:
                main = 0.0  # of a process that slept, or is no Python
            parts = [
                (phase_of(where), where, main * count / samples.total(), count)
                for where, count in samples.items()
            ]
            rest = OTHER_THREADS if pid in self._python else NOT_PYTHON
            parts.append((rest, "", max(0.0, whole - main), 0))
            total = sum(cost for _, _, cost, _ in parts) or 1.0
            found += [
                Spent(process, phase, function, cost, cost / total, looks)
                for phase, function, cost, looks in sorted(parts, key=lambda part: -part[2])
                if cost
            ]
        return found


def phase_of(where: str) -> str:
    """``where``: a function with its file in brackets."""
    return next((phase for mark, phase in PHASES if mark in where), "else")


def by_phase(spent: Sequence[Spent]) -> list[tuple[str, float, float, list[Spent]]]:
    """The phases of one process, the most expensive first: µs, share, and the functions."""
    phases: dict[str, list[Spent]] = {}
    for it in spent:
        phases.setdefault(it.phase, []).append(it)
    rows = [
        (phase, sum(it.microseconds for it in found), sum(it.share for it in found), found)
        for phase, found in phases.items()
    ]
    return sorted(rows, key=lambda row: -row[1])


def _cpu(pid: int) -> tuple[float, float]:
    return thread_cpu_seconds(pid, pid), cpu_seconds((pid,))


def _answer(file: Path) -> Counter[str]:
    until = time.monotonic() + ANSWER_SECONDS_MAX
    while not file.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"process {file.name} does not say what it has found")
        time.sleep(0.02)
    return Counter(json.loads(file.read_text()))
