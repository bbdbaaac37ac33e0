"""/v1/acls: who may use which volumes."""

from __future__ import annotations

import msgspec
from aiohttp import web

from target.access_changes import AccessChanges
from target.admin.schema import AccessEntries
from target.admin.server import answer, said
from target.scsi.access_list import AccessEntry


def access_routes(access: AccessChanges) -> web.RouteTableDef:
    """What can be asked of ``access``, and what can be changed."""
    routes = web.RouteTableDef()

    @routes.get("/v1/acls")
    async def every(request: web.Request) -> web.Response:
        return answer(AccessEntries(acls=list(access.kept), configured=list(access.configured)))

    @routes.put("/v1/acls")
    async def put(request: web.Request) -> web.Response:
        entry = msgspec.json.decode(await request.read(), type=AccessEntry)
        return answer(await access.put(entry))

    @routes.delete("/v1/acls")
    async def delete(request: web.Request) -> web.Response:
        asked = request.query
        whom = (asked.get(key, "") for key in ("initiator", "user", "target"))
        await access.delete(*whom, everybody=said(request, "everybody"))
        return web.Response(status=204)

    return routes
