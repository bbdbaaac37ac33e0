"""`python -m tests.bench.telemetry`: what a command pays to be counted and remembered.

Measured is all that telemetry does for a command, with real requests: the line in
``Connection.complete`` that notes it, and ``Channel.count_ended`` (histogram, bytes, flight
recorder), by the number of answers that leave in one wake-up.
"""

from __future__ import annotations

import logging
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, cast

from target.iscsi.channel import Channel
from target.scsi.request import SCSIRequest
from tests.support import cdb
from tests.support.wire import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target.iscsi.connection import Connection

GOAL_NANOSECONDS = 300
BATCHES = (1, 4, 32, 128)
RUNS = 301  # the median counts
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
        req = SCSIRequest(hba, attachment, bytes(8), tag, cdb.read10(0, 8), 0, 1.0)
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


def main(arguments: Sequence[str]) -> int:
    """Print the figures; 1 if a batch of 32 costs more than the goal."""
    assert not arguments, "no arguments"
    logging.disable()  # of the session's end
    with wire() as w:
        channel = w.login().socket.channel
        costs = {batch: nanoseconds(channel, batch) for batch in BATCHES}
    for batch, cost in costs.items():
        print(f"{batch:4d} answers in a wake-up: {cost:4.0f} ns for each command")
    return int(costs[32] > GOAL_NANOSECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
