"""What grows, and what does not: CPU time with sessions, volumes and size; memory; the start.

Rules:

1. CPU time of a 4 KiB read at depth 32 from the first ``READ_BYTES`` of a disk, which are written
   and cached, is compared with that of one session on one volume of 1 GiB.
2. A file of ext4 ends 4 KiB before 16 TiB.  Where the disks are on such a file system, the volume
   of 16 TiB is in shared memory (tmpfs), and so is the one of 1 GiB that it is compared with: a
   read takes another way there (workers/file_store.py rule 1).
3. Memory of a session is what 64 take more than one.  That of an outstanding command is what eight
   sessions take more at depth 128 than at depth 1, through a worker that is slow, divided by how
   many more were outstanding.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import tools
from tests.bench.goals import Goal, at_most
from tests.bench.procstat import cpu_seconds, memory_bytes
from tests.bench.report import Verdict, judge
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

READ_BYTES = 32 << 20
BLOCK_BYTES = 4096
DEPTH = 32
SESSIONS = 64
VOLUMES = 1000
HOLDING_SESSIONS, HOLDING_DEPTH = 8, 128
# A session is given more and more room for commands as it uses what it has (iscsi/session.py rule
# 3): that takes some answers, each of them late.
HOLDING_SECONDS, SLOW = 4.0, "delay=100ms"
LARGE_BYTES = 16 << 40
SHARED_MEMORY = Path("/dev/shm")
# What the files of the large volume and of the one beside it have in them, and as much again.
SHARED_MEMORY_BYTES_MIN = 4 * READ_BYTES
CPU_SESSIONS = f"CPU per read, {SESSIONS} sessions"
CPU_VOLUMES = f"CPU per read, {VOLUMES} volumes"
CPU_LARGE = "CPU per read, a volume of 16 TiB"
IDLE = "resident when idle, MiB"
SESSION = "resident for a session, KiB"
COMMAND = {op: f"resident for an outstanding 4 KiB {op}, KiB" for op in ("read", "write")}
START = "start to the ready line, s of CPU"
GOALS: dict[str, Goal] = {
    **dict.fromkeys((CPU_SESSIONS, CPU_VOLUMES, CPU_LARGE), at_most(1.2, 1.05)),
    IDLE: at_most(80),
    SESSION: at_most(64),
    **dict.fromkeys(COMMAND.values(), at_most(8)),
    START: at_most(1.0, 0.4),
}
BASE = "one session, one volume, 1 GiB"
OURS = "lunmesh"


def _load(
    server: LunmeshServer, sessions: int, depth: int, seconds: float, writes: bool = False
) -> list[str]:
    return [
        *(str(tools.built("load")), server.host, str(server.port), server.iqn, "0"),
        *(str(sessions), str(depth), str(BLOCK_BYTES), str(READ_BYTES)),
        *("100" if writes else "0", "0" if writes else "1", "0", "0", str(seconds)),
    ]


def _cpu_per_read(server: LunmeshServer, sessions: int, seconds: float) -> float:
    before = cpu_seconds((server.pid,))
    done = subprocess.run(
        _load(server, sessions, DEPTH, seconds), capture_output=True, text=True, check=True
    )
    return (cpu_seconds((server.pid,)) - before) / int(done.stdout.split()[0])


@contextlib.contextmanager
def _serving(folder: Path, volumes: list[str]) -> Iterator[LunmeshServer]:
    with LunmeshServer(folder, volumes) as server:
        subprocess.run(_load(server, 1, DEPTH, 2.0, writes=True), capture_output=True, check=True)
        yield server


def holds_large(folder: Path) -> bool:
    """Whether a file there can have ``LARGE_BYTES``."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.ftruncate(file.fileno(), LARGE_BYTES)
        except OSError:  # EFBIG
            return False
    return True


@contextlib.contextmanager
def _folder_for_large(folder: Path) -> Iterator[Path | None]:
    """``folder`` or one in shared memory (rule 2), whichever can have a file of that size."""
    if holds_large(folder):
        yield folder
    elif (
        SHARED_MEMORY.is_dir()
        and shutil.disk_usage(SHARED_MEMORY).free >= SHARED_MEMORY_BYTES_MIN
        and holds_large(SHARED_MEMORY)
    ):
        with tempfile.TemporaryDirectory(prefix="lunmesh-bench-", dir=SHARED_MEMORY) as shared:
            yield Path(shared)
    else:
        yield None


@dataclass(frozen=True)
class _Peak:
    memory_bytes: int  # resident at most
    outstanding: int  # commands at most, of all sessions


def _peak(
    server: LunmeshServer, sessions: int, depth: int, seconds: float = 1.5, writes: bool = False
) -> _Peak:
    """While so many sessions have as many commands outstanding as they may."""
    most = 0
    command = _load(server, sessions, depth, seconds, writes)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        while load.poll() is None:
            most = max(most, memory_bytes((server.pid,)))
            time.sleep(0.02)
        if load.returncode:
            raise subprocess.CalledProcessError(load.returncode, command)
        ended, *_, outstanding = load.stdout.read().split()
        if not int(ended):
            raise RuntimeError("no command has been answered: what is held is not what was meant")
        return _Peak(most, int(outstanding))


def _start_cpu_seconds(folder: Path) -> float:
    with LunmeshServer(folder, ["disk0=1G"]) as server:
        return cpu_seconds((server.pid,))


class Growth:
    """Measures in ``folder``; ``say`` is told what is going on."""

    def __init__(
        self, folder: Path, rounds: int, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._rounds = rounds
        self._seconds = seconds
        self._say = say
        self.found: list[Verdict] = []
        self.unmeasured: list[str] = []  # and why

    def run(self) -> list[Verdict]:
        self._cpu()
        self._memory()
        self._say("start")
        starts = [_start_cpu_seconds(self._folder / f"start{n}") for n in range(self._rounds)]
        self._add(START, starts)
        return self.found

    def _cpu(self) -> None:
        others = [f"disk{n}=1M" for n in range(1, VOLUMES)]
        with (
            _serving(self._folder / "one", ["disk0=1G"]) as one,
            _serving(self._folder / "many", ["disk0=1G", *others]) as many,
        ):
            self._compare({CPU_SESSIONS: (one, SESSIONS), CPU_VOLUMES: (many, 1)}, one, BASE)
        with _folder_for_large(self._folder) as folder:
            if folder is None:
                self.unmeasured.append(f"{CPU_LARGE}: no file here can be so large")
                return
            with (
                _serving(folder / "one", ["disk0=1G"]) as one,
                _serving(folder / "large", [f"disk0={LARGE_BYTES}"]) as large,
            ):
                base = BASE if folder == self._folder else f"{BASE}, both in {SHARED_MEMORY}"
                self._compare({CPU_LARGE: (large, 1)}, one, base)

    def _compare(
        self, cases: dict[str, tuple[LunmeshServer, int]], one: LunmeshServer, base: str
    ) -> None:
        """The CPU time of each, with so many sessions, as a ratio to one of ``one``."""
        ratios: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(self._rounds):
            for name, (server, sessions) in cases.items():
                self._say(f"round {number + 1} of {self._rounds}: {name}")
                alone = _cpu_per_read(one, 1, self._seconds)
                ratios[name].append(_cpu_per_read(server, sessions, self._seconds) / alone)
        for name, found in ratios.items():
            self._add(name, found, base)

    def _memory(self) -> None:
        idle, sessions = [], []
        commands: dict[str, list[float]] = {op: [] for op in COMMAND}
        for number in range(min(self._rounds, 3)):
            self._say(f"memory, round {number + 1}")
            folder = self._folder / f"memory{number}"
            with LunmeshServer(folder / "idle", ["disk0=1G"]) as server:
                idle.append(memory_bytes((server.pid,)) / (1 << 20))
                few, many = _peak(server, 1, 1), _peak(server, SESSIONS, 1)
                more = many.memory_bytes - few.memory_bytes
                sessions.append(more / (SESSIONS - 1) / 1024)
            for op, found in commands.items():  # a server each: memory is not given back
                with (
                    LunmeshWorker(folder / op / "worker", arguments=["--fault", SLOW]) as worker,
                    LunmeshServer(
                        folder / op, ["disk0=1G"], arguments=["--worker", worker.address]
                    ) as server,
                ):
                    found.append(_outstanding_kib(server, writes=op == "write"))
        self._add(IDLE, idle)
        self._add(SESSION, sessions)
        for op, found in commands.items():
            self._add(COMMAND[op], found)

    def _add(self, what: str, values: list[float], theirs: str = "") -> None:
        self.found.append(
            judge(what, (OURS, theirs), "growth", (median(values), *values), GOALS[what])
        )


def _outstanding_kib(server: LunmeshServer, *, writes: bool) -> float:
    """Of one command (rule 3)."""
    few = _peak(server, HOLDING_SESSIONS, 1, HOLDING_SECONDS, writes)
    many = _peak(server, HOLDING_SESSIONS, HOLDING_DEPTH, HOLDING_SECONDS, writes)
    held = many.outstanding - few.outstanding
    return (many.memory_bytes - few.memory_bytes) / held / 1024
