"""What happened between two looks at a node's counters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from target.node_counters import ClassStats
from target.telemetry.stats import LunStats, NodeStats


class ClassRates(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of one class, or of all of them."""

    iops: float
    bytes_per_second: float
    mean_seconds: float | None = None  # None: there was no command
    p50_seconds: float | None = None  # from a histogram: as exact as its buckets
    p99_seconds: float | None = None


class LunRates(msgspec.Struct, frozen=True, kw_only=True):
    """A logical unit."""

    lun: int
    volume: str
    all: ClassRates
    classes: dict[str, ClassRates]
    failures_per_second: float
    tasks: int
    oldest_task_seconds: float


class NodeRates(msgspec.Struct, frozen=True, kw_only=True):
    """What ``lunmesh top`` shows."""

    node: str
    seconds: float  # between the two looks
    cpu_percent: float  # of one processor
    sessions: int
    connections: int
    buffer_used_bytes: int
    buffer_total_bytes: int
    luns: list[LunRates]


def rates(before: NodeStats, after: NodeStats) -> NodeRates:
    """From ``before`` to ``after``.  A node that began anew in between has counted from zero."""
    seconds = after.clock_seconds - before.clock_seconds
    anew = seconds <= 0 or after.cpu_seconds < before.cpu_seconds
    earlier = {} if anew else {it.volume: it for it in before.luns}
    seconds = seconds if seconds > 0 else max(after.clock_seconds, 1e-9)
    cpu = after.cpu_seconds - (0.0 if anew else before.cpu_seconds)
    return NodeRates(
        node=after.node,
        seconds=seconds,
        cpu_percent=100 * cpu / seconds,
        sessions=after.sessions,
        connections=after.connections,
        buffer_used_bytes=after.buffer_used_bytes,
        buffer_total_bytes=after.buffer_total_bytes,
        luns=[_lun(earlier.get(it.volume), it, after.bounds_seconds, seconds) for it in after.luns],
    )


def _lun(
    before: LunStats | None, after: LunStats, bounds: Sequence[float], seconds: float
) -> LunRates:
    if before is not None and _is_another(before, after):
        before = None
    changes = {
        name: _change(before.classes.get(name) if before else None, it)
        for name, it in after.classes.items()
    }
    return LunRates(
        lun=after.lun,
        volume=after.volume,
        all=_rates(_sum(list(changes.values()), len(bounds) + 1), bounds, seconds),
        classes={name: _rates(change, bounds, seconds) for name, change in changes.items()},
        failures_per_second=(after.failures - (before.failures if before else 0)) / seconds,
        tasks=after.tasks,
        oldest_task_seconds=after.oldest_task_seconds,
    )


def _is_another(before: LunStats, after: LunStats) -> bool:
    """Whether it is a volume that was made again under the name: it has counted from zero."""
    if after.failures < before.failures or not before.classes.keys() <= after.classes.keys():
        return True
    return any(
        now < then
        for name, it in before.classes.items()
        for now, then in zip(after.classes[name].buckets, it.buckets, strict=True)
    )


def _change(before: ClassStats | None, after: ClassStats) -> ClassStats:
    if before is None:
        return after
    return ClassStats(
        buckets=[a - b for a, b in zip(after.buckets, before.buckets, strict=True)],
        bytes=after.bytes - before.bytes,
        seconds=after.seconds - before.seconds,
    )


def _sum(changes: Sequence[ClassStats], buckets: int) -> ClassStats:
    return ClassStats(
        buckets=[sum(change.buckets[n] for change in changes) for n in range(buckets)],
        bytes=sum(change.bytes for change in changes),
        seconds=sum(change.seconds for change in changes),
    )


def _rates(change: ClassStats, bounds: Sequence[float], seconds: float) -> ClassRates:
    count = sum(change.buckets)
    if not count:
        return ClassRates(iops=0.0, bytes_per_second=0.0)
    return ClassRates(
        iops=count / seconds,
        bytes_per_second=change.bytes / seconds,
        mean_seconds=change.seconds / count,
        p50_seconds=quantile(change.buckets, bounds, 0.50),
        p99_seconds=quantile(change.buckets, bounds, 0.99),
    )


def quantile(buckets: Sequence[int], bounds: Sequence[float], part: float) -> float:
    """The time that ``part`` of the commands did not exceed, as Prometheus' histogram_quantile.

    Within a bucket they count as evenly spread; in the last one, which has no end, as its begin.
    """
    wanted = part * sum(buckets)
    for index, total in enumerate(accumulate(buckets)):
        if total >= wanted and buckets[index]:
            if index == len(bounds):
                break
            low = bounds[index - 1] if index else 0.0
            inside = 1 - (total - wanted) / buckets[index]
            return low + (bounds[index] - low) * inside
    return bounds[-1]
