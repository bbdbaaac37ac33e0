"""/v1/targets: the names by which initiators know what a node serves."""

from __future__ import annotations

import msgspec
from aiohttp import web

from target.admin.schema import TargetInfos
from target.admin.server import answer
from target.target_changes import TargetChanges
from target.target_records import TargetRecord


def target_routes(targets: TargetChanges) -> web.RouteTableDef:
    """What can be asked of ``targets``, and what can be changed."""
    routes = web.RouteTableDef()

    @routes.get("/v1/targets")
    async def every(request: web.Request) -> web.Response:
        return answer(TargetInfos(targets=targets.all()))

    @routes.post("/v1/targets")
    async def create(request: web.Request) -> web.Response:
        record = msgspec.json.decode(await request.read(), type=TargetRecord)
        return answer(await targets.create(record), status=201)

    @routes.patch("/v1/targets")
    async def change(request: web.Request) -> web.Response:
        record = msgspec.json.decode(await request.read(), type=TargetRecord)
        return answer(await targets.set_portal_groups(record))

    @routes.delete("/v1/targets")
    async def delete(request: web.Request) -> web.Response:
        await targets.delete(request.query.get("name", ""))
        return web.Response(status=204)

    return routes
