"""What is made of two looks at the counters."""

from __future__ import annotations

import pytest

from target.node_counters import ClassStats
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS
from target.telemetry.rates import quantile, rates
from target.telemetry.stats import LunStats, NodeStats


def look(
    seconds: float, reads: int, *, cpu: float = 0.0, volume: str = "disk0", failures: int = 0
) -> NodeStats:
    """All reads are of 4 KiB, and took 3 ms."""
    buckets = [0] * BUCKETS
    buckets[8] = reads  # over 2 ms, up to 5 ms
    read = ClassStats(buckets=buckets, bytes=reads * 4096, seconds=reads * 0.003)
    lun = LunStats(
        target="iqn.2026-11.test:target",
        lun=0,
        volume=volume,
        classes={"read": read} if reads else {},
        failures=failures,
        aborted=0,
        tasks=2,
        oldest_task_seconds=0.5,
    )
    return NodeStats(
        node="a",
        clock_seconds=seconds,
        cpu_seconds=cpu,
        bounds_seconds=list(BOUNDS_SECONDS),
        luns=[lun],
        sessions=1,
        connections=1,
        buffer_used_bytes=0,
        buffer_total_bytes=1,
    )


def test_what_happened_in_between() -> None:
    found = rates(look(100.0, 1000, cpu=1.0), look(102.0, 1200, cpu=1.5))
    assert found.cpu_percent == 25
    (lun,) = found.luns
    for it in (lun.all, lun.classes["read"]):
        assert (it.iops, it.bytes_per_second) == (100, 100 * 4096)
        assert it.mean_seconds == pytest.approx(0.003)
        assert it.p50_seconds == pytest.approx(0.0035)  # the middle of its bucket
    assert (lun.tasks, lun.oldest_task_seconds) == (2, 0.5)


def test_nothing_happened() -> None:
    (lun,) = rates(look(100.0, 1000), look(101.0, 1000)).luns
    assert lun.all.iops == 0
    assert lun.all.p99_seconds is None


@pytest.mark.parametrize(
    ("after", "iops"),
    [
        (look(101.0, 30, cpu=0.1), 30),  # less CPU time than before: another process
        (look(101.0, 2000, cpu=9.0, volume="other"), 2000),
        (look(101.0, 400, cpu=9.0), 400),  # fewer commands: another volume of that name
        (look(101.0, 2000, cpu=9.0, failures=1), 2000),  # fewer failures
        (look(101.0, 0, cpu=9.0), 0),
    ],
)
def test_counters_that_began_anew_are_counted_from_zero(after: NodeStats, iops: int) -> None:
    (lun,) = rates(look(100.0, 1000, cpu=5.0, failures=3), after).luns
    assert lun.all.iops == iops
    assert lun.failures_per_second == after.luns[0].failures


@pytest.mark.parametrize(
    ("buckets", "part", "seconds"),
    [
        ([4, 0, 0], 0.5, 0.5),
        ([1, 1, 0], 0.5, 1.0),
        ([0, 10, 0], 0.99, 1.99),
        ([1, 0, 9], 0.99, 2.0),  # beyond the last bound nobody knows
        ([0, 0, 0], 0.5, 2.0),
    ],
)
def test_quantiles_lie_where_prometheus_puts_them(
    buckets: list[int], part: float, seconds: float
) -> None:
    assert quantile(buckets, [1.0, 2.0], part) == pytest.approx(seconds)
