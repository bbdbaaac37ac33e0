"""The way to Redis: redis-py connects (addresses, TLS, passwords, Sentinel, Cluster), and what is
called in one wake-up leaves together.

A URL is one of ``redis://``, ``rediss://`` (TLS), ``unix://``; with ``redis+sentinel://HOST:PORT,
HOST:PORT/SERVICE`` the sentinels say who the primary is, with ``redis+cluster://HOST:PORT,…`` the
keys are spread over a Redis Cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import NoScriptError, RedisError, ResponseError

from target.cluster.registry import RegistryAway, StaleNode

CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 3.0  # Redis that is silent for so long is away
RETRY_SECONDS: Final = 0.2
STALE: Final = "STALENODE"

_OPTIONS: Final[dict[str, Any]] = {
    "socket_connect_timeout": CONNECT_SECONDS,
    "client_name": "lunmesh",
}


class Log(Protocol):
    """Where this package says what happens."""

    def info(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def warning(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def error(self, event: str, **fields: object) -> object:
        """As structlog has it."""


def _addresses(netloc: str) -> list[tuple[str, int]]:
    found = []
    for one in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{one}")
        if not parts.hostname:
            raise ValueError(one)
        found.append((parts.hostname, parts.port or 6379))
    return found


def make_client(url: str) -> aioredis.Redis | aioredis.RedisCluster:
    """A client of redis-py for a URL that target/config/cluster.py has checked."""
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        return aioredis.Redis.from_url(url, max_connections=4, **_OPTIONS)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    options: dict[str, Any] = dict(_OPTIONS)
    if password:
        options.update(password=unquote(password))
    if user:
        options.update(username=unquote(user))
    if parse_qs(parts.query).get("tls", ["0"])[0] in ("1", "yes", "true"):
        options.update(ssl=True)
    if parts.scheme == "redis+sentinel":
        make: Any = Sentinel  # untyped
        sentinel = make(_addresses(parts.netloc), socket_timeout=CONNECT_SECONDS)
        client: aioredis.Redis = sentinel.master_for(parts.path.strip("/"), **options)
        return client
    from redis.asyncio.cluster import ClusterNode

    nodes = [ClusterNode(host, port) for host, port in _addresses(parts.netloc)]
    return aioredis.RedisCluster(startup_nodes=nodes, **options)


class RedisLink:
    """Commands to Redis.  ``library``: the source of the functions that are called."""

    def __init__(self, url: str, library: str, log: Log) -> None:
        self._url = url
        self._library = library
        self._log = log
        self._client = make_client(url)
        self._spread = isinstance(self._client, aioredis.RedisCluster)
        self._connection: Any = None
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._flushing = False
        self._connecting: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, function: str, keys: list[str], args: list[Any]) -> Any:
        """FCALL.  Raises RegistryAway or StaleNode."""
        return await self.execute("FCALL", function, len(keys), *keys, *args)

    async def execute(self, *args: Any) -> Any:
        """One command.  Raises RegistryAway or StaleNode."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._execute(*args)
        except TimeoutError:
            self._lost("does not answer")
            raise RegistryAway("Redis does not answer") from None

    async def _execute(self, *args: Any) -> Any:
        for attempt in range(2):
            try:
                return await self._once(*args)
            except ResponseError as exc:
                text = str(exc)
                if text.startswith(STALE):
                    raise StaleNode("this epoch of this node is over") from None
                if isinstance(exc, NoScriptError) or "Function not found" in text:
                    if attempt == 0:
                        await self._load()
                        continue
                self._lost(text)
                raise RegistryAway(f"Redis: {text}") from exc
            except (RedisError, OSError, EOFError) as exc:
                self._lost(str(exc))
                raise RegistryAway(f"Redis: {exc}" if str(exc) else "Redis is away") from exc
        raise RegistryAway("Redis has lost its functions again")

    async def _once(self, *args: Any) -> Any:
        if self._spread:
            return await self._client.execute_command(*args)
        if self._connection is None:
            await self._connect()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._out.extend(self._connection.pack_command(*args))
        self._asked.append(future)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        """All that this wake-up asked for, in one piece."""
        self._flushing = False
        out, self._out = self._out, []
        if self._connection is None or not out:
            return
        writer = self._connection._writer
        if writer is None or writer.is_closing():
            self._lost("the connection has ended")
        else:
            writer.write(b"".join(out))

    async def _connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.ensure_future(self._connect_now())
        await asyncio.shield(self._connecting)

    async def _connect_now(self) -> None:
        assert isinstance(self._client, aioredis.Redis), "a cluster has its own connections"
        pool: Any = self._client.connection_pool
        connection = pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
        except TimeoutError:
            await closed(connection)
            raise RegistryAway("Redis cannot be reached") from None
        except BaseException:
            await closed(connection)
            raise
        self._connection = connection
        self._reader = asyncio.ensure_future(self._read(connection))

    async def _read(self, connection: Any) -> None:
        asked = self._asked
        try:
            while True:
                answer = await connection.read_response(disconnect_on_error=False)
                future = asked.popleft()
                if not future.done():
                    future.set_result(answer)
        except ResponseError as exc:
            future = asked.popleft()
            if not future.done():
                future.set_exception(exc)
            if self._connection is connection:
                self._reader = asyncio.ensure_future(self._read(connection))
        except (RedisError, OSError, EOFError) as exc:
            if self._connection is connection:
                self._lost(str(exc) or "the connection has ended")

    def _lost(self, reason: str) -> None:
        """Give the connection up; what was asked on it is answered by that."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        asked, self._asked = self._asked, deque()
        self._out.clear()
        for future in asked:
            if not future.done():
                future.set_exception(RegistryAway(f"Redis: {reason}"))
        closing = asyncio.ensure_future(closed(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _load(self) -> None:
        async with self._loading:
            if self._spread:
                assert isinstance(self._client, aioredis.RedisCluster)
                await self._client.function_load(self._library, replace=True)
            else:
                await self._once("FUNCTION", "LOAD", "REPLACE", self._library)

    @property
    def client(self) -> aioredis.Redis | aioredis.RedisCluster:
        """For what is not called by the thousand."""
        return self._client

    async def close(self) -> None:
        """Hang up."""
        self._lost("closed")
        await closed(self._client)


async def closed(thing: Any) -> None:
    """Close something of redis-py's, in whatever state it is."""
    close = getattr(thing, "aclose", None) or thing.disconnect
    with contextlib.suppress(Exception):
        await close()
