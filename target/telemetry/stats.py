"""Counters as numbers, for whoever draws them: GET /v1/stats.

They only grow while a node lives; who asks twice has what happened in between (``rates.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from target.block.pool import SEGMENT_BYTES
from target.node import NodeParts
from target.node_counters import ClassStats, class_stats
from target.scsi.logical_unit import LogicalUnit
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS, class_name

LUNS_AT_A_STRETCH: Final = 100  # about 2 ms


class LunStats(msgspec.Struct, frozen=True, kw_only=True):
    """A logical unit."""

    target: str
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


async def node_stats(parts: NodeParts, node: str, clock: Callable[[], float]) -> NodeStats:
    """``clock`` is the one that commands are timed with.

    Commands are served in between, where there are many LUNs.
    """
    target, pool = parts.target, parts.pool
    now = clock()
    luns: list[LunStats] = []
    for count, (address, volume) in enumerate(parts.volumes.by_address.items(), 1):
        unit = target.bus.units.get(address)
        if unit is not None:  # it may have gone meanwhile
            name = parts.volumes.target_name(address.target)
            luns.append(_lun(unit, name, volume.name, clock()))
        if count % LUNS_AT_A_STRETCH == 0:
            await asyncio.sleep(0)
    return NodeStats(
        node=node,
        clock_seconds=now,
        cpu_seconds=time.process_time(),
        bounds_seconds=list(BOUNDS_SECONDS),
        luns=luns,
        sessions=sum(session.nexus is not None for session in target.sessions.values()),
        connections=sum(len(portal.channels) for portal in parts.portals),
        buffer_used_bytes=pool.used * SEGMENT_BYTES,
        buffer_total_bytes=pool.segments_total * SEGMENT_BYTES,
    )


def _lun(unit: LogicalUnit, target: str, volume: str, now: float) -> LunStats:
    tasks = unit.tasks_of()
    return LunStats(
        target=target,
        lun=unit.number,
        volume=volume,
        classes={
            class_name(index): class_stats(row)
            for index, row in enumerate(unit.stats.rows)
            if any(row[:BUCKETS])
        },
        failures=unit.stats.failures.total(),
        aborted=unit.stats.aborted,
        tasks=len(tasks),
        oldest_task_seconds=now - min((req.started_at for req in tasks), default=now),
    )
