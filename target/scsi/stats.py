"""What a logical unit has done: plain numbers, counted where answers leave, told when asked.

A command's time is from the wake-up that brought it to the moment its answer was given to the
socket.  All answers of one wake-up are counted together (``count``), so the clock is read once for
them, and a time is put into its bucket once for all that have it.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest

# Upper bounds of the buckets, seconds; what takes longer goes into one more.
BOUNDS_SECONDS: Final = (
    *(float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)),
    10.0,
)
BUCKETS: Final = len(BOUNDS_SECONDS) + 1
# Behind the buckets of a row:
BYTES: Final = BUCKETS  # moved by commands that ended well
NANOSECONDS: Final = BUCKETS + 1  # of all commands, summed up

NO_SENSE_KEY: Final = -1  # of a status without sense data


class OpClass(enum.IntEnum):
    """What commands are counted as."""

    READ = 0
    WRITE = 1
    VERIFY = 2
    FLUSH = 3  # SYNCHRONIZE CACHE
    UNMAP = 4  # and WRITE SAME
    COMPARE = 5  # COMPARE AND WRITE
    RESERVE = 6  # reservations of either kind
    OTHER = 7


def class_name(index: int) -> str:
    """As it is told."""
    return OpClass(index).name.lower()


_OPCODES: Final = {
    OpClass.READ: "08 28 a8 88",
    OpClass.WRITE: "0a 2a aa 8a 2e ae 8e",
    OpClass.VERIFY: "2f af 8f",
    OpClass.FLUSH: "35 91",
    OpClass.UNMAP: "42 41 93",
    OpClass.COMPARE: "89",
    OpClass.RESERVE: "5e 5f 16 17 56 57",
}
_CLASS_OF: Final = [int(OpClass.OTHER)] * 256
for _class, _codes in _OPCODES.items():
    for _code in bytes.fromhex(_codes):
        _CLASS_OF[_code] = int(_class)


def class_of(opcode: int) -> int:
    """The :class:`OpClass` of an operation code."""
    return _CLASS_OF[opcode]


class UnitStats:
    """Of one logical unit, since it is served here."""

    __slots__ = ("aborted", "failures", "reserve_outs", "rows")

    def __init__(self) -> None:
        self.rows = [[0] * (BUCKETS + 2) for _ in OpClass]
        self.failures: Counter[tuple[int, int]] = Counter()  # by status and sense key
        self.aborted = 0  # ended without status
        self.reserve_outs: Counter[int] = Counter()  # PERSISTENT RESERVE OUT by service action


def count(requests: Sequence[SCSIRequest], now: float) -> Sequence[SCSIRequest]:
    """Count commands whose answers leave ``now``; returns those with a status other than GOOD."""
    began, command, attachment = now, None, None
    row: list[int] = []
    bucket = number = nbytes = 0
    failed: list[SCSIRequest] | None = None
    for req in requests:
        # Those of one wake-up are alike as a rule: they are counted together.
        if (
            req.started_at != began
            or req.command is not command
            or req.attachment is not attachment
        ):
            if number:
                _add(row, bucket, number, now - began, nbytes)
                number = nbytes = 0
            began, command, attachment = req.started_at, req.command, req.attachment
            row = attachment.unit.stats.rows[command.opclass]
            bucket = bisect_left(BOUNDS_SECONDS, now - began)
        req.finished_at = now
        number += 1
        if not req.status:
            nbytes += req.transfer
        elif failed is None:
            failed = [req]
        else:
            failed.append(req)
    if number:
        _add(row, bucket, number, now - began, nbytes)
    if failed is None:
        return ()
    for req in failed:
        key = NO_SENSE_KEY if req.sense is None else int(req.sense.key)
        req.attachment.unit.stats.failures[int(req.status), key] += 1
    return failed


def _add(row: list[int], bucket: int, number: int, seconds: float, nbytes: int) -> None:
    row[bucket] += number
    row[NANOSECONDS] += number * int(seconds * 1e9)
    row[BYTES] += nbytes
