"""What the log is told of I/Os that a worker could not do."""

from __future__ import annotations

from structlog.testing import capture_logs

from workers.failure_log import FAILURES_MAX, FAILURES_SECONDS, FailureLog
from workers.store import IoKind, StoreStatus


def ended(log: FailureLog, status: StoreStatus, now: float, detail: str = "") -> None:
    log.ended(
        status, detail, now, node="a", volume="disk", kind=IoKind.WRITE, offset=4096, length=512
    )


def test_a_failure_is_a_line_with_all_that_is_known() -> None:
    with capture_logs() as lines:
        ended(FailureLog(), StoreStatus.WRITE_FAILED, 100.0, "EIO")
    assert lines == [
        {
            "event": "I/O failed",
            "log_level": "warning",
            "node": "a",
            "volume": "disk",
            "op": "write",
            "offset": 4096,
            "length": 512,
            "status": "write failed",
            "detail": "EIO",
        }
    ]


def test_what_is_in_the_course_of_things_is_none() -> None:
    with capture_logs() as lines:
        for status in (StoreStatus.OK, StoreStatus.MISCOMPARE, StoreStatus.DEADLINE):
            ended(FailureLog(), status, 100.0)
    assert lines == []


def test_lines_are_bounded_and_the_rest_is_counted() -> None:
    log = FailureLog()
    with capture_logs() as lines:
        for _ in range(FAILURES_MAX + 3):
            ended(log, StoreStatus.NO_SPACE, 100.0)
        assert len(lines) == FAILURES_MAX
        ended(log, StoreStatus.NO_SPACE, 100.0 + FAILURES_SECONDS)
    assert [line.get("unsaid") for line in lines] == [None] * FAILURES_MAX + [3]
