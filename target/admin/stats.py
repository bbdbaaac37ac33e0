"""/v1/stats, /v1/counters, /v1/report: what is counted; all that a report of a problem needs."""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CollectorRegistry

from target.admin.schema import Report
from target.admin.server import answer
from target.node import Node
from target.node_counters import CounterList
from target.scsi.stats import BOUNDS_SECONDS
from target.telemetry.doctor import node_report
from target.telemetry.stats import node_stats


def stats_routes(node: Node, registry: CollectorRegistry) -> web.RouteTableDef:
    """``registry`` is the one of /metrics."""
    routes = web.RouteTableDef()

    @routes.get("/v1/stats")
    async def stats(request: web.Request) -> web.Response:
        return answer(await node_stats(node.parts, node.name, time.monotonic))

    @routes.get("/v1/counters")
    async def counters(request: web.Request) -> web.Response:
        clustering = node.parts.clustering
        found = [await node.counters()]
        missing: list[str] = []
        if clustering is not None:
            others, missing = await clustering.counters.others()
            found = sorted([*found, *others], key=lambda it: it.node)
        return answer(
            CounterList(
                node=node.name, nodes=found, missing=missing, bounds_seconds=list(BOUNDS_SECONDS)
            )
        )

    @routes.get("/v1/report")
    async def report(request: web.Request) -> web.Response:
        return answer(Report(files=await node_report(node, registry, time.monotonic)))

    return routes
