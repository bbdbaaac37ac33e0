"""The text that Prometheus reads, and HTTP around it; the same for nodes and workers.

Rules:

1. Whoever scrapes a node with thousands of LUNs must not hold its commands up: the text is made in
   pieces of ``SAMPLES_PER_PIECE``, and the event loop goes on in between.
2. Families that would be large come in parts of the same name, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

import target
from target.telemetry.families import counter, gauge

SAMPLES_PER_PIECE: Final = 200  # about 2 ms
SCRAPE_SECONDS_MAX: Final = 30.0
CONTENT_TYPE: Final = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}


class BuildCollector(Collector):
    """What is running, and what Python's own memory management costs it."""

    def collect(self) -> Iterator[Metric]:
        info = gauge("build_info", "1, with the version in its labels", ("version", "python"))
        python = ".".join(map(str, sys.version_info[:3]))
        info.add_metric((target.__version__, python), 1)
        yield info
        runs = counter("gc_collections", "Runs of Python's cyclic collector", ("generation",))
        for generation, stats in enumerate(gc.get_stats()):
            runs.add_metric((str(generation),), stats["collections"])
        yield runs
        tasks = gauge("asyncio_tasks", "Tasks of the event loop; commands take none")
        with contextlib.suppress(RuntimeError):  # no loop runs here
            tasks.add_metric((), len(asyncio.all_tasks()))
        yield tasks


def make_registry(collector: Collector) -> CollectorRegistry:
    """``collector`` and what every process tells (``process_…``: CPU, memory, descriptors)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    registry.register(BuildCollector())
    ProcessCollector(registry=registry)
    return registry


class _Piece(Collector):
    def __init__(self, family: Metric, begin: int) -> None:
        self._family = Metric(family.name, family.documentation, family.type)
        self._family.samples = family.samples[begin : begin + SAMPLES_PER_PIECE]

    def collect(self) -> Iterator[Metric]:
        yield self._family


async def exposition(registry: CollectorRegistry) -> AsyncIterator[bytes]:
    """The text, in pieces (rule 1)."""
    told = ""
    for family in registry.collect():
        for begin in range(0, max(1, len(family.samples)), SAMPLES_PER_PIECE):
            text = generate_latest(_Piece(family, begin))
            if family.name == told:  # it goes on: without # HELP and # TYPE
                text = text.split(b"\n", 2)[2]
            told = family.name
            yield text
            await asyncio.sleep(0)


def telemetry_routes(
    registry: CollectorRegistry,
    unready: Callable[[], str],
    degraded: Callable[[], str] = lambda: "",
) -> web.RouteTableDef:
    """/metrics, /healthz and /readyz.

    ``unready`` says why not, or nothing; ``degraded`` what is missing all the same, or nothing.
    """
    routes = web.RouteTableDef()

    @routes.get("/metrics")
    async def metrics(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=CONTENT_TYPE)
        try:
            async with asyncio.timeout(SCRAPE_SECONDS_MAX):
                await response.prepare(request)
                if request.method == "HEAD":
                    return response
                async for piece in exposition(registry):
                    await response.write(piece)
        except ConnectionError:
            pass  # who asked has gone
        except TimeoutError:  # or does not read
            if request.transport is not None:
                request.transport.abort()
        return response

    @routes.get("/healthz")
    async def healthz(request: web.Request) -> web.Response:
        """The event loop runs, or nobody would answer."""
        return web.Response(text="ok\n")

    @routes.get("/readyz")
    async def readyz(request: web.Request) -> web.Response:
        reason = " ".join(unready().split())
        if reason:
            return web.Response(text=f"{reason}\n", status=503)
        missing = " ".join(degraded().split())
        return web.Response(text=f"ok\n{missing}\n" if missing else "ok\n")

    return routes
