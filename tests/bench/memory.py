"""`python -m tests.bench.memory`: resident memory under more commands than the buffers can hold.

Sixteen sessions each keep 64 commands of 4 MiB outstanding: 4 GiB are asked for, and the pool has
64 MiB. Every command must be answered with the right data, and the server's peak (the kernel's own
VmHWM) must stay under the pool plus RESIDENT_BASE_BYTES.

Each session owns a few slots of the disk; every write to a slot writes the same data, so that a
read is right whatever ran before it. One slot's data are those of the next, shifted: the client
holds one buffer, whatever the number of slots.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from target.config.sizes import parse_size
from tests.bench.procstat import memory_bytes
from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer

# What may be resident beside the pool: the interpreter with its libraries, and for each of the
# sessions its parser, its queues and its outstanding commands.
RESIDENT_BASE_BYTES = 96 << 20
SLOTS_PER_SESSION = 4
BLOCK_BYTES = 512
# Behind it, a target that waits for buffers without end.
PDU_TIMEOUT_S = 120
_SHIFT_BYTES = 4096


@dataclass(frozen=True)
class Load:
    sessions: int = 16
    depth: int = 64
    commands: int = 64  # of each session
    command_bytes: int = 4 << 20
    buffer_bytes: int = 64 << 20

    @property
    def disk_bytes(self) -> int:
        return self.sessions * SLOTS_PER_SESSION * self.command_bytes

    @property
    def limit_bytes(self) -> int:
        return self.buffer_bytes + RESIDENT_BASE_BYTES


@dataclass
class Outcome:
    """What all sessions together saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong_reads: int = 0
    deepest: int = 0  # most commands that one session had outstanding
    idle_bytes: int = 0
    after_bytes: int = 0
    peak_bytes: int = 0

    @property
    def answered(self) -> int:
        return self.statuses.total()


class Session:
    """One initiator: writes its slots, then reads and writes them at the full depth."""

    def __init__(self, server: LunmeshServer, load: Load, number: int, pattern: memoryview) -> None:
        self._load = load
        self._random = random.Random(number)
        self._first_slot = number * SLOTS_PER_SESSION
        self._pattern = pattern
        self._iscsi = Initiator(server.host, server.port, target=server.iqn, timeout=PDU_TIMEOUT_S)
        self._wrong: set[Task] = set()
        self.statuses: Counter[int] = Counter()
        self.wrong_reads = 0
        self.deepest = 0

    def run(self, all_filled: threading.Barrier) -> None:
        with self._iscsi:
            self._iscsi.login({"MaxRecvDataSegmentLength": "262144"})
            # Unit attentions of a new session; any other error shows in the writes.
            while self._iscsi.command(cdb.TEST_UNIT_READY).sense_key == 6:
                pass
            for slot in self._slots():
                task = self._write(slot)
                self._iscsi.wait(task)
                if task.status:
                    raise AssertionError(f"could not fill a slot: sense {task.sense_triple}")
            all_filled.wait()
            self._load_at_depth()
            self._iscsi.logout()

    def _load_at_depth(self) -> None:
        outstanding: deque[Task] = deque()
        for number in range(self._load.commands):
            slot = self._random.choice(self._slots())
            outstanding.append(self._write(slot) if number % 2 else self._read(slot))
            self.deepest = max(self.deepest, len(self._iscsi.tasks))
            if len(outstanding) == self._load.depth:
                self._collect(outstanding.popleft())
        for task in outstanding:
            self._collect(task)

    def _collect(self, task: Task) -> None:
        self._iscsi.wait(task)
        self.statuses[task.status] += 1
        reading = task.cdb[0] == cdb.read16(0, 0)[0]
        short = reading and task.status == 0 and task.received != self._load.command_bytes
        self.wrong_reads += task in self._wrong or short

    def _slots(self) -> range:
        return range(self._first_slot, self._first_slot + SLOTS_PER_SESSION)

    def _data(self, slot: int) -> memoryview:
        start = slot * _SHIFT_BYTES
        return self._pattern[start : start + self._load.command_bytes]

    def _blocks(self) -> int:
        return self._load.command_bytes // BLOCK_BYTES

    def _write(self, slot: int) -> Task:
        blocks = self._blocks()
        return self._iscsi.start(cdb.write16(slot * blocks, blocks), data_out=self._data(slot))

    def _read(self, slot: int) -> Task:
        blocks, expected = self._blocks(), self._data(slot)

        def check(offset: int, data: bytes | memoryview) -> None:
            if expected[offset : offset + len(data)].tobytes() != data:
                self._wrong.add(task)

        task = self._iscsi.start(
            cdb.read16(slot * blocks, blocks), read_length=self._load.command_bytes, sink=check
        )
        return task


def run(load: Load, folder: Path) -> Outcome:
    """The load on a target of its own."""
    arguments = ("--buffer-memory", str(load.buffer_bytes))
    with LunmeshServer(folder, [f"disk0={load.disk_bytes}"], arguments=arguments) as server:
        return play(load, server)


def play(load: Load, server: LunmeshServer) -> Outcome:
    """The load on LUN 0 of a target."""
    slots = load.sessions * SLOTS_PER_SESSION
    pattern = memoryview(os.urandom(load.command_bytes + slots * _SHIFT_BYTES))
    outcome = Outcome(idle_bytes=memory_bytes([server.pid]))
    sessions = [Session(server, load, number, pattern) for number in range(load.sessions)]
    all_filled = threading.Barrier(load.sessions)

    def play_one(session: Session) -> None:
        try:
            session.run(all_filled)
        except BaseException:
            all_filled.abort()  # the others would wait for this one
            raise

    with ThreadPoolExecutor(load.sessions) as threads:
        for done in [threads.submit(play_one, session) for session in sessions]:
            done.result()
    outcome.after_bytes = memory_bytes([server.pid])
    outcome.peak_bytes = memory_bytes([server.pid], "VmHWM")
    for session in sessions:
        outcome.statuses += session.statuses
        outcome.wrong_reads += session.wrong_reads
        outcome.deepest = max(outcome.deepest, session.deepest)
    return outcome


def _arguments() -> Load:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    standard = Load()
    parser.add_argument("--sessions", type=int, default=standard.sessions)
    parser.add_argument("--depth", type=int, default=standard.depth)
    parser.add_argument("--commands", type=int, default=standard.commands, help="of each session")
    parser.add_argument("--command-bytes", type=parse_size, default=standard.command_bytes)
    parser.add_argument("--buffer-memory", type=parse_size, default=standard.buffer_bytes)
    chosen = parser.parse_args()
    return Load(
        chosen.sessions, chosen.depth, chosen.commands, chosen.command_bytes, chosen.buffer_memory
    )


def main() -> int:
    load, console = _arguments(), Console(highlight=False)
    base = PROJECT_ROOT / "build" / "bench"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="memory-", dir=base) as folder:
        outcome = run(load, Path(folder))
    wanted = load.sessions * load.commands
    in_time = outcome.peak_bytes <= load.limit_bytes
    console.print(
        f"{load.sessions} sessions × {load.commands} commands of {_mib(load.command_bytes)}, "
        f"depth {load.depth} (reached {outcome.deepest}), pool {_mib(load.buffer_bytes)}"
    )
    statuses = ", ".join(f"0x{s:02x}: {count}" for s, count in sorted(outcome.statuses.items()))
    console.print(f"answered {outcome.answered} of {wanted} (status {statuses})")
    console.print(f"reads with wrong data: {outcome.wrong_reads}")
    console.print(
        f"resident: idle {_mib(outcome.idle_bytes)}, after {_mib(outcome.after_bytes)}, "
        f"peak {_mib(outcome.peak_bytes)}; limit pool + {_mib(RESIDENT_BASE_BYTES)} = "
        f"{_mib(load.limit_bytes)}: {'pass' if in_time else 'FAIL'}"
    )
    return 0 if in_time and outcome.answered == wanted and not outcome.wrong_reads else 1


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
