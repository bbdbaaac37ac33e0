"""/v1/users: the CHAP users of the catalog.  No answer has a secret."""

from __future__ import annotations

import msgspec
from aiohttp import web

from target.admin.schema import UserList
from target.admin.server import answer, said
from target.chap_users import UserRecord
from target.user_changes import UserChanges


def user_routes(users: UserChanges) -> web.RouteTableDef:
    """What can be asked of ``users``, and what can be changed."""
    routes = web.RouteTableDef()

    @routes.get("/v1/users")
    async def every(request: web.Request) -> web.Response:
        return answer(UserList(users=users.names, configured=users.configured))

    @routes.post("/v1/users")
    async def create(request: web.Request) -> web.Response:
        await users.create(msgspec.json.decode(await request.read(), type=UserRecord))
        return answer(UserList(users=users.names, configured=users.configured), 201)

    @routes.delete("/v1/users")
    async def delete(request: web.Request) -> web.Response:
        asked = request.query
        await users.delete(asked.get("user", ""), everybody=said(request, "everybody"))
        return web.Response(status=204)

    return routes
