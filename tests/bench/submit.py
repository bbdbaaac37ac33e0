"""`python -m tests.bench.submit`: what a command pays to be tracked on a node that is alone.

``LogicalUnit.submit`` looks whether anything stands in a command's way and keeps it in the task set
until it ends.  Measured is that, with the real bus and real requests, against the same requests
started without it.  The device's commands do nothing, so nothing else is in the difference.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

from target.block.pool import POOL_BYTES_MIN, BufferPool
from target.scsi.bus import SCSIBus
from target.scsi.command import Command, CommandTable, Kind, usage
from target.scsi.device import Device
from target.scsi.logical_unit import Attribute
from target.scsi.lun import encode_lun
from target.scsi.request import COMPLETED, SCSIRequest
from tests.support.recording_hba import RecordingHba

GOAL_MICROSECONDS = 1.0
REQUESTS = 2000  # in a timed run
RUNS = 101  # the median counts
AT_ONCE = bytes.fromhex("000000000000")
LATER = bytes.fromhex("28000000000000000000")


class _Idle(Device):
    """TEST UNIT READY ends at once, READ (10) when it is told to."""

    def __init__(self) -> None:
        self.table = CommandTable(
            [
                Command(
                    "TEST UNIT READY",
                    Kind.INFORM,
                    usage("00 00 00 00 00 07"),
                    parse=_nothing,
                    start=SCSIRequest.complete,
                ),
                Command(
                    "READ (10)",
                    Kind.READ,
                    usage("28 fa ff ff ff ff 3f ff ff 07"),
                    parse=_nothing,
                    start=_nothing,
                ),
            ]
        )


def _nothing(req: SCSIRequest) -> None:
    """Of a command that moves no data and goes nowhere."""


class _Sink(RecordingHba):
    """An HBA for which an answer costs nothing."""

    def complete(self, req: SCSIRequest) -> None:
        """Nobody waits for it."""


class Submit:
    """One unit with one nexus, and no gate."""

    def __init__(self) -> None:
        bus = SCSIBus()
        self._unit = bus.add(0, _Idle())
        self._bus = bus
        self._hba = _Sink(bus, BufferPool(POOL_BYTES_MIN))
        self._hba.settle()
        self._lun = encode_lun(0)
        self._tags = count(1)

    def _requests(self, cdb: bytes) -> list[SCSIRequest]:
        return [
            self._bus.request(
                self._hba, self._hba.nexus, self._lun, next(self._tags), cdb, Attribute.SIMPLE, 0.0
            )
            for _ in range(REQUESTS)
        ]

    def added(self, cdb: bytes) -> float:
        """Seconds that a command pays to be tracked, from its start to its end."""
        submit = self._unit.submit

        def tracked(requests: Sequence[SCSIRequest]) -> None:
            for req in requests:
                submit(req)
                if req.state < COMPLETED:
                    req.complete()

        def bare(requests: Sequence[SCSIRequest]) -> None:
            for req in requests:
                req.start()
                if req.state < COMPLETED:
                    req.complete()

        differences = []
        for _ in range(RUNS):
            first, second = self._requests(cdb), self._requests(cdb)
            differences.append(_seconds(tracked, first) - _seconds(bare, second))
        assert not self._unit.active, "all have ended"
        return median(differences) / REQUESTS


def _seconds(work: Callable[[Sequence[SCSIRequest]], None], requests: list[SCSIRequest]) -> float:
    began = time.process_time()
    work(requests)
    return time.process_time() - began


def main() -> int:
    """Print it; the exit status says whether the goal is met."""
    it, met = Submit(), True
    for what, cdb in (("that ends at once", AT_ONCE), ("that is in flight meanwhile", LATER)):
        microseconds = it.added(cdb) * 1e6
        passed = microseconds < GOAL_MICROSECONDS
        met = met and passed
        print(
            f"a command {what} pays {microseconds:.2f} µs for being tracked;"
            f" goal below {GOAL_MICROSECONDS:g} µs: {'pass' if passed else 'FAIL'}"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
