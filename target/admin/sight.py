"""/v1/nodes, /v1/sessions, /v1/tasks: what happens."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from target.admin.schema import TaskAbort, TaskAborted
from target.admin.server import answer, whole
from target.sight import Sight
from target.sight_info import TASKS_MAX, NodeList, ReservationList
from target.task_list import FILTER_CHARS_MAX, Key, TaskQuery

OFFSET_MAX: Final = 1 << 30


def sight_routes(sight: Sight) -> web.RouteTableDef:
    """What can be asked of ``sight``."""
    routes = web.RouteTableDef()

    @routes.get("/v1/nodes")
    async def nodes(request: web.Request) -> web.Response:
        return answer(NodeList(nodes=await sight.nodes()))

    @routes.get("/v1/nodes/{name}")
    async def node(request: web.Request) -> web.Response:
        return answer(await sight.node(request.match_info["name"]))

    @routes.get("/v1/sessions")
    async def sessions(request: web.Request) -> web.Response:
        return answer(await sight.sessions())

    @routes.get("/v1/sessions/{node}/{tsih}")
    async def session(request: web.Request) -> web.Response:
        return answer(await sight.session(_session_id(request)))

    @routes.delete("/v1/sessions/{node}/{tsih}")
    async def drop(request: web.Request) -> web.Response:
        await sight.drop(_session_id(request))
        return web.Response(status=204)

    @routes.get("/v1/reservations")
    async def reservations(request: web.Request) -> web.Response:
        return answer(ReservationList(reservations=sight.reservations()))

    @routes.get("/v1/tasks")
    async def tasks(request: web.Request) -> web.Response:
        return answer(await sight.tasks(_query(request)))

    @routes.post("/v1/tasks/abort")
    async def abort(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=TaskAbort)
        await sight.abort(asked.id)
        return answer(TaskAborted(aborted=asked.id))

    return routes


def _session_id(request: web.Request) -> str:
    return "{node}/{tsih}".format_map(request.match_info)


def _query(request: web.Request) -> TaskQuery:
    """Raises ValueError."""
    words = request.query.get("filter", "")
    if len(words) > FILTER_CHARS_MAX:
        raise ValueError(f"filter must have at most {FILTER_CHARS_MAX} characters")
    cursor = request.query.get("cursor", "")
    return TaskQuery(
        words=tuple(words.lower().split()),
        after=Key.parse(cursor) if cursor else None,
        offset=whole(request, "offset", 0, OFFSET_MAX),
        limit=whole(request, "limit", TASKS_MAX, TASKS_MAX),
    )
