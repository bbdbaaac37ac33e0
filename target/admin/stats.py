"""/v1/stats: the counters of the node."""

from __future__ import annotations

import time

from aiohttp import web

from target.admin.server import answer
from target.node import NodeParts
from target.telemetry.stats import node_stats


def stats_routes(parts: NodeParts, node: str) -> web.RouteTableDef:
    """``node`` is its name."""
    routes = web.RouteTableDef()

    @routes.get("/v1/stats")
    async def stats(request: web.Request) -> web.Response:
        return answer(node_stats(parts, node, time.monotonic()))

    return routes
