"""A small HTTP server that tells and takes nothing: no way into the admin API."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from target.config.model import Portal


class TelemetryServer:
    """Serves ``routes`` at ``address``; a path is one of a Unix socket, its owner's."""

    def __init__(self, routes: web.RouteTableDef, address: Portal | Path) -> None:
        self._address = address
        app = web.Application(client_max_size=0)
        app.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> str:
        """Listen; returns where, for the log.  Raises OSError."""
        await self._runner.setup()
        try:
            await self._site().start()
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, f"metrics {self._address}") from exc
        if isinstance(self._address, Path):
            return f"unix:{self._address}"
        host, port = self._runner.addresses[0][:2]
        return f"http://{Portal(host, port)}/metrics"

    def _site(self) -> web.BaseSite:
        if isinstance(self._address, Path):
            return web.UnixSite(self._runner, self._address)
        return web.TCPSite(self._runner, self._address.host, self._address.port)

    async def stop(self) -> None:
        """Answer what has begun, within a second."""
        await self._runner.cleanup()
