"""What nodes and workers tell at /metrics: asked of their own collectors, in this process."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import structlog
from prometheus_client.core import Metric

from target.config import Options, load_serve_config
from target.node import Node
from target.telemetry.exposition import BuildCollector
from target.telemetry.node import NodeCollector
from target.telemetry.worker import WorkerCollector
from workers.executor import BlockingExecutor
from workers.shares import MemoryShares
from workers.worker import Worker


async def of_node() -> list[Metric]:
    """Of a node that is started on a folder which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        options = Options(data_dir=folder, portal="127.0.0.1:0", admin="off", volume="disk0=1M")
        node = Node(load_serve_config(options, file=None, environ={}), structlog.get_logger())
        await node.start()
        found = [*NodeCollector(node.parts, lambda: 0.0).collect()]
        await node.stop()
    return found


async def of_worker() -> list[Metric]:
    """Of a worker that keeps everything in memory."""
    executor = BlockingExecutor(1, asyncio.get_running_loop().call_soon_threadsafe)
    worker = Worker(MemoryShares(), buffer_memory_bytes=16 << 20, io_threads=1)
    found = [*WorkerCollector(worker, executor, Path("/")).collect()]
    await worker.stop()
    executor.close()
    return found


def of_both() -> list[Metric]:
    """Of each process."""
    return [*BuildCollector().collect()]


def row(family: Metric) -> tuple[str, str, str, str]:
    """Name of the samples, kind, labels and help."""
    name = family.name + "_total" * (family.type == "counter")
    labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
    return f"`{name}`", family.type, labels, family.documentation
