"""What a node tells at /metrics and /readyz: read when it is asked, counted by the owners."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from target.node import NodeParts
from target.telemetry.iscsi import iscsi_families, pool_families
from target.telemetry.scsi import scsi_families
from target.telemetry.stores import (
    cluster_families,
    executor_families,
    folder_families,
    volume_families,
    worker_families,
)


class NodeCollector(Collector):
    """``clock`` is the one that commands are timed with."""

    def __init__(self, parts: NodeParts, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        yield from scsi_families(parts.target.bus, self._clock())
        yield from iscsi_families(parts.target, sum(len(p.channels) for p in parts.portals))
        yield from pool_families(parts.pool)
        yield from executor_families(parts.executor)
        yield from folder_families(parts.config.data_dir)
        yield from volume_families(parts.volumes)
        yield from worker_families(parts.volumes)
        yield from cluster_families(parts.clustering)


def unready(parts: NodeParts) -> str:
    """Why a node should be sent no initiators, in one line; empty: it is ready."""
    if parts.target.shutting_down:
        return "shutting down"
    clustering = parts.clustering
    if clustering is not None and clustering.node.over:
        return "shut out by other nodes"
    if clustering is not None and not clustering.node.leased:
        return "no lease: Redis does not answer"
    remote = parts.volumes.remote
    for link in [] if remote is None else remote.links:
        if not link.serving and not link.out:
            return f"worker {link.address}: {link.reason or 'does not serve'}"
    return ""
