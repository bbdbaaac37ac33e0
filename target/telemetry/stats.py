"""Counters as numbers, for whoever draws them: GET /v1/stats.

They only grow while a node lives; who asks twice has what happened in between (``rates.py``).
"""

from __future__ import annotations

import time

import msgspec

from target.block.pool import SEGMENT_BYTES
from target.node import NodeParts
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS, BYTES, NANOSECONDS
from target.telemetry.scsi import class_name


class ClassStats(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of one class, of one logical unit."""

    buckets: list[int]  # commands by time, up to each of ``bounds_seconds``, and one more
    bytes: int
    seconds: float  # summed up


class LunStats(msgspec.Struct, frozen=True, kw_only=True):
    """A logical unit."""

    lun: int
    volume: str
    classes: dict[str, ClassStats]  # those that there were commands of
    failures: int  # commands that ended in another status than GOOD
    aborted: int
    tasks: int  # that have not ended
    oldest_task_seconds: float  # 0: there is none


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/stats"""

    node: str
    clock_seconds: float  # when; of a clock that only tells differences
    cpu_seconds: float  # of the process
    bounds_seconds: list[float]
    luns: list[LunStats]
    sessions: int
    connections: int
    buffer_used_bytes: int
    buffer_total_bytes: int


def node_stats(parts: NodeParts, node: str, now: float) -> NodeStats:
    """``now``: of the clock that commands are timed with."""
    target, pool = parts.target, parts.pool
    return NodeStats(
        node=node,
        clock_seconds=now,
        cpu_seconds=time.process_time(),
        bounds_seconds=list(BOUNDS_SECONDS),
        luns=[_lun(parts, lun, volume.name, now) for lun, volume in parts.volumes.by_lun.items()],
        sessions=sum(session.nexus is not None for session in target.sessions.values()),
        connections=sum(len(portal.channels) for portal in parts.portals),
        buffer_used_bytes=pool.used * SEGMENT_BYTES,
        buffer_total_bytes=pool.segments_total * SEGMENT_BYTES,
    )


def _lun(parts: NodeParts, lun: int, volume: str, now: float) -> LunStats:
    unit = parts.target.bus.units[lun]
    tasks = unit.tasks_of()
    return LunStats(
        lun=lun,
        volume=volume,
        classes={
            class_name(index): ClassStats(
                buckets=row[:BUCKETS], bytes=row[BYTES], seconds=row[NANOSECONDS] / 1e9
            )
            for index, row in enumerate(unit.stats.rows)
            if any(row[:BUCKETS])
        },
        failures=unit.stats.failures.total(),
        aborted=unit.stats.aborted,
        tasks=len(tasks),
        oldest_task_seconds=now - min((req.started_at for req in tasks), default=now),
    )
