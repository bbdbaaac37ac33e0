"""The dashboard: plain files of the package, at the admin address.

Rules:

1. A fixed list of files, read once: no path of a request ever names a file.
2. The page may run, show and ask for what comes from this address only (Content-Security-Policy).
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from aiohttp import web

FOLDER: Final = "/dashboard/"
TYPES: Final = {
    "index.html": "text/html",
    "style.css": "text/css",
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "buffers.js": "text/javascript",
    "charts.js": "text/javascript",
    "tables.js": "text/javascript",
    "tasks.js": "text/javascript",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def dashboard_routes() -> web.RouteTableDef:
    """/ and the files that it needs."""
    folder = resources.files("target.admin") / "web"
    files = {name: (folder / name).read_bytes() for name in TYPES}
    routes = web.RouteTableDef()

    @routes.get("/")
    async def page(request: web.Request) -> web.Response:
        return _file("index.html", files["index.html"])

    @routes.get(FOLDER + "{name}")
    async def part(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in files:
            raise web.HTTPNotFound
        return _file(name, files[name])

    return routes


def _file(name: str, body: bytes) -> web.Response:
    return web.Response(body=body, content_type=TYPES[name], charset="utf-8", headers=HEADERS)
