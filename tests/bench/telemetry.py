"""`python -m tests.bench.telemetry`: what a command pays to be counted and remembered.

Measured is all that telemetry does for a command, with real requests: the line in
``Connection.complete`` that notes it, and ``Channel.count_ended`` (histogram, bytes, flight
recorder), by the number of answers that leave in one wake-up.  And what a scrape takes for each
logical unit that has had commands of two classes, and for how long nothing else happens meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from target.iscsi.channel import Channel
from target.scsi.bus import SCSIBus
from target.scsi.device import AbsentDevice
from target.scsi.request import SCSIRequest, print_request
from target.scsi.stats import BOUNDS_SECONDS, OpClass
from target.telemetry.exposition import exposition, make_registry
from target.telemetry.scsi import scsi_families
from tests.support import cdb
from tests.support.wire import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from target.iscsi.connection import Connection

GOAL_NANOSECONDS = 300
BATCHES = (1, 4, 32, 128)
RUNS = 301  # the median counts
UNITS = 1000
SCRAPES = 5
REPEATS = 50  # wake-ups in a timed run


def requests_of(channel: Channel, count: int) -> list[SCSIRequest]:
    """READs that have just ended, all of one wake-up."""
    session = channel.session
    assert session is not None
    assert session.nexus is not None
    attachment = session.nexus.each_attachment()[0]
    made = []
    hba = cast("Connection", channel.endpoint)
    for tag in range(count):
        req = SCSIRequest()
        req.parse(hba, attachment, bytes(8), tag, cdb.read10(0, 8), 0, 1.0)
        req.expect(4096)
        req.status = 0
        made.append(req)
    return made


def nanoseconds(channel: Channel, batch: int) -> float:
    """Of one command."""
    requests = requests_of(channel, batch)
    clock = time.monotonic
    times: list[int] = []
    for _ in range(RUNS):
        began = time.perf_counter_ns()
        for _ in range(REPEATS):
            for req in requests:
                channel.ended.append(req)
            if channel.ended:
                channel.count_ended(clock())
        times.append(time.perf_counter_ns() - began)
    return median(times) / REPEATS / batch


def elsewhere() -> tuple[float, float, float]:
    """What decisions/0020 did without, ns: an observation, a count, the text of a request."""
    registry = CollectorRegistry()
    histogram = Histogram("a", "a", ["lun"], buckets=BOUNDS_SECONDS, registry=registry).labels("0")
    counter = Counter("b", "b", ["lun"], registry=registry).labels("0")
    with wire() as w:
        (req,) = requests_of(w.login().socket.channel, 1)
        return (
            timed(lambda: histogram.observe(0.0003)),
            timed(lambda: counter.inc(4096)),
            timed(lambda: print_request(req)),
        )


def timed(call: Callable[[], object]) -> float:
    """Nanoseconds of one call, the lambda around it as well."""
    times: list[int] = []
    for _ in range(RUNS):
        began = time.perf_counter_ns()
        for _ in range(REPEATS):
            call()
        times.append(time.perf_counter_ns() - began)
    return median(times) / REPEATS


async def scrape_costs() -> tuple[float, float]:
    """Of /metrics: µs for one unit of ``UNITS``, and the longest ms at a stretch."""
    bus = SCSIBus()
    for number in range(UNITS):
        unit = bus.add(number, AbsentDevice())
        unit.stats.rows[OpClass.READ][5] = unit.stats.rows[OpClass.WRITE][6] = 1000
    registry = make_registry(_OfBus(bus))
    times: list[float] = []
    longest: list[float] = []
    for _ in range(SCRAPES):
        stretches = [0.0]
        began = time.perf_counter()
        async for _piece in exposition(registry):
            stretches.append(time.perf_counter() - began)
            began = time.perf_counter()
        times.append(sum(stretches))
        longest.append(max(stretches))
    return median(times) / UNITS * 1e6, median(longest) * 1e3


class _OfBus(Collector):
    def __init__(self, bus: SCSIBus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        yield from scsi_families(self._bus, 1.0)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; 1 if a batch of 32 costs more than the goal."""
    assert not arguments, "no arguments"
    logging.disable()  # of the session's end
    with wire() as w:
        channel = w.login().socket.channel
        costs = {batch: nanoseconds(channel, batch) for batch in BATCHES}
    for batch, cost in costs.items():
        print(f"{batch:4d} answers in a wake-up: {cost:4.0f} ns for each command")
    observed, counted, printed = elsewhere()
    print(f"prometheus_client: {observed:.0f} ns to observe a time, {counted:.0f} ns to count")
    print(f"the line of a request: {printed:.0f} ns to print")
    of_one, stretch = asyncio.run(scrape_costs())
    print(f"scrape: {of_one:4.0f} µs for each of {UNITS} LUNs, {stretch:.1f} ms at a stretch")
    return int(costs[32] > GOAL_NANOSECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
