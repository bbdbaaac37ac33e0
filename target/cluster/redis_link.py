"""The way to Redis: redis-py connects (addresses, TLS, passwords, Sentinel, Cluster), and what is
called in one wake-up leaves together.

A URL is one of ``redis://``, ``rediss://`` (TLS), ``unix://``; with ``redis+sentinel://HOST:PORT,
HOST:PORT/SERVICE`` the sentinels say who the primary is, with ``redis+cluster://HOST:PORT,…`` the
keys are spread over a Redis Cluster.  ``?tls=1`` is for the last two, sentinels as well;
``?ssl_ca_certs=FILE`` for all that have TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError, ResponseError

from target.cluster.registry import LateCall, RegistryAway, StaleNode, WrongFormat
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS

CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 3.0  # Redis that is silent for so long is away
RETRY_SECONDS: Final = 0.2
STALE: Final = "STALENODE"
LATE: Final = "LATECALL"
WRONG_FORMAT: Final = "WRONGFORMAT"
NOT_FOUND: Final = "Function not found"
# A Redis that is away, as redis-py says it.
AWAY: Final = (RedisError, OSError, EOFError, TimeoutError)
T = TypeVar("T")

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
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    tls: dict[str, Any] = {}
    if query.pop("tls", "0") in ("1", "yes", "true"):
        tls = {"ssl": True, **query}  # ssl_ca_certs and its like, as redis-py names them
    options.update(tls)
    if parts.scheme == "redis+sentinel":
        make: Any = Sentinel  # untyped
        asked = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}
        sentinel = make(_addresses(parts.netloc), sentinel_kwargs=asked | tls)
        client: aioredis.Redis = sentinel.master_for(parts.path.strip("/"), **options)
        return client
    from redis.asyncio.cluster import ClusterNode

    nodes = [ClusterNode(host, port) for host, port in _addresses(parts.netloc)]
    return aioredis.RedisCluster(startup_nodes=nodes, **options)


class _Wire(asyncio.Protocol):
    """Commands and answers on a connection that has been set up."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.gone = False
        self._transport = transport
        self._reader = hiredis.Reader(replyError=_error)
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._silent_since = 0.0  # while something is asked
        self._watch: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    def ask(self, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The answer, in time."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.gone:
            future.set_exception(EOFError("the connection has ended"))
            return future
        if not self._asked:
            self._silent_since = self._loop.time()
        self._asked.append(future)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(args))
        if self._watch is None:
            self._watch_later()
        return future

    def _flush(self) -> None:
        """All that this wake-up asked for, in one piece."""
        out, self._out = self._out, []
        if not self.gone and not self._transport.is_closing():  # connection_lost is to come
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _watch_later(self) -> None:
        self._watch = self._loop.call_at(self._silent_since + ANSWER_SECONDS, self._look)

    def _look(self) -> None:
        """Whether it has been silent for too long; there may have been answers since the timer."""
        self._watch = None
        if self._asked:
            if self._loop.time() >= self._silent_since + ANSWER_SECONDS:
                self.end("does not answer")
            else:
                self._watch_later()

    def data_received(self, data: bytes) -> None:
        reader, asked = self._reader, self._asked
        self._silent_since = self._loop.time()
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                future = asked.popleft()
                if future.done():
                    continue
                if isinstance(answer, ResponseError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as exc:
            self.end(f"talks nonsense: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) if exc is not None else "the connection has ended")

    def eof_received(self) -> bool:
        return False

    def end(self, reason: str) -> None:
        """No more: what was asked is answered by that."""
        if self.gone:
            return
        self.gone = True
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        while self._asked:
            future = self._asked.popleft()
            if not future.done():
                future.set_exception(EOFError(reason))


def _error(text: str) -> ResponseError:
    return ResponseError(text)


class RedisLink:
    """Commands to Redis.  ``library``: the source of the functions that are called.

    ``greeting()``: the first command on each connection, if any; nothing else is asked before it
    has been answered, and nothing at all where it is refused with ``StaleNode``.  Connections to a
    Redis Cluster have none.

    The connection is redis-py's, as it connects and authenticates; what is asked and answered on it
    goes past redis-py's streams, which cost more than all the rest.
    """

    def __init__(
        self,
        url: str,
        library: str,
        log: Log,
        greeting: Callable[[], tuple[Any, ...] | None] = lambda: None,
    ) -> None:
        self._url = url
        self._library = library
        self._greeting = greeting
        self._log = log
        self._client = make_client(url)
        self._spread = isinstance(self._client, aioredis.RedisCluster)
        self._wire: _Wire | None = None
        self._connection: Any = None
        self._connecting: asyncio.Task[_Wire] | None = None
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._stumbled: set[type[Exception]] = set()  # what has been said of redis-py
        # Calls that Redis has answered, by the time that they took, and that summed up.
        self.buckets = [0] * BUCKETS
        self.seconds = 0.0
        self.failures = 0  # calls that Redis did not answer, or with an error

    async def call(self, function: str, keys: list[str], args: list[Any]) -> Any:
        """FCALL.  Raises RegistryAway, LateCall, StaleNode or WrongFormat."""
        return await self.execute("FCALL", function, len(keys), *keys, *args)

    async def execute(self, *args: Any) -> Any:
        """One command.  Raises RegistryAway, StaleNode or WrongFormat."""
        for attempt in range(2):
            began = asyncio.get_running_loop().time()
            try:
                answer = await self._once(args)
                took = asyncio.get_running_loop().time() - began
                self.buckets[bisect_left(BOUNDS_SECONDS, took)] += 1
                self.seconds += took
                return answer
            except ResponseError as exc:
                text = str(exc)
                if text.startswith(STALE):
                    raise StaleNode("this epoch of this node is over") from None
                if text.startswith(LATE):
                    raise LateCall(text) from None
                if text.startswith(WRONG_FORMAT):
                    raise WrongFormat(text.partition(" ")[2]) from None
                if NOT_FOUND not in text or attempt:
                    raise self._away(text) from exc
            except AWAY as exc:
                raise self._away(str(exc)) from exc
            await self._load()
        raise AssertionError("the second attempt ends")

    def _away(self, reason: str) -> RegistryAway:
        self.failures += 1
        self._lost()
        return RegistryAway(f"Redis: {reason}" if reason else "Redis is away")

    async def from_redis_py(self, work: Awaitable[T]) -> T:
        """What redis-py does.  Raises one of AWAY, whatever it stumbles over.

        Where a connection ends at a bad moment, that may be uvloop's RuntimeError of a closed
        transport, or an AttributeError of redis-py's own.
        """
        try:
            return await work
        except AWAY:
            raise
        except Exception as exc:
            if type(exc) not in self._stumbled:
                self._stumbled.add(type(exc))
                self._log.warning("redis-py failed: taken as Redis away", reason=repr(exc))
            raise EOFError(f"redis-py: {exc!r}") from exc

    async def _once(self, args: tuple[Any, ...]) -> Any:
        if self._spread:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self.from_redis_py(self._client.execute_command(*args))
        wire = self._wire
        if wire is None or wire.gone:
            wire = await self._connected()
        return await wire.ask(args)

    async def _connected(self) -> _Wire:
        """One attempt, whoever asks for it."""
        if self._connecting is None or self._connecting.done():
            self._lost()
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Wire:
        pool: Any = self._client.connection_pool  # type: ignore[union-attr]  # not a cluster
        connection = pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.from_redis_py(connection.connect())
            transport = connection._writer.transport
            if transport.is_closing():
                raise EOFError("the connection has ended")
        except BaseException:
            await closed(connection)
            raise
        wire = _Wire(transport)
        try:
            await self._greet(wire)
        except BaseException:
            wire.end("not what it was")
            await closed(connection)
            raise
        self._connection = connection
        self._wire = wire
        return wire

    async def _greet(self, wire: _Wire) -> None:
        greeting = self._greeting()
        if greeting is None:
            return
        try:
            await wire.ask(greeting)
        except ResponseError as exc:
            if NOT_FOUND not in str(exc):
                raise
            await wire.ask(("FUNCTION", "LOAD", "REPLACE", self._library))
            await wire.ask(greeting)

    def _lost(self) -> None:
        """Give the connection up."""
        wire, self._wire = self._wire, None
        connection, self._connection = self._connection, None
        if wire is not None:
            wire.end("given up")
        if connection is not None:
            closing = asyncio.ensure_future(closed(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _load(self) -> None:
        async with self._loading:
            if self._spread:
                assert isinstance(self._client, aioredis.RedisCluster)
                load = self._client.function_load(self._library, replace=True)
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await self.from_redis_py(load)
                except AWAY as exc:
                    raise self._away(str(exc)) from exc
            else:
                await self.execute("FUNCTION", "LOAD", "REPLACE", self._library)

    @property
    def client(self) -> aioredis.Redis | aioredis.RedisCluster:
        """For what is not called by the thousand."""
        return self._client

    async def memory_bytes(self) -> int | None:
        """What Redis says that it takes, all primaries together; None: it does not tell us."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if isinstance(self._client, aioredis.RedisCluster):
                    nodes = self._client.get_primaries()
                    found = [
                        await self.from_redis_py(self._client.info("memory", target_nodes=[node]))
                        for node in nodes
                    ]
                else:
                    found = [await self.from_redis_py(self._client.info("memory"))]
        except AWAY:
            return None  # ACL users need no right to ask
        return sum(int(one["used_memory"]) for one in found)

    async def close(self) -> None:
        """Hang up."""
        self._lost()
        await closed(self._client)


async def closed(thing: Any) -> None:
    """Close something of redis-py's, in whatever state it is."""
    close = getattr(thing, "aclose", None) or thing.disconnect
    with contextlib.suppress(Exception):
        await close()
