"""What a worker tells at /metrics and /readyz, with ``--metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from target.telemetry.families import counter, cumulative, gauge, histogram, of_one
from target.telemetry.stores import executor_families, folder_families
from workers.executor import BlockingExecutor
from workers.stats import BOUNDS_SECONDS
from workers.worker import Worker


class WorkerCollector(Collector):
    """``folder`` is where the store is, if it is on this machine."""

    def __init__(self, worker: Worker, executor: BlockingExecutor, folder: Path | None) -> None:
        self._worker = worker
        self._executor = executor
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        yield from self._work()
        yield from self._state()
        yield from executor_families(self._executor)
        if self._folder is not None:
            yield from folder_families(self._folder)

    def _work(self) -> Iterator[Metric]:
        stats = self._worker.stats
        yield of_one(counter("share_streams", "Streams of nodes that have begun"), stats.streams)
        yield of_one(counter("share_messages", "Messages from nodes"), stats.messages)
        yield of_one(counter("share_ios", "I/Os in them"), stats.ios)
        yield of_one(counter("share_received_bytes", "Payload from nodes"), stats.received_bytes)
        yield of_one(counter("share_sent_bytes", "Payload to nodes"), stats.sent_bytes)
        failures = counter("share_failures", "I/Os that did not end well, by status", ("status",))
        for status, count in list(stats.failures.items()):
            failures.add_metric((status.value,), count)
        yield failures
        seconds = histogram(
            "share_io_seconds", "I/Os not done on the spot: from their arrival to their end"
        )
        seconds.add_metric((), cumulative(BOUNDS_SECONDS, stats.buckets), stats.seconds)
        yield seconds
        yield of_one(
            counter("share_evictions", "Times that the store has shut this process out"),
            stats.evictions,
        )

    def _state(self) -> Iterator[Metric]:
        worker = self._worker
        yield of_one(gauge("share_volumes", "Shares of volumes that are here"), worker.shares.count)
        streams = sum(node.stream is not None for node in worker.nodes.all())
        yield of_one(gauge("share_nodes", "Nodes that have a stream"), streams)
        ios = gauge("share_ios_present", "I/Os that have not ended", ("state",))
        waiting = worker.scheduler.waiting
        ios.add_metric(("waiting",), waiting)
        ios.add_metric(("running",), worker.running - waiting)
        yield ios
        memory = gauge("buffer_bytes", "Memory for data: all of it, what is out", ("what",))
        memory.add_metric(("total",), worker.memory.total_bytes)
        memory.add_metric(("used",), worker.memory.used)
        yield memory
