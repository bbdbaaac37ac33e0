"""The admin API over HTTP: where it listens, and what every request must be.

Rules:

1. Who may call stands in ``guard.py``, how many at once in ``telemetry/door.py``.
2. A node that begins anew in its process has another server.  aiohttp keeps a thousand handlers of
   servers that are long gone (``web_app._cached_build_middleware``), so what it gets is none that a
   whole life of a node hangs from.
3. Requests are bounded in size and time; a mistake is answered with one line (``Problem``).  A body
   has come before its handler begins, which finds it read.  What takes longer goes on when the time
   is over, since half a change helps nobody.
4. A change that not every node has followed yet is answered 202, and by whom (``Pending``).
5. Whatever a handler raises is answered so and audited: what failed may have changed something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from target.admin.audit import AuditFile
from target.admin.guard import JSON, Guard
from target.admin.schema import PROBLEM_JSON, Pending, Problem
from target.config.model import AdminTls, Portal
from target.config.tls import server_context
from target.datadir import DataDirError
from target.logs import Log
from target.telemetry.door import HEAD_SECONDS_MAX, Door
from target.volume_errors import NotEverywhere, VolumeError, VolumeFault

BODY_BYTES_MAX: Final = 64 << 10
NUMBER_CHARS_MAX: Final = 18
REQUEST_SECONDS_MAX: Final = 60.0
STATUS_OF_FAULT: Final = {
    VolumeFault.MISSING: 404,
    VolumeFault.CONFLICT: 409,
    VolumeFault.AWAY: 503,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(value: object, status: int = 200, kind: str = JSON) -> web.Response:
    """A JSON answer."""
    body = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return web.Response(body=body, status=status, content_type=kind)


def problem(status: int, text: str) -> web.Response:
    """What is wrong, in one line."""
    told = Problem(title=HTTPStatus(status).phrase, status=status, detail=" ".join(text.split()))
    return answer(told, status, PROBLEM_JSON)


def said(request: web.Request, name: str) -> bool:
    """Whether a request says yes to ``name`` in its query.  Raises ValueError."""
    text = request.query.get(name, "no")
    if text not in ("yes", "no"):
        raise ValueError(f"{name} must be yes or no, not {text!r}")
    return text == "yes"


def whole(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number of the query.  Raises ValueError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_CHARS_MAX):
        raise ValueError(f"{name} must be a whole number, not {text[:40]!r}")
    if int(text) > most:
        raise ValueError(f"{name} must be at most {most}")
    return int(text)


class AdminServer:
    """Serves ``routes`` at ``address``."""

    def __init__(
        self,
        routes: Sequence[web.AbstractRouteDef],
        address: Portal,
        log: Log,
        *,
        token: str | None = None,
        tls: AdminTls | None = None,
        audit: AuditFile | None = None,
    ) -> None:
        self._address = address
        self._log = log
        self._audit = audit
        self._tls = tls
        self._caller = Guard(token, tls, log, audit)
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        self._handlers: list[Handler] = []
        app.add_routes([self._behind_door(route) for route in routes])
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=HEAD_SECONDS_MAX
        )
        self._door: Door | None = None

    async def start(self) -> Portal:
        """Listen; returns where.  Raises OSError."""
        context = None
        if (tls := self._tls) is not None:
            context = server_context("admin", tls.certificate, tls.key, tls.client_ca)
        if self._audit is not None:
            self._audit.check()
        await self._runner.setup()
        assert self._runner.server is not None, "set up"
        self._door = Door(self._runner.server, context)
        try:
            return Portal(*await self._door.open(self._address.host, self._address.port))
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, f"admin {self._address}") from exc

    async def stop(self) -> None:
        """Answer what has begun, within a second."""
        if self._door is not None:
            await self._door.close()
        await self._runner.cleanup()
        self._handlers.clear()

    def _behind_door(self, route: web.AbstractRouteDef) -> web.RouteDef:
        """Rule 2."""
        assert isinstance(route, web.RouteDef), "files have their handlers"
        number = len(self._handlers)
        self._handlers.append(route.handler)

        async def door(request: web.Request) -> web.StreamResponse:
            return await self._handlers[number](request)

        return web.RouteDef(route.method, route.path, door, route.kwargs)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.monotonic()
        if self._door is not None:
            self._door.heard(request.protocol)
        body, refusal = b"", self._caller.refusal(request)
        if refusal is None:
            body, refusal = await _body(request)
        response = await self._serve(request, handler) if refusal is None else problem(*refusal)
        if response.status == web.HTTPUnauthorized.status_code:
            response.headers["WWW-Authenticate"] = "Bearer"
        await self._caller.audit(request, response.status, time.monotonic() - begun, body)
        return response

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        work = asyncio.ensure_future(handler(request))
        done, _ = await asyncio.wait([work], timeout=REQUEST_SECONDS_MAX)
        if not done:
            work.add_done_callback(self._ended_late)
            return problem(504, f"not done within {REQUEST_SECONDS_MAX:g} seconds; it goes on")
        try:
            return work.result()
        except web.HTTPException as exc:
            refused = problem(exc.status, exc.reason)
            if isinstance(exc, web.HTTPMethodNotAllowed):
                refused.headers["Allow"] = ", ".join(sorted(exc.allowed_methods))  # RFC 9110 15.5.6
            return refused
        except NotEverywhere as exc:
            return answer(Pending(pending=[*exc.late]), 202)
        except VolumeError as exc:
            return problem(STATUS_OF_FAULT[exc.fault], str(exc))
        except DataDirError as exc:
            return problem(500, str(exc))
        except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as exc:
            return problem(400, str(exc))
        except TimeoutError as exc:  # of what the handler waited for; it does not go on
            self._log.error("admin request failed", path=request.path, reason=_reason(exc))
            return problem(504, f"what this needs did not answer in time: {_reason(exc)}")
        except OSError as exc:
            self._log.error("admin request failed", path=request.path, reason=_reason(exc))
            return problem(500, f"{exc.filename or 'I/O'}: {exc.strerror or _reason(exc)}")
        except Exception as exc:  # a bug, or a dependency's own: rule 4
            self._log.error("admin request failed", path=request.path, exc_info=exc)
            return problem(500, f"failed, and may be done in part: {_reason(exc)}; see the log")

    def _ended_late(self, work: asyncio.Future[web.StreamResponse]) -> None:
        """A change that nobody waits for any more is not left half done."""
        failed = None if work.cancelled() else work.exception()
        if failed is not None:
            self._log.error("admin request failed", reason=_reason(failed))


async def _body(request: web.Request) -> tuple[bytes, tuple[int, str] | None]:
    """What its handler is given, and what is wrong with it (rule 3).

    Where no route leads it is not looked at.
    """
    if not request.can_read_body or request.match_info.http_exception is not None:
        return b"", None
    try:
        async with asyncio.timeout(HEAD_SECONDS_MAX):
            return await request.read(), None
    except TimeoutError:
        return b"", (408, f"the body has not come within {HEAD_SECONDS_MAX:g} seconds")
    except web.HTTPRequestEntityTooLarge as exc:
        return b"", (exc.status, exc.reason)
    except web.RequestPayloadError as exc:  # no gzip, say, although it is said to be
        return b"", (400, str(exc))
    except ConnectionError as exc:  # nobody hears it, but it is written down
        return b"", (400, f"the body has not come: {exc}")


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
