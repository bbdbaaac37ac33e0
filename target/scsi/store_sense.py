"""What an initiator is told when a store fails: one table from store status to sense data."""

from __future__ import annotations

from typing import Final

from target.scsi import sense as s
from workers.store import StoreError, StoreStatus

_SENSE: Final = {
    StoreStatus.MISCOMPARE: s.MISCOMPARE,
    StoreStatus.OUT_OF_RANGE: s.LBA_OUT_OF_RANGE,
    StoreStatus.NO_SPACE: s.SPACE_ALLOCATION_FAILED,
    StoreStatus.READ_ONLY: s.WRITE_PROTECTED,
    StoreStatus.READ_FAILED: s.READ_ERROR,
    StoreStatus.WRITE_FAILED: s.WRITE_ERROR,
    StoreStatus.SYNC_LOST: s.SYNC_LOST,
    StoreStatus.UNAVAILABLE: s.NOT_READY_UNAVAILABLE,
    StoreStatus.STALE_EPOCH: s.NOT_READY_UNAVAILABLE,  # no error of the target's: not this path
    StoreStatus.DEADLINE: s.NOT_READY_UNAVAILABLE,
}


def sense_of(error: StoreError) -> s.Sense:
    """Sense data for a failed I/O; INFORMATION is the miscompare offset where there is one."""
    sense = _SENSE[error.status]
    if error.status is StoreStatus.MISCOMPARE:
        return sense.at(error.miscompare_offset)
    return sense
