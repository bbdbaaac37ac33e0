"""Runs the rows: every round gives each server one timed run of each row, in turns.

1. Each server has its own disks, of the same size, in the same folder, all their blocks written
   beforehand (tests/bench/servers.py).
2. Before each timed run the image is flushed and read through: the page cache of a file left alone
   for half a minute can be gone, and dirty pages of the run before would be written in this one.
3. The servers run one after the other, never at the same time, and who begins changes from round to
   round: whatever drifts on the machine meets both.
4. CPU time is the server's from just before the client starts until it has ended.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.bench.clients import Run, client_of
from tests.bench.procstat import cpu_seconds, memory_bytes
from tests.bench.rows import Row
from tests.bench.servers import TGTD, Candidate, Disks, Endpoint
from tests.bench.spy import spying


@dataclass(frozen=True)
class Sample:
    """One timed run."""

    ios: float
    seconds: float
    cpu_seconds: float
    p99_us: float = 0

    @property
    def rate(self) -> float:
        return self.ios / self.seconds

    @property
    def cpu_per_io(self) -> float:
        return self.cpu_seconds / self.ios


@dataclass(frozen=True)
class Memory:
    idle_bytes: int
    after_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Results:
    samples: dict[str, dict[str, list[Sample]]]  # by row name, then by server
    memory: dict[str, Memory]  # by server


def middle(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(sample) for sample in samples)


def warm(path: Path, block_bytes: int) -> None:
    """Nothing dirty, everything cached."""
    with path.open("rb", buffering=0) as image:
        os.fsync(image.fileno())
        # What must come from the disk comes in blocks, not in the large folios of a read-ahead.
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while image.read(block_bytes):
            pass


def evict(path: Path) -> None:
    """Nothing dirty, nothing cached."""
    with path.open("rb", buffering=0) as image:
        os.fsync(image.fileno())
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    servers: Sequence[Candidate],
    rows: Sequence[Row],
    *,
    rounds: int,
    seconds: float,
    size: int,
    folder: Path,
    say: Callable[[str], None],
) -> Results:
    """Every sample of every row, by server."""
    blocks = tuple(sorted({row.workload.block_bytes for row in rows}))
    samples: dict[str, dict[str, list[Sample]]] = {
        row.name: {server.name: [] for server in servers} for row in rows
    }
    with ExitStack() as stack:
        endpoints: dict[str, Endpoint] = {}
        for server in servers:
            say(f"making the disks of {server.name}")
            own = folder / f"server{len(endpoints)}"
            own.mkdir()
            endpoints[server.name] = stack.enter_context(server.serve(Disks(own, size, blocks)))
        idle = {name: memory_bytes(endpoint.pids) for name, endpoint in endpoints.items()}
        for number in range(rounds):
            order = list(endpoints) if number % 2 == 0 else list(reversed(endpoints))
            for row in rows:
                for name in order:
                    say(f"round {number + 1} of {rounds}: {row.name}: {name}")
                    block, endpoint = row.workload.block_bytes, endpoints[name]
                    load = row.workload
                    if row.half_of:
                        theirs = samples[row.half_of].get(TGTD)
                        if not theirs:
                            continue
                        load = replace(load, rate=theirs[-1].rate / 2)
                    run = client_of(row.client, endpoint.urls[block])(
                        endpoint.urls[block], size, load, seconds
                    )
                    for file in endpoint.files[block]:
                        if row.cached:
                            warm(file, block)
                        else:
                            evict(file)
                    samples[row.name][name].append(_timed(run, endpoint))
        memory = {
            name: Memory(
                idle[name],
                memory_bytes(endpoint.pids),
                memory_bytes(endpoint.pids, "VmHWM"),
            )
            for name, endpoint in endpoints.items()
        }
    return Results(samples, memory)


def _timed(run: Callable[[], Run], endpoint: Endpoint) -> Sample:
    before = cpu_seconds(endpoint.pids)
    done = run()
    spent = cpu_seconds(endpoint.pids) - before
    return Sample(done.ios, done.seconds, spent, done.p99_us)


def spy_on(
    server: Candidate, rows: Sequence[Row], *, seconds: float, size: int, folder: Path
) -> dict[str, tuple[float, list[Counter[str]]]]:
    """For each row, the CPU time of an I/O (s), and of each process the samples by component."""
    blocks = tuple(sorted({row.workload.block_bytes for row in rows}))
    own = Path(tempfile.mkdtemp(dir=folder))
    shares: dict[str, tuple[float, list[Counter[str]]]] = {}
    with server.serve(Disks(own, size, blocks)) as endpoint:
        for row in rows:
            block = row.workload.block_bytes
            run = client_of(row.client, endpoint.urls[block])(
                endpoint.urls[block], size, row.workload, seconds
            )
            for file in endpoint.files[block]:
                warm(file, block)
            cost = _timed(run, endpoint).cpu_per_io
            with spying(endpoint.pids) as found:
                run()
            shares[row.name] = cost, [found[pid] for pid in endpoint.pids]
    return shares
