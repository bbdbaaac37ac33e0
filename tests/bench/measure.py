"""Runs the rows: every round gives each server one timed run of each row, in turns.

1. Each server has its own disks, of the same size, in the same folder, all their blocks written
   beforehand (tests/bench/servers.py).
2. Before each timed run the image is flushed and read through: the page cache of a file left alone
   for half a minute can be gone, and dirty pages of the run before would be written in this one.
3. The servers run one after the other, never at the same time, and who begins changes from round to
   round: whatever drifts on the machine meets both.
4. A row that wants nothing cached is not measured at all if pages of a file stay in memory
   (tests/bench/cached.py).
5. CPU time is the server's from just before the client starts until it has ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from tests.bench.cached import evict, warm
from tests.bench.clients import ClientFailed, Run, client_of
from tests.bench.procstat import cpu_seconds, memory_bytes
from tests.bench.rows import Row
from tests.bench.servers import TGTD, Candidate, Disks, Endpoint
from tests.bench.spy import Spent, Spy, spied


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
    unmeasured: dict[str, str] = field(default_factory=dict)  # by row name: why


def middle(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(sample) for sample in samples)


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
    unmeasured: dict[str, str] = {}
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
                    if row.name in unmeasured:
                        break
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
                    if stayed := _prepare(endpoint, row):
                        unmeasured[row.name] = f"{stayed} bytes of {name}'s disk stay in memory"
                        break
                    samples[row.name][name].append(_timed(run, endpoint))
        memory = {
            name: Memory(
                idle[name],
                memory_bytes(endpoint.pids),
                memory_bytes(endpoint.pids, "VmHWM"),
            )
            for name, endpoint in endpoints.items()
        }
    for row_name in unmeasured:
        samples[row_name] = {server.name: [] for server in servers}
    return Results(samples, memory, unmeasured)


def _timed(run: Callable[[], Run], endpoint: Endpoint) -> Sample:
    before = cpu_seconds(endpoint.pids)
    done = run()
    spent = cpu_seconds(endpoint.pids) - before
    if not done.ios:
        raise ClientFailed(f"no I/O was answered in {done.seconds:.1f} s")
    return Sample(done.ios, done.seconds, spent, done.p99_us)


def spy_on(
    server: Candidate, rows: Sequence[Row], *, seconds: float, size: int, folder: Path
) -> dict[str, list[Spent]]:
    """For each row, where the CPU time of an I/O went in one run."""
    rows = [row for row in rows if not row.half_of]  # there is no peer whose rate could be halved
    blocks = tuple(sorted({row.workload.block_bytes for row in rows}))
    own = Path(tempfile.mkdtemp(dir=folder))
    found: dict[str, list[Spent]] = {}
    with spied(own), server.serve(Disks(own, size, blocks)) as endpoint:
        for row in rows:
            block = row.workload.block_bytes
            run = client_of(row.client, endpoint.urls[block])(
                endpoint.urls[block], size, row.workload, seconds
            )
            _prepare(endpoint, row)
            with Spy(own, endpoint.pids) as spy:
                done = run()
            found[row.name] = spy.spent(done.ios)
    return found


def _prepare(endpoint: Endpoint, row: Row) -> int:
    """Warms the files or evicts them; returns the bytes that stay in memory and should not."""
    block = row.workload.block_bytes
    stayed = 0
    for file in endpoint.files[block]:
        if row.cached:
            warm(file, block)
        else:
            stayed += evict(file)
    return stayed
