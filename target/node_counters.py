"""The counters of a node, summed up over its logical units; its pool, and its ways to workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from target.block.pool import SEGMENT_BYTES, BufferPool
from target.iscsi.target import IscsiTarget
from target.scsi.stats import BUCKETS, BYTES, NANOSECONDS, OpClass, class_name

if TYPE_CHECKING:
    from target.block.worker_link import WorkerLink  # gRPC: not without need

UNITS_AT_A_STRETCH: Final = 100  # about 1 ms
WORKERS_MAX: Final = 100  # that are told of


class ClassStats(msgspec.Struct, frozen=True, kw_only=True):
    """Commands of one class: those of one logical unit, or of all."""

    buckets: list[int]  # commands by time, up to each of ``bounds_seconds``, and one more
    bytes: int
    seconds: float  # summed up


class PoolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The pool of buffers of a node."""

    total_bytes: int
    used_bytes: int
    reserved_bytes: int  # set aside for what initiators may send unasked, in use or not
    reserve_limit_bytes: int  # as much of it at most
    shares: int  # sessions, and what the node itself does
    share_limit_bytes: int  # what one of them may have beside what is set aside; 0: there is none
    waiting: int  # commands that wait for buffers


class WorkerWay(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has to do with a worker."""

    address: str
    served: bool
    reason: str  # why not
    waiting: int  # I/Os that commands wait for, sent or not
    unanswered: int  # those that are with the worker
    credit_bytes: int  # of payload that the worker takes from this node now
    answer_credit_bytes: int  # of payload that the worker may send this node, at most


class NodeCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What only grows while a node lives, and what is at the time."""

    node: str
    epoch: int  # of its life
    clock_seconds: float  # when; of a clock that only tells differences
    every_seconds: float  # how long it may be until it tells the others anew, if there is news
    cpu_seconds: float  # of the process
    classes: dict[str, ClassStats]  # by class of commands, of all logical units
    failures: int  # commands that ended in another status than GOOD
    aborted: int
    luns: int
    tasks: int  # that have not ended
    sessions: int
    connections: int
    pool: PoolInfo
    workers: list[WorkerWay]
    workers_total: int  # with those that are one too many to be told of


class CounterList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/counters"""

    node: str  # the one that was asked
    nodes: list[NodeCounters]  # by name
    missing: list[str]  # nodes whose counters are not known here
    bounds_seconds: list[float]


async def node_counters(
    target: IscsiTarget,
    links: Sequence[WorkerLink],
    *,
    node: str,
    epoch: int,
    connections: int,
    clock: Callable[[], float],
    every_seconds: float,
) -> NodeCounters:
    """Commands are served in between, where there are many logical units."""
    now = clock()
    rows = [[0] * (NANOSECONDS + 1) for _ in OpClass]
    failures = aborted = tasks = luns = 0
    for count, unit in enumerate(list(target.bus.units.values()), 1):
        for total, row in zip(rows, unit.stats.rows, strict=True):
            if row[NANOSECONDS]:
                total[:] = map(int.__add__, total, row)
        failures += unit.stats.failures.total()
        aborted += unit.stats.aborted
        tasks += len(unit.tasks_of())
        luns = count
        if count % UNITS_AT_A_STRETCH == 0:
            await asyncio.sleep(0)
    return NodeCounters(
        node=node,
        epoch=epoch,
        clock_seconds=now,
        every_seconds=every_seconds,
        cpu_seconds=time.process_time(),
        classes={class_name(index): class_stats(row) for index, row in enumerate(rows) if any(row)},
        failures=failures,
        aborted=aborted,
        luns=luns,
        tasks=tasks,
        sessions=sum(session.nexus is not None for session in target.sessions.values()),
        connections=connections,
        pool=_pool(target.pool),
        workers=[_way(link) for link in links[:WORKERS_MAX]],
        workers_total=len(links),
    )


def class_stats(row: list[int]) -> ClassStats:
    """A row of ``target/scsi/stats.py``."""
    return ClassStats(buckets=row[:BUCKETS], bytes=row[BYTES], seconds=row[NANOSECONDS] / 1e9)


def _pool(pool: BufferPool) -> PoolInfo:
    return PoolInfo(
        total_bytes=pool.segments_total * SEGMENT_BYTES,
        used_bytes=pool.used * SEGMENT_BYTES,
        reserved_bytes=pool.reserved * SEGMENT_BYTES,
        reserve_limit_bytes=pool.reserve_limit * SEGMENT_BYTES,
        shares=len(pool.shares),
        share_limit_bytes=pool.shares[0].limit * SEGMENT_BYTES if pool.shares else 0,
        waiting=pool.waiting,
    )


def _way(link: WorkerLink) -> WorkerWay:
    queue = link.queue
    return WorkerWay(
        address=str(link.address),
        served=link.serving,
        reason="" if link.serving else link.reason,
        waiting=queue.waiting,
        unanswered=queue.unanswered,
        credit_bytes=queue.credit_bytes,
        answer_credit_bytes=queue.answer_credit_bytes,
    )
