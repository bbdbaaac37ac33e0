"""Metrics of the iSCSI target: sessions, logins, task management, and its pool of buffers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from target.block.pool import SEGMENT_BYTES, BufferPool
from target.iscsi.constants import TmfFunction
from target.iscsi.counters import OTHER_FUNCTION
from target.iscsi.target import IscsiTarget
from target.telemetry.families import counter, gauge, of_one


def iscsi_families(target: IscsiTarget, connections: int) -> Iterator[Metric]:
    """``connections``: that there are."""
    counts = target.counters
    sessions = gauge("iscsi_sessions", "Sessions that there are", ("kind",))
    normal = sum(session.nexus is not None for session in target.sessions.values())
    sessions.add_metric(("normal",), normal)
    sessions.add_metric(("discovery",), len(target.sessions) - normal)
    yield sessions
    yield of_one(gauge("iscsi_connections", "Connections that there are"), connections)
    yield of_one(
        counter("iscsi_connections_accepted", "Connections that were accepted"), counts.connections
    )
    yield of_one(
        counter("iscsi_connections_refused", "Connections that were one too many"),
        counts.connections_refused,
    )
    yield of_one(counter("iscsi_logins", "Logins that led to a session"), counts.logins)
    refused = counter("iscsi_logins_refused", "Logins that were refused, by status", ("status",))
    for login, count in list(counts.logins_refused.items()):
        refused.add_metric((login.name.lower(),), count)
    yield refused
    rejects = counter("iscsi_rejects", "PDUs that were rejected, by reason", ("reason",))
    for reason, count in list(counts.rejects.items()):
        rejects.add_metric((reason.name.lower(),), count)
    yield rejects
    managed = counter(
        "iscsi_task_management",
        "Task management functions that were answered",
        ("function", "response"),
    )
    for (function, response), count in list(counts.task_management.items()):
        managed.add_metric((_function(function), response.name.lower()), count)
    yield managed


def _function(code: int) -> str:
    return "other" if code == OTHER_FUNCTION else TmfFunction(code).name.lower()


def pool_families(pool: BufferPool) -> Iterator[Metric]:
    """--buffer-memory"""
    memory = gauge(
        "buffer_bytes",
        "The pool of buffers: all of it, what is out, what is set aside for sessions",
        ("what",),
    )
    memory.add_metric(("total",), pool.segments_total * SEGMENT_BYTES)
    memory.add_metric(("used",), pool.used * SEGMENT_BYTES)
    memory.add_metric(("reserved",), pool.reserved * SEGMENT_BYTES)
    yield memory
    yield of_one(gauge("buffer_waiting", "Commands that wait for buffers"), pool.waiting)
