"""Every section on every server, one run after the other.

1. Each server has a disk for small blocks and one for large ones, written beforehand in such pieces
   and read through before each run (tests/bench/servers.py, measure.py say why). What is trimmed is
   a third one: no other run meets its holes.
2. The servers run one after the other, never at the same time, and who begins changes from round to
   round. All sections have a round, then all have the next; what is shown of one is the run whose
   rate is the median. Through the kernel there is one round.
3. CPU time is the server's, from just before fio starts until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.cached import warm
from tests.bench.procstat import cpu_seconds
from tests.bench.servers import Candidate, Disks, Endpoint
from tests.e2e.vm import VirtualMachine
from tests.load.fio import LoadFailed, Measured, parse
from tests.load.jobs import JOBS, Section, sections
from tests.load.ways import KERNEL, NBD, Way, kernel_way, nbd_way

SMALL_BYTES, TRIMMED_BYTES, LARGE_BYTES = 4 << 10, 64 << 10, 256 << 10
# Sections that read or write as much as this at once have the disk of large blocks.
LARGE_FROM_BYTES = 64 << 10
# What is looked at through the kernel as well. Its CPU is emulated: this shows that all is well
# there, and little of the target's speed.
KERNEL_SECTIONS = (
    ("random-read", "4k-depth-1"),
    ("random-read", "4k-depth-32"),
    ("random-write", "4k-depth-32"),
    ("sequential-read", "256k-depth-8"),
    ("sequential-write", "256k-depth-8"),
    ("mixed", "4k-depth-16"),
    ("latency", "rate-1000"),
    ("verify", "random"),
    ("trim", "trim-64k"),
)


@dataclass(frozen=True)
class Run:
    measured: Measured
    cpu_us: float  # of the server, for each I/O


@dataclass
class Point:
    """What the runs of a section came to on one server."""

    way: str
    section: Section
    server: str
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def shown(self) -> Run | None:
        """The run of the median rate, of as many as came to something."""
        by_rate = sorted(self.runs, key=lambda run: run.measured.iops)
        return by_rate[len(by_rate) // 2] if by_rate else None


def chosen_sections(way: str, jobs: Sequence[str]) -> list[Section]:
    """Of these jobs, or all; through the kernel a few of them."""
    found = [section for job in JOBS if not jobs or job in jobs for section in sections(job)]
    if way == KERNEL:
        return [section for section in found if (section.job, section.name) in KERNEL_SECTIONS]
    return found


def measure(
    servers: Sequence[Candidate],
    wanted: Mapping[str, Sequence[Section]],
    *,
    rounds: int,
    seconds: float,
    size: int,
    folder: Path,
    say: Callable[[str], None],
) -> list[Point]:
    """All points of all ways in `wanted`. ServerError and VmError when one does not start."""
    points = [
        Point(way, section, server.name)
        for way, found in wanted.items()
        for section in found
        for server in servers
    ]
    with ExitStack() as stack:
        endpoints: dict[str, Endpoint] = {}
        for server in servers:
            say(f"making the disks of {server.name}")
            own = folder / f"server{len(endpoints)}"
            own.mkdir()
            disks = Disks(own, size, (SMALL_BYTES, TRIMMED_BYTES, LARGE_BYTES))
            endpoints[server.name] = stack.enter_context(server.serve(disks))
        for way in wanted:
            with ExitStack() as inner:
                ways: dict[str, Way] = {}
                if way == NBD:
                    for name, endpoint in endpoints.items():
                        jobs = folder / f"jobs{len(ways)}"
                        ways[name] = inner.enter_context(nbd_way(endpoint, jobs, seconds))
                else:
                    say("booting the virtual machine")
                    vm = inner.enter_context(VirtualMachine(folder))
                    for name, endpoint in endpoints.items():
                        ways[name] = inner.enter_context(kernel_way(endpoint, vm))
                mine = [point for point in points if point.way == way]
                for number in range(rounds if way == NBD else 1):
                    for point in mine if number % 2 == 0 else reversed(mine):
                        say(f"{way}, round {number + 1}: {point.section.title}: {point.server}")
                        _run(ways[point.server], point, endpoints[point.server], seconds)
    return points


def _run(way: Way, point: Point, endpoint: Endpoint, seconds: float) -> None:
    block = _disk_of(point.section)
    for file in endpoint.files[block]:
        warm(file, block)
    before = cpu_seconds(endpoint.pids)
    try:
        done = parse(way.run(point.section, block, seconds))
    except LoadFailed as exc:
        point.failures.append(str(exc))
    else:
        spent = cpu_seconds(endpoint.pids) - before
        point.runs.append(Run(done, spent / done.ios * 1e6))


def _disk_of(section: Section) -> int:
    """Which disk of an Endpoint, by the size of its blocks."""
    if section.job == "trim":
        return TRIMMED_BYTES
    return LARGE_BYTES if section.block_bytes >= LARGE_FROM_BYTES else SMALL_BYTES
