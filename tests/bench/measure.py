"""Runs the rows: every round gives each server one timed run of each row, in turns.

1. Each server has its own images, of the same size, in the same folder, all their blocks written
   beforehand, so that no run pays for allocation. There is one for each block size, written in
   blocks of that size: the kernel keeps a file in its cache in folios as large as the writes were,
   and a random 4 KiB write into a folio of 1 MiB costs it ten times one into a folio of 4 KiB. That
   is the same for all servers and would hide what is to be seen.
2. Before each timed run the image is flushed and read through: the page cache of a file left alone
   for half a minute can be gone, and dirty pages of the run before would be written in this one.
3. The servers run one after the other, never at the same time, and who begins changes from round to
   round: whatever drifts on the machine meets both.
4. CPU time is the server's from just before the client starts until it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.clients import CLIENTS, Run
from tests.bench.procstat import cpu_seconds, memory_bytes
from tests.bench.rows import Row
from tests.bench.servers import Candidate, Endpoint


@dataclass(frozen=True)
class Sample:
    """One timed run."""

    ios: float
    seconds: float
    cpu_seconds: float

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


def make_image(path: Path, size: int, block_bytes: int) -> None:
    """Random data, on disk: neither a hole nor an unwritten extent is left in it."""
    with path.open("wb", buffering=0) as image:
        for _ in range(0, size, block_bytes):
            image.write(os.urandom(block_bytes))
        os.fsync(image.fileno())


def warm(path: Path, block_bytes: int) -> None:
    """Nothing dirty, everything cached."""
    with path.open("rb", buffering=0) as image:
        os.fsync(image.fileno())
        # What must come from the disk comes in blocks, not in the large folios of a read-ahead.
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while image.read(block_bytes):
            pass


@contextmanager
def _running(
    servers: Sequence[Candidate], images: dict[str, dict[int, Path]]
) -> Iterator[dict[str, Endpoint]]:
    with ExitStack() as stack:
        yield {
            server.name: stack.enter_context(server.serve(list(images[server.name].values())))
            for server in servers
        }


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
    blocks = sorted({row.workload.block_bytes for row in rows})
    images = {
        server.name: {block: folder / f"{server.name}-{block}.raw" for block in blocks}
        for server in servers
    }
    for by_block in images.values():
        for block, image in by_block.items():
            make_image(image, size, block)
    samples: dict[str, dict[str, list[Sample]]] = {
        row.name: {server.name: [] for server in servers} for row in rows
    }
    with _running(servers, images) as endpoints:
        idle = {name: memory_bytes(endpoint.pids) for name, endpoint in endpoints.items()}
        for number in range(rounds):
            order = list(endpoints) if number % 2 == 0 else list(reversed(endpoints))
            for row in rows:
                for name in order:
                    say(f"round {number + 1} of {rounds}: {row.name}: {name}")
                    block = row.workload.block_bytes
                    url = endpoints[name].urls[blocks.index(block)]
                    run = CLIENTS[row.client](url, size, row.workload, seconds)
                    warm(images[name][block], block)
                    sample = _timed(run, endpoints[name])
                    samples[row.name][name].append(sample)
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
    return Sample(done.ios, done.seconds, cpu_seconds(endpoint.pids) - before)
