"""One table each from a worker's status to the store's, and from there to sense data."""

from __future__ import annotations

import pytest
from lunmesh.worker.v2 import worker_pb2 as pb

from target.scsi import sense as s
from target.scsi.store_sense import sense_of
from workers.store import IoKind, StoreError, StoreStatus
from workers.wire import KIND_FROM_WIRE, STATUS_FROM_WIRE, STATUS_TO_WIRE

SENSE = {
    StoreStatus.MISCOMPARE: (s.SenseKey.MISCOMPARE, 0x1D, 0x00),
    StoreStatus.OUT_OF_RANGE: (s.SenseKey.ILLEGAL_REQUEST, 0x21, 0x00),
    StoreStatus.NO_SPACE: (s.SenseKey.DATA_PROTECT, 0x27, 0x07),
    StoreStatus.READ_ONLY: (s.SenseKey.DATA_PROTECT, 0x27, 0x00),
    StoreStatus.READ_FAILED: (s.SenseKey.MEDIUM_ERROR, 0x11, 0x00),
    StoreStatus.WRITE_FAILED: (s.SenseKey.MEDIUM_ERROR, 0x0C, 0x00),
    StoreStatus.SYNC_LOST: (s.SenseKey.MEDIUM_ERROR, 0x0C, 0x02),
    StoreStatus.UNAVAILABLE: (s.SenseKey.NOT_READY, 0x04, 0x00),
    StoreStatus.STALE_EPOCH: (s.SenseKey.NOT_READY, 0x04, 0x00),
    StoreStatus.DEADLINE: (s.SenseKey.NOT_READY, 0x04, 0x00),
}


def test_proto_and_store_have_the_same_statuses() -> None:
    assert len(pb.Status.values()) == len(StoreStatus) + 1  # and UNSPECIFIED, which is none
    for status in StoreStatus:
        number = STATUS_TO_WIRE[status]
        assert pb.Status.Name(number) == f"STATUS_{status.name}"
        assert STATUS_FROM_WIRE[number] is status
    assert len(pb.Kind.values()) == len(IoKind) + 1
    assert set(KIND_FROM_WIRE.values()) == set(IoKind)


@pytest.mark.parametrize(
    "status", [s for s in StoreStatus if s is not StoreStatus.OK], ids=lambda s: str(s.name)
)
def test_every_status_has_its_sense(status: StoreStatus) -> None:
    sense = sense_of(StoreError(status, miscompare_offset=12))
    assert (sense.key, sense.asc, sense.ascq) == SENSE[status]
    assert sense.information == (12 if status is StoreStatus.MISCOMPARE else None)
