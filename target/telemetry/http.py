"""A small HTTP server that tells and takes nothing: no way into the admin API.

Nobody is asked who they are, so that nobody may have much: ``door.py`` bounds connections and how
long a request may take to come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from target.config.model import Portal
from target.telemetry.door import HEAD_SECONDS_MAX, Door

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TelemetryServer:
    """Serves ``routes`` at ``address``; a path is one of a Unix socket, its owner's."""

    def __init__(self, routes: web.RouteTableDef, address: Portal | Path) -> None:
        self._address = address
        self._door: Door | None = None
        app = web.Application(middlewares=[self._heard], client_max_size=0)
        app.add_routes(routes)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=HEAD_SECONDS_MAX
        )

    async def start(self) -> str:
        """Listen; returns where, for the log.  Raises OSError."""
        await self._runner.setup()
        try:
            return await self._listen()
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise OSError(exc.errno, reason, f"metrics {self._address}") from exc

    async def _listen(self) -> str:
        if isinstance(self._address, Path):
            await web.UnixSite(self._runner, self._address).start()
            return f"unix:{self._address}"
        assert self._runner.server is not None, "set up"
        self._door = Door(self._runner.server)
        where = Portal(*await self._door.open(self._address.host, self._address.port))
        return f"http://{where}/metrics"

    async def stop(self) -> None:
        """Answer what has begun, within a second."""
        if self._door is not None:
            await self._door.close()
        await self._runner.cleanup()

    @web.middleware
    async def _heard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._door is not None:
            self._door.heard(request.protocol)
        return await handler(request)
