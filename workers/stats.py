"""What a worker has been asked and has done: plain numbers, read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

from workers.failure_log import FailureLog
from workers.store import StoreStatus

# Upper bounds of the buckets, seconds; what takes longer goes into one more.
BOUNDS_SECONDS: Final = (
    *(float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)),
    10.0,
)


class WorkerStats:
    """Of one worker, all its nodes together."""

    def __init__(self) -> None:
        self.streams = 0  # that have begun
        self.messages = 0  # from nodes
        self.ios = 0  # in them
        self.received_bytes = 0  # payload of writes
        self.sent_bytes = 0  # payload of reads
        self.failures: Counter[StoreStatus] = Counter()  # I/Os that did not end well
        self.failure_log = FailureLog()  # of these, for people
        self.evictions = 0  # times that the store has shut this process out
        # I/Os that the store could not do on the spot, from their arrival to their end:
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.seconds = 0.0

    def ended(self, seconds: float) -> None:
        """One that was not done on the spot."""
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds
