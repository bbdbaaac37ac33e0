"""/v1/nodes, /v1/sessions, /v1/tasks: what happens."""

from __future__ import annotations

import msgspec
from aiohttp import web

from target.admin.schema import TaskAbort
from target.admin.server import answer
from target.sight import Sight
from target.sight_info import NodeList, ReservationList, SessionList


def sight_routes(sight: Sight) -> web.RouteTableDef:
    """What can be asked of ``sight``."""
    routes = web.RouteTableDef()

    @routes.get("/v1/nodes")
    async def nodes(request: web.Request) -> web.Response:
        return answer(NodeList(nodes=await sight.nodes()))

    @routes.get("/v1/sessions")
    async def sessions(request: web.Request) -> web.Response:
        return answer(SessionList(sessions=sight.sessions()))

    @routes.get("/v1/reservations")
    async def reservations(request: web.Request) -> web.Response:
        return answer(ReservationList(reservations=sight.reservations()))

    @routes.get("/v1/tasks")
    async def tasks(request: web.Request) -> web.Response:
        return answer(await sight.tasks())

    @routes.post("/v1/tasks/abort")
    async def abort(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=TaskAbort)
        await sight.abort(asked.id)
        return answer({})

    return routes
