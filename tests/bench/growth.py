"""What grows, and what does not: CPU time with sessions, volumes and size; memory; the start.

Rules:

1. CPU time of a 4 KiB read at depth 32 from the first ``READ_BYTES`` of a disk, which are written
   and cached, is compared with that of one session on one volume of 1 GiB.  The largest is as
   large as a file of ext4 can be, in TiB.
2. Memory of a session is what 64 take more than one.  That of an outstanding command is what eight
   sessions take more at depth 128 than at depth 1, through a worker that is slow.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from tests.bench import tools
from tests.bench.procstat import cpu_seconds, memory_bytes
from tests.bench.report import Verdict
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

READ_BYTES = 32 << 20
BLOCK_BYTES = 4096
DEPTH = 32
SESSIONS = 64
VOLUMES = 1000
HOLDING_SESSIONS, HOLDING_DEPTH = 8, 128
CPU_RATIO_MAX = 1.2
IDLE_MIB_MAX, SESSION_KIB_MAX, COMMAND_KIB_MAX = 80, 64, 8
START_CPU_SECONDS_MAX = 1.0
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


def _peak_bytes(server: LunmeshServer, sessions: int, depth: int) -> int:
    """Resident at most while so many sessions have so many commands outstanding."""
    most = 0
    with subprocess.Popen(_load(server, sessions, depth, 1.5), stdout=subprocess.DEVNULL) as load:
        while load.poll() is None:
            most = max(most, memory_bytes((server.pid,)))
            time.sleep(0.02)
    return most


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

    def run(self) -> list[Verdict]:
        self._cpu()
        self._memory()
        self._say("start")
        starts = [_start_cpu_seconds(self._folder / f"start{n}") for n in range(self._rounds)]
        self._add("start to the ready line, s of CPU", starts, START_CPU_SECONDS_MAX)
        return self.found

    def _cpu(self) -> None:
        others = [f"disk{n}=1M" for n in range(1, VOLUMES)]
        with (
            _serving(self._folder / "one", ["disk0=1G"]) as one,
            _serving(self._folder / "many", ["disk0=1G", *others]) as many,
            _serving(self._folder / "large", ["disk0=15T"]) as large,
        ):
            cases = (
                (f"CPU per read, {SESSIONS} sessions", one, SESSIONS),
                (f"CPU per read, {VOLUMES} volumes", many, 1),
                ("CPU per read, a volume of 15 TiB", large, 1),
            )
            ratios: dict[str, list[float]] = {name: [] for name, _, _ in cases}
            for number in range(self._rounds):
                for name, server, sessions in cases:
                    self._say(f"round {number + 1} of {self._rounds}: {name}")
                    base = _cpu_per_read(one, 1, self._seconds)
                    ratios[name].append(_cpu_per_read(server, sessions, self._seconds) / base)
        for name, found in ratios.items():
            self._add(name, found, CPU_RATIO_MAX, "one session, one volume, 1 GiB")

    def _memory(self) -> None:
        self._say("memory")
        idle, sessions, commands = [], [], []
        for number in range(min(self._rounds, 3)):
            folder = self._folder / f"memory{number}"
            with LunmeshServer(folder / "idle", ["disk0=1G"]) as server:
                idle.append(memory_bytes((server.pid,)) / (1 << 20))
                few = _peak_bytes(server, 1, 1)
                sessions.append((_peak_bytes(server, SESSIONS, 1) - few) / (SESSIONS - 1) / 1024)
            with (
                LunmeshWorker(folder / "worker", arguments=["--fault", "delay=400ms"]) as worker,
                LunmeshServer(
                    folder / "slow", ["disk0=1G"], arguments=["--worker", worker.address]
                ) as server,
            ):
                few = _peak_bytes(server, HOLDING_SESSIONS, 1)
                many = _peak_bytes(server, HOLDING_SESSIONS, HOLDING_DEPTH)
                held = HOLDING_SESSIONS * (HOLDING_DEPTH - 1)
                commands.append((many - few) / held / 1024)
        self._add("resident when idle, MiB", idle, IDLE_MIB_MAX)
        self._add("resident for a session, KiB", sessions, SESSION_KIB_MAX)
        self._add("resident for an outstanding 4 KiB read, KiB", commands, COMMAND_KIB_MAX)

    def _add(self, what: str, values: list[float], most: float, theirs: str = "") -> None:
        value = median(values)
        self.found.append(
            Verdict(
                what,
                OURS,
                theirs,
                "growth",
                value,
                min(values),
                max(values),
                f"≤ {most:g}",
                value <= most,
            )
        )
