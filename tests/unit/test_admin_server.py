"""The admin server answers whatever its handlers do, and holds nothing of a life that is over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from http import HTTPStatus
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, web

from target.admin.guard import JSON, REFUSED_LINES_MAX
from target.admin.server import AdminServer, answer
from target.config.model import Portal
from target.telemetry import door


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


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (KeyError("gone"), 500, "failed, and may be done in part: 'gone'; see the log"),
        (TimeoutError(), 504, "what this needs did not answer in time: TimeoutError"),
        (OSError("no errno"), 500, "I/O: no errno"),
    ],
)
def test_whatever_a_handler_raises_is_a_problem_and_audited(
    raised: Exception, status: int, told: str
) -> None:
    async def fail(request: web.Request) -> web.Response:
        raise raised

    async def story() -> None:
        routes = [web.post("/v1/thing", fail)]
        server = AdminServer(routes, Portal("127.0.0.1", 0), structlog.get_logger())
        where = await server.start()
        try:
            async with ClientSession() as client:
                url = f"http://{where.host}:{where.port}/v1/thing"
                async with client.post(url, json={}) as found:
                    said = await found.json(content_type="application/problem+json")
                    title = HTTPStatus(status).phrase
                    assert said == {"title": title, "status": status, "detail": told}
                    assert found.status == status
        finally:
            await server.stop()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(story())
    assert [line["status"] for line in lines if line["event"] == "admin call"] == [status]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS_MAX", 0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("head", [b"", b"GET /v1/thing HTTP/1.1\r\nHost: a\r\n"])
def test_who_does_not_end_the_head_of_a_request_is_put_out(head: bytes) -> None:
    async def story() -> None:
        life = Life()
        routes = [web.get("/v1/thing", life.get)]
        server = AdminServer(routes, Portal("127.0.0.1", 0), structlog.get_logger())
        where = await server.start()
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(head)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await server.stop()

    asyncio.run(story())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 2)

    async def story() -> None:
        life = Life()
        routes = [web.get("/v1/thing", life.get)]
        server = AdminServer(routes, Portal("127.0.0.1", 0), structlog.get_logger())
        where = await server.start()
        idle = [await asyncio.open_connection(where.host, where.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection(where.host, where.port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        request = b"GET /v1/thing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        for reader, writer in idle:  # those in the house are served
            writer.write(request)
            assert b"200 OK" in await asyncio.wait_for(reader.read(), 10)
            writer.close()
        await server.stop()

    asyncio.run(story())


async def take(request: web.Request) -> web.Response:
    return answer(len(await request.read()))


def said(requests: list[bytes], token: str | None = None) -> tuple[bytes, list[dict[str, Any]]]:
    """What a server says to all of them on one connection, and what it has written down."""

    async def story() -> bytes:
        routes = [web.post("/v1/thing", take), web.get("/dashboard/{name}", take)]
        log = structlog.get_logger()
        server = AdminServer(routes, Portal("127.0.0.1", 0), log, token=token)
        where = await server.start()
        try:
            reader, writer = await asyncio.open_connection(where.host, where.port)
            with contextlib.closing(writer):
                writer.write(b"".join(requests))
                answers = b""
                while answers.count(b"HTTP/1.1 ") < len(requests):
                    read = await asyncio.wait_for(reader.read(1 << 16), 10)
                    assert read, answers
                    answers += read
            return answers
        finally:
            await server.stop()

    with structlog.testing.capture_logs() as lines:
        answers = asyncio.run(story())
    return answers, [dict(line) for line in lines if line["event"] == "admin call"]


def request(path: str, *more: str, body: bytes = b"") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *more, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [("/v1/thing", "text/plain", 415), ("/v1/nothing", JSON, 404), ("/v1/thing", JSON, 408)],
)
def test_a_body_that_never_comes_is_not_waited_for(
    path: str, kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it hold a connection of the few that there are."""
    monkeypatch.setattr("target.admin.server.HEAD_SECONDS_MAX", 0.2)
    answers, calls = said([request(path, f"Content-Type: {kind}", "Content-Length: 9")])
    assert answers.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answers
    assert [(call["status"], call["body"]) for call in calls] == [(status, "")]


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (("Content-Encoding: gzip", "Content-Length: 9"), b"no gzip!!", 400),
        (("Content-Length: 200000",), b" " * 200000, 413),
    ],
)
def test_a_body_that_is_not_what_it_has_to_be_is_a_problem_and_audited(
    head: tuple[str, ...], body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    answers, calls = said([request("/v1/thing", f"Content-Type: {JSON}", *head, body=body)])
    assert answers.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answers
    assert [(call["status"], call["body"]) for call in calls] == [(status, "")]
    assert not caplog.records


def test_what_is_said_where_no_route_leads_is_not_written_down() -> None:
    """A secret may have been sent there by a slip of the hand."""
    head = (f"Content-Type: {JSON}", "Content-Length: 6")
    paths = ("/v1/thing", "/v1/user", "/dashboard/x")
    _, calls = said([request(path, *head, body=b'"hush"') for path in paths])
    assert [call["status"] for call in calls] == [200, 404, 405]
    assert [call["body"] for call in calls] == ['"hush"', "", ""]


def test_without_the_token_nothing_but_reading_is_open() -> None:
    get = b"GET /dashboard/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers, calls = said([get, *[request("/dashboard/x")] * 40], token="t" * 16)
    assert answers.count(b" 200 OK") == 1
    assert answers.count(b" 401 Unauthorized") == 40
    assert len(calls) == REFUSED_LINES_MAX


class _Lines:
    """A log."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.has_said = asyncio.Event()

    def info(self, event: str, **fields: Any) -> None:
        self.said.append(event)
        self.has_said.set()

    warning = error = info


@pytest.mark.parametrize("aborts", [True, False])
@pytest.mark.parametrize("rest", [b"", b"zz\r\n"])
def test_a_caller_that_goes_in_the_middle_of_a_body_is_audited(
    caplog: pytest.LogCaptureFixture, rest: bytes, aborts: bool
) -> None:
    async def story() -> list[str]:
        log: Any = _Lines()
        routes = [web.post("/v1/thing", Life().get)]
        server = AdminServer(routes, Portal("127.0.0.1", 0), log)
        where = await server.start()
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(
            b"POST /v1/thing HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert b"100" in await reader.readline()
        writer.write(b"1\r\n{\r\n" + rest)
        await writer.drain()
        if aborts:
            writer.transport.abort()
        else:
            writer.write_eof()
        async with asyncio.timeout(door.HEAD_SECONDS_MAX / 2):
            await log.has_said.wait()
        writer.close()
        await server.stop()
        lines: list[str] = log.said
        return lines

    with caplog.at_level("ERROR", "aiohttp.server"):
        assert asyncio.run(story()) == ["admin call"]
    assert not caplog.records
