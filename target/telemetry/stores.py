"""Metrics of what is below the volumes: threads, the data directory, workers, Redis."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.core import Metric

from target.block.volume import Volume
from target.scsi.lun import LunAddress
from target.scsi.stats import BOUNDS_SECONDS
from target.telemetry.families import counter, cumulative, gauge, histogram, of_one
from target.volumes import Volumes
from workers.executor import BlockingExecutor
from workers.read_cache import ReadCache

if TYPE_CHECKING:
    from target.block.worker_link import WorkerLink
    from target.clustering import Clustering

VOLUMES_PER_PART: Final = 100


def executor_families(executor: BlockingExecutor) -> Iterator[Metric]:
    """--io-threads"""
    yield of_one(counter("io_jobs", "I/Os that had to wait for a disk, in a thread"), executor.jobs)
    uring = executor.uring
    yield of_one(
        counter("io_uring_reads", "Reads that had to wait for a disk, in io_uring"),
        uring.reads if uring is not None else 0,
    )
    yield of_one(gauge("io_jobs_queued", "Those that no thread has taken yet"), executor.queued)
    yield of_one(gauge("io_threads", "Threads for them"), executor.threads)


def folder_families(folder: Path) -> Iterator[Metric]:
    """The file system of ``folder``."""
    space = gauge(
        "store_bytes", "The file system where local volumes are kept: size, free", ("what",)
    )
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        space.add_metric(("size",), found.f_blocks * found.f_frsize)
        space.add_metric(("free",), found.f_bavail * found.f_frsize)
    yield space


def volume_families(volumes: Volumes) -> Iterator[Metric]:
    """What is served, in parts of ``VOLUMES_PER_PART``; and how far moves are."""
    served = list(volumes.by_address.items())
    for make in (_sizes, lambda part: _allocated(volumes, part)):
        for begin in range(0, max(1, len(served)), VOLUMES_PER_PART):
            yield make(served[begin : begin + VOLUMES_PER_PART])
    moving = gauge(
        "volume_migration_chunks", "Chunks of a volume that moves: all, moved", ("lun", "what")
    )
    for lun, volume in served:
        record = volumes.data.record(volume.name)
        if record is not None and record.migration is not None:
            info = volumes.migrations.info(volume.name, [])
            if info is not None:
                moving.add_metric((str(lun), "total"), info.chunks_total)
                moving.add_metric((str(lun), "moved"), info.chunks_done)
    yield moving
    yield of_one(
        gauge("volume_unflushed_bytes", "Answered, and not in the pool yet: --store …&cache"),
        volumes.kept_bytes,
    )
    hits = counter(
        "volume_cache_hits", "Reads answered from memory: --store …&cache", ("lun", "volume")
    )
    for lun, volume in served:
        for store in volume.stores:
            if isinstance(store, ReadCache):
                hits.add_metric((str(lun), volume.name), store.hits)
    yield hits


def _sizes(part: Sequence[tuple[LunAddress, Volume]]) -> Metric:
    size = gauge("volume_bytes", "Sizes of volumes", ("lun", "volume"))
    for lun, volume in part:
        size.add_metric((str(lun), volume.name), volume.size)
    return size


def _allocated(volumes: Volumes, part: Sequence[tuple[LunAddress, Volume]]) -> Metric:
    allocated = gauge(
        "volume_allocated_bytes", "What volumes in files of this machine take", ("lun", "volume")
    )
    for lun, volume in part:
        nbytes = volumes.allocated_bytes(volume.name)
        if nbytes is not None:
            allocated.add_metric((str(lun), volume.name), nbytes)
    return allocated


def worker_families(volumes: Volumes) -> Iterator[Metric]:
    """The ways to workers."""
    remote = volumes.remote
    links = [] if remote is None else remote.links
    yield from _links(links)
    yield of_one(
        counter("evictions", "Processes of workers that this node shut out of a shared store"),
        0 if remote is None else remote.evictions,
    )


def _links(links: list[WorkerLink]) -> Iterator[Metric]:
    by = ("worker",)
    served = gauge("worker_served", "1 while the worker serves this node", by)
    on_socket = gauge("worker_on_socket", "1 while messages go past gRPC, on one machine", by)
    unanswered = gauge("worker_unanswered", "I/Os that are with the worker", by)
    waiting = gauge("worker_waiting", "I/Os that commands wait for, sent or not", by)
    connections = counter("worker_connections", "Times that the worker began to serve", by)
    sent = counter("worker_ios", "I/Os sent to the worker, those sent again too", by)
    nbytes = counter("worker_sent_bytes", "Payload of them", by)
    lent = counter("worker_lent_bytes", "As much of it through memory that the worker lends", by)
    retried = counter("worker_retries", "I/Os sent again", by)
    expired = counter("worker_expired", "I/Os without an answer at their deadline", by)
    stood_in = counter("worker_failovers", "Times that others took over for the worker", by)
    for link in links:
        label, queue = (str(link.address),), link.queue
        served.add_metric(label, link.serving)
        on_socket.add_metric(label, queue.on_socket)
        unanswered.add_metric(label, queue.unanswered)
        waiting.add_metric(label, queue.waiting)
        connections.add_metric(label, link.connections)
        sent.add_metric(label, queue.sent)
        nbytes.add_metric(label, queue.sent_bytes)
        lent.add_metric(label, queue.lent_bytes)
        retried.add_metric(label, queue.retried)
        expired.add_metric(label, queue.expired)
        stood_in.add_metric(label, link.stood_in)
    yield from (served, on_socket, unanswered, waiting, connections, sent, nbytes, lent)
    yield from (retried, expired, stood_in)


def cluster_families(clustering: Clustering | None) -> Iterator[Metric]:
    """The other nodes, and Redis; without, families without samples."""
    nodes = gauge("cluster_nodes", "Nodes that are members, as this one knows")
    epoch = gauge("cluster_epoch", "The epoch of this node's life")
    lease = gauge("cluster_lease_seconds", "How long it may serve without renewing its lease")
    fenced = counter("cluster_fencings", "Nodes that this one has shut out")
    seconds = histogram(
        "registry_call_seconds", "Calls that Redis has answered: from asking to the answer"
    )
    failures = counter("registry_failures", "Calls without an answer, or with an error")
    entries = gauge(
        "registry_entries", "What Redis keeps of the volumes that this node serves", ("kind",)
    )
    memory = gauge("registry_memory_bytes", "What Redis takes, if it tells this user")
    if clustering is not None:
        node, link = clustering.node, clustering.link
        nodes.add_metric((), len(node.members))
        epoch.add_metric((), node.epoch)
        lease.add_metric((), node.lease_seconds_left)
        fenced.add_metric((), node.shut_out)
        seconds.add_metric((), cumulative(BOUNDS_SECONDS, link.buckets), link.seconds)
        failures.add_metric((), link.failures)
        footprint = clustering.footprint
        for kind, count in footprint.entries._asdict().items():
            entries.add_metric((kind,), count)
        if footprint.memory_bytes is not None:
            memory.add_metric((), footprint.memory_bytes)
    yield from (nodes, epoch, lease, fenced, seconds, failures, entries, memory)
