"""Who may call the admin API, and what is written down of what they change.

Rules:

1. Callers have the token, or a certificate that TLS has asked for, or both, if both are configured.
2. Without either the API is on loopback only, and no web page that somebody looks at here may use
   it: ``Host`` must name a loopback address (a name of somebody's own DNS could point here).
3. No page can send a token that it does not know, nor have a certificate for a name of its own that
   the browser would take; then ``Host`` may be anything.
4. What changes something must be JSON, which no page may send to another's address unasked.
5. The dashboard's own files and /healthz, /readyz tell nothing: who reads them needs no token.
6. Each change, and each refused call, is one line of the log: who, what, and how it ended.  What
   is said to ``SECRET_PATHS`` is left out, and what is said where no route leads: it may have been
   meant for one of them.  ``audit.py`` has the same in a file.
7. Whoever is refused cannot fill a disk with it: after ``REFUSED_LINES_MAX`` lines it is one every
   ``REFUSED_SECONDS``, which says how many there would have been since the last.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from target.admin.audit import AuditFile
from target.config.model import AdminTls
from target.logs import Log

JSON: Final = "application/json"
SAID_CHARS_MAX: Final = 500  # of a request, in the log
READING: Final = ("GET", "HEAD")
REFUSED_LINES_MAX: Final = 20
REFUSED_SECONDS: Final = 10.0

OPEN_PATHS: Final = ("/", "/healthz", "/readyz")  # rule 5
SECRET_PATHS: Final = ("/v1/users", "/v1/mutual-chap")  # and all that begins so: CHAP secrets
OPEN_FOLDER: Final = "/dashboard/"


class Guard:
    """``token`` and ``tls`` as configured; None: not asked for."""

    def __init__(
        self,
        token: str | None,
        tls: AdminTls | None,
        log: Log,
        file: AuditFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = None if token is None else token.encode()
        self._tls = tls
        self._log = log
        self._file = file
        self._clock = clock
        self._full_at = clock()  # when all of REFUSED_LINES_MAX may be told again
        self._untold = 0  # since the last line

    def refusal(self, request: web.Request) -> tuple[int, str] | None:
        """Status and reason, if ``request`` is not to be served."""
        certified = self._tls is not None and self._tls.client_ca is not None
        if self._token is None and not certified and not is_local_host(request.host):  # rules 2, 3
            return 403, f"host {request.host!r} is not this machine"
        if self._token is not None and not _is_open(request) and not self._has_token(request):
            return 401, "the token is missing or wrong: see --admin-token-file"
        if request.method not in READING and request.can_read_body:
            if request.content_type != JSON:  # rule 4
                return 415, f"send {JSON}, not {request.content_type}"
        return None

    def _has_token(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        assert self._token is not None, "asked for"
        right = hmac.compare_digest(given.strip().encode(errors="replace"), self._token)
        return kind.lower() == "bearer" and right

    async def audit(
        self, request: web.Request, status: int, seconds: float, body: bytes = b""
    ) -> None:
        """Rule 6; ``body`` is what a handler was given."""
        refused = status in (401, 403)
        if request.method in READING and not refused:
            return
        if refused and not self._may_tell():
            self._untold += 1
            return
        unsaid = request.path.startswith(SECRET_PATHS)
        tell = self._log.warning if status >= web.HTTPBadRequest.status_code else self._log.info
        call: dict[str, Any] = {
            "method": request.method,
            "path": request.path_qs[:SAID_CHARS_MAX],
            "body": "" if unsaid else _said(body),
            "status": status,
        }
        if refused and self._untold:
            call["untold"] = self._untold
        if refused:
            self._untold = 0
        tell("admin call", who=_who(request), **call)
        if self._file is not None:
            who = self._shown(request)
            took = round(seconds, 6)
            await self._file.write(address=request.remote or "?", who=who, **call, seconds=took)

    def _shown(self, request: web.Request) -> str:
        """What the caller has shown: a certificate's subject, the token, or that it is here."""
        if subject := _subject(request):
            return ",".join(f"{key}={value}" for key, value in subject)
        if self._token is None:
            return "local"
        return "token" if self._has_token(request) else "nobody"

    def _may_tell(self) -> bool:
        """Rule 7: a token bucket, kept as the one moment at which it is full."""
        now = self._clock()
        full_at = max(self._full_at, now) + REFUSED_SECONDS
        if full_at - now > REFUSED_LINES_MAX * REFUSED_SECONDS:
            return False
        self._full_at = full_at
        return True


def _is_open(request: web.Request) -> bool:
    """Rule 5."""
    path = request.path
    return request.method in READING and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))


def _said(body: bytes) -> str:
    """What nothing secret is part of."""
    return " ".join(body[:SAID_CHARS_MAX].decode(errors="replace").split())


def _who(request: web.Request) -> str:
    """The address, and the name in the certificate if there is one."""
    names = [value for key, value in _subject(request) if key == "commonName"]
    return " ".join([request.remote or "?", *names])


def _subject(request: web.Request) -> list[tuple[str, str]]:
    """Of the certificate; empty without."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    return [pair for part in (certificate or {}).get("subject", ()) for pair in part]


def is_local_host(host: str) -> bool:
    """Whether a ``Host`` header names this machine and nothing else (rule 2)."""
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
