"""The other end of the admin API: what ``lunmesh volume`` asks a node with."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import urllib.parse
from typing import Any, Final, TypeVar

import msgspec

from target.admin.schema import Pending, Problem
from target.config.model import Portal
from target.volume_errors import NotEverywhere

T = TypeVar("T")

CONNECT_SECONDS_MAX: Final = 5.0
ANSWER_SECONDS_MAX: Final = 90.0  # longer than the node takes for any request
ANSWER_BYTES_MAX: Final = 64 << 20
NOT_SAID_SO: Final = (msgspec.MsgspecError, UnicodeDecodeError)  # other JSON, or none


class NodeAway(Exception):
    """No node answers there, or something else does; one line."""


class Refused(Exception):
    """The node has answered that it cannot be done, and why, in one line."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class AdminClient:
    """Asks the node whose admin API is at ``address``.

    A change that is not on every node yet raises NotEverywhere.
    """

    def __init__(
        self,
        address: Portal,
        *,
        token: str | None = None,
        context: ssl.SSLContext | None = None,  # None: in the clear
    ) -> None:
        self._address = address
        self._token = token
        self._context = context

    def get(self, path: str, kind: type[T]) -> T:
        """What there is at ``path``."""
        return self._decoded(self._ask("GET", path), kind)

    def send(self, method: str, path: str, body: Any, kind: type[T]) -> T:
        """POST or PATCH ``body``; what the node says then."""
        return self._decoded(self._ask(method, path, body), kind)

    def delete(self, path: str) -> None:
        """DELETE ``path``."""
        self._ask("DELETE", path)

    def _decoded(self, said: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(said, type=kind)
        except NOT_SAID_SO as exc:
            raise NodeAway(
                f"what answers at {self._address} is no node of this version: is this the --admin"
                " address of lunmesh serve?"
            ) from exc

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS_MAX)
        return http.client.HTTPSConnection(
            host, port, timeout=CONNECT_SECONDS_MAX, context=self._context
        )

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        address = self._address
        connection = self._connection()
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else msgspec.json.encode(body)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_SECONDS_MAX)
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            said = response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise NodeAway(
                f"no node answers at {address} ({reason or type(exc).__name__}): is lunmesh serve"
                " running, and is this its --admin address?"
            ) from exc
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise Refused(_problem(said, response))
        if response.status == http.client.ACCEPTED:
            # A migration that has begun is accepted as well, and pending nowhere.
            with contextlib.suppress(*NOT_SAID_SO):
                raise NotEverywhere(msgspec.json.decode(said, type=Pending).pending)
        return said


def _problem(said: bytes, response: http.client.HTTPResponse) -> Problem:
    try:
        return msgspec.json.decode(said, type=Problem)
    except NOT_SAID_SO:  # it is none of our servers
        status, reason = response.status, response.reason
        return Problem(title=reason, status=status, detail=f"it answered {status} {reason}")


def volume_path(name: str) -> str:
    """Where a volume stands."""
    return f"/v1/volumes/{urllib.parse.quote(name, safe='')}"
