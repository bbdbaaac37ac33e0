"""A small HTTP server for a process that has no admin API."""

from __future__ import annotations

from aiohttp import web

from target.config.model import Portal


class TelemetryServer:
    """Serves ``routes`` at ``address``."""

    def __init__(self, routes: web.RouteTableDef, address: Portal) -> None:
        self._address = address
        app = web.Application(client_max_size=0)
        app.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> Portal:
        """Listen; returns where.  Raises OSError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address.host, self._address.port)
        try:
            await site.start()
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, f"metrics {self._address}") from exc
        host, port = self._runner.addresses[0][:2]
        return Portal(host, port)

    async def stop(self) -> None:
        """Answer what has begun, within a second."""
        await self._runner.cleanup()
