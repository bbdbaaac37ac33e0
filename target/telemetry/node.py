"""What a node tells at /metrics and /readyz: read when it is asked, counted by the owners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from target.block.worker_link import WorkerLink


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
    links = _links(parts)
    if links and not any(link.serving or link.out for link in links):
        return f"no worker serves: {_reason(links[0])}"
    return ""


def degraded(parts: NodeParts) -> str:
    """What a node that is ready cannot serve, in one line; empty: it serves everything.

    It goes on with the chunks of the other workers, and all nodes miss the same ones: to send
    initiators elsewhere would help none.
    """
    away = [_reason(link) for link in _links(parts) if not link.serving and not link.out]
    return f"degraded: {'; '.join(away)}" if away else ""


def _links(parts: NodeParts) -> list[WorkerLink]:
    return [] if parts.volumes.remote is None else parts.volumes.remote.links


def _reason(link: WorkerLink) -> str:
    return f"worker {link.address}: {link.reason or 'does not serve'}"
