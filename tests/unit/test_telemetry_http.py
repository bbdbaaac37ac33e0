"""What only tells: whoever reaches it can take little, and fill nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from target.config.model import Portal
from target.telemetry import door
from target.telemetry.exposition import BuildCollector, telemetry_routes
from target.telemetry.http import TelemetryServer

T = TypeVar("T")
SECONDS_MAX = 20.0


def told(story: Callable[[str, int], Awaitable[T]]) -> T:
    """What comes of ``story``, which is given a server's host and port."""

    async def run() -> T:
        registry = CollectorRegistry()
        registry.register(BuildCollector())
        server = TelemetryServer(telemetry_routes(registry, lambda: ""), Portal("127.0.0.1", 0))
        where = await server.start()
        host, _, port = where.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await story(host, int(port))
        finally:
            await server.stop()

    return asyncio.run(run())


async def said(host: str, port: int, request: bytes) -> bytes:
    """Until the connection ends; who is put out may find it reset."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    return answer


GZIP = b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01 TLS?\r\n\r\n", b"400"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\n" + GZIP + b"no gzip!!", b"405"),
    ],
)
def test_what_is_no_http_is_no_line_of_the_log(
    request_: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = told(lambda host, port: said(host, port, request_))
    assert answer.split(b" ")[1] == status
    assert not caplog.records


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 2)
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    async def story(host: str, port: int) -> tuple[bytes, list[bytes]]:
        held = [await asyncio.open_connection(host, port) for _ in range(2)]
        refused = await said(host, port, request)
        served = []
        for reader, writer in held:  # those in the house are served
            writer.write(request)
            served.append(await reader.read())
            writer.close()
        return refused, served

    refused, served = told(story)
    assert refused == b""
    assert all(answer.endswith(b"ok\n") for answer in served)


def test_who_comes_and_goes_leaves_little_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 4)

    async def ok(request: web.BaseRequest) -> web.Response:
        return web.Response()

    async def story() -> None:
        server = web.Server(ok)
        front = door.Door(server)
        host, port = await front.open("127.0.0.1", 0)
        for _ in range(40):
            assert b" 400 " in await said(host, port, b"no HTTP\r\n\r\n")
        assert len(front._unheard) <= 2 * 4
        await front.close()
        await server.shutdown()

    asyncio.run(story())


def test_who_says_nothing_is_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS_MAX", 0.2)
    assert told(lambda host, port: said(host, port, b"GET /metrics HTTP/1.1\r\n")) == b""


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_the_answer_to_head_has_no_body(version: bytes) -> None:
    request = b"HEAD /metrics HTTP/%b\r\nHost: a\r\nConnection: close\r\n\r\n" % version
    answer = told(lambda host, port: said(host, port, request))
    assert b" 200 " in answer
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1
