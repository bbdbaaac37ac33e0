"""`python -m tests.support.metrics_reference`: the tables of docs/monitoring.md, from the code.

It starts a node and a worker in this process, on a directory that is gone afterwards, and asks
their collectors what they tell.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
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

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"


def table(families: Iterable[Metric]) -> str:
    """A row for each family; the name is that of its samples."""
    rows = {}
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        rows[name] = f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"
    return "| name | type | labels | what it is |\n| --- | --- | --- | --- |\n" + "".join(
        rows.values()
    )


async def tables() -> dict[str, str]:
    """By the word that marks their place in the document."""
    with tempfile.TemporaryDirectory() as folder:
        options = Options(data_dir=folder, portal="127.0.0.1:0", admin="off", volume="disk0=1M")
        config = load_serve_config(options, file=None, environ={})
        node = Node(config, structlog.get_logger())
        await node.start()
        of_node = table([*NodeCollector(node.parts, lambda: 0.0).collect()])
        await node.stop()
    executor = BlockingExecutor(1, asyncio.get_running_loop().call_soon_threadsafe)
    worker = Worker(MemoryShares(), buffer_memory_bytes=16 << 20, io_threads=1)
    collected = [*WorkerCollector(worker, executor, Path("/")).collect()]
    await worker.stop()
    executor.close()
    return {"node": of_node, "worker": table(collected), "both": table(BuildCollector().collect())}


def filled(text: str, found: dict[str, str]) -> str:
    """The document with these tables."""
    for word, rows in found.items():
        begin, end = f"<!-- {word}: generated -->\n", f"<!-- {word}: end -->\n"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        assert found_begin, f"no place for {word}"
        assert found_end, f"no end of {word}"
        text = before + begin + rows + end + after
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), asyncio.run(tables())))
