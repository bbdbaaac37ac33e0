"""/v1/users, /v1/mutual-chap: the CHAP users of the catalog.  No answer has a secret."""

from __future__ import annotations

import msgspec
from aiohttp import web

from target.admin.schema import MutualChap, UserList
from target.admin.server import answer, said
from target.chap_users import UserSecret
from target.user_changes import MutualChanges, UserChanges


def user_routes(users: UserChanges, mutual: MutualChanges) -> web.RouteTableDef:
    """What can be asked of ``users``, and what can be changed."""
    routes = web.RouteTableDef()

    @routes.get("/v1/users")
    async def every(request: web.Request) -> web.Response:
        return answer(UserList(users=users.names, configured=users.configured))

    @routes.post("/v1/users")
    async def create(request: web.Request) -> web.Response:
        return answer(await users.create(await _secret(request)), 201)

    @routes.patch("/v1/users")
    async def change(request: web.Request) -> web.Response:
        return answer(await users.set_secret(await _secret(request)))

    @routes.delete("/v1/users")
    async def delete(request: web.Request) -> web.Response:
        asked = request.query
        await users.delete(asked.get("user", ""), everybody=said(request, "everybody"))
        return web.Response(status=204)

    @routes.get("/v1/mutual-chap")
    async def ours(request: web.Request) -> web.Response:
        return answer(MutualChap(mutual=users.mutual))

    @routes.put("/v1/mutual-chap")
    async def put(request: web.Request) -> web.Response:
        return answer(await mutual.put(await _secret(request)))

    @routes.delete("/v1/mutual-chap")
    async def end(request: web.Request) -> web.Response:
        await mutual.delete()
        return web.Response(status=204)

    return routes


async def _secret(request: web.Request) -> UserSecret:
    return msgspec.json.decode(await request.read(), type=UserSecret)
