"""The admin server of a life that is over holds nothing of it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import structlog
from aiohttp import ClientSession, web

from target.admin.server import AdminServer, answer
from target.config.model import Portal


class Life:
    """What handlers hang from."""

    async def get(self, request: web.Request) -> web.Response:
        return answer({"path": request.path})


def test_what_has_ended_is_let_go() -> None:
    """A node that is shut out begins anew in its process, as often as need be."""

    async def story() -> weakref.ref[Life]:
        life = Life()
        routes = [web.get("/v1/thing", life.get)]
        server = AdminServer(routes, Portal("127.0.0.1", 0), structlog.get_logger())
        where = await server.start()
        async with ClientSession() as client:
            url = f"http://{where.host}:{where.port}/v1/thing"
            for _ in range(2):
                async with client.get(url) as found:
                    assert await found.json() == {"path": "/v1/thing"}
            async with client.head(url) as found:
                assert found.status == 200
        await server.stop()
        return weakref.ref(life)

    left = asyncio.run(story())
    gc.collect()
    assert left() is None
