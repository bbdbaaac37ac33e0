"""The format of what is in Redis: who may join, and when it rises (docs/decisions/0031)."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis as redis_py
import structlog

from target.cluster.redis_registry import (
    KNOWN,
    MEMBERS,
    Formats,
    RedisRegistry,
    epochs_over,
    keys_of,
)
from target.cluster.registry import ARRIVED, Joined, RegistryAway, StaleNode, WrongFormat
from tests.support.registry_worlds import Heard, write

FORMATS: Final = "lunmesh:{lunmesh}:formats"
LEASE_MS: Final = 60_000
BEFORE: Final = Path(__file__).parents[1] / "fixtures" / "redis-format-0" / "functions.lua"
NEXT: Final = Formats(KNOWN.newest, KNOWN.newest + 1)
AFTER_NEXT: Final = Formats(KNOWN.newest + 1, KNOWN.newest + 2)


class Cluster:
    """Nodes of any version at one Redis."""

    def __init__(self, url: str, client: redis_py.Redis) -> None:
        self.url = url
        self.client = client
        self.heard = Heard()
        self._open: list[RedisRegistry] = []

    async def node(self, name: str, formats: Formats = KNOWN) -> RedisRegistry:
        registry = RedisRegistry(self.url, name, self.heard, structlog.get_logger(), formats)
        self._open.append(registry)
        await registry.start()
        return registry

    async def join(self, name: str, formats: Formats = KNOWN) -> Joined:
        return await (await self.node(name, formats)).join(name, 0, LEASE_MS, "{}")

    async def close(self) -> None:
        for registry in self._open:
            await registry.close()

    def format(self) -> int | None:
        found = self.client.hget(FORMATS, "format")
        return None if found is None else int(found)

    def everything(self) -> dict[Any, Any]:
        return {key: self.client.dump(key) for key in self.client.scan_iter()}


class Older:
    """A node of the version that wrote no format: its own functions, which a fixture has."""

    def __init__(self, client: redis_py.Redis, name: str) -> None:
        source = BEFORE.read_text("ascii")
        self._client = client
        self._prefix = source.split("name=")[1].split()[0]
        self._name = name
        self._epoch = 0
        self._call = 0
        client.function_load(source, replace=True)

    def _members(self, function: str, *args: Any) -> Any:
        return self._client.fcall(f"{self._prefix}_{function}", 7, *MEMBERS[:7], *args)

    def unit(self, function: str, lun: str, *args: Any) -> Any:
        self._call += 1
        head = (self._name, self._epoch, self._call, self._call - 1, 0)
        keys = keys_of(lun)
        plain = [int(arg) if isinstance(arg, bool) else arg for arg in args]
        return self._client.fcall(f"{self._prefix}_{function}", len(keys), *keys, *head, *plain)

    def join(self) -> list[int]:
        joined: list[int] = self._members("join", self._name, 0, LEASE_MS, "{}", 0)
        self._epoch = joined[0]
        return joined

    def leave(self) -> None:
        self._members("leave", self._name, self._epoch)


Play = Callable[[Callable[[Cluster], Awaitable[None]]], None]


@pytest.fixture
def play(redis_url: str) -> Iterator[Play]:
    with redis_py.Redis.from_url(redis_url) as client:
        client.flushall()

        def run(story: Callable[[Cluster], Awaitable[None]]) -> None:
            async def main() -> None:
                cluster = Cluster(redis_url, client)
                try:
                    await story(cluster)
                finally:
                    await cluster.close()

            asyncio.run(main())

        yield run
        client.flushall()


def test_the_first_node_writes_the_newest_that_it_knows(play: Play) -> None:
    async def story(c: Cluster) -> None:
        assert await c.join("a") == Joined(1, 1, KNOWN.newest)
        assert c.format() == KNOWN.newest
        c.client.flushall()
        newest = (await c.join("a", AFTER_NEXT)).format
        assert (newest, c.format()) == (AFTER_NEXT.newest, newest), "an empty one has no format"

    play(story)


def test_a_newer_format_is_refused_in_words_and_left_as_it_is(play: Play) -> None:
    async def story(c: Cluster) -> None:
        await c.join("a", NEXT)
        before = c.everything()
        newer, known = NEXT.newest, KNOWN.newest
        words = f"^Redis has format {newer}, this version knows {known} at most: update lunmesh"
        with pytest.raises(WrongFormat, match=words):
            await c.join("b")
        with pytest.raises(WrongFormat, match=words):
            await epochs_over(c.url, structlog.get_logger())
        assert c.everything() == before

    play(story)


def test_one_that_is_too_old_is_refused_in_words_and_left_as_it_is(play: Play) -> None:
    async def story(c: Cluster) -> None:
        await c.join("a")
        before = c.everything()
        words = f"^Redis has format {KNOWN.newest}, this version knows {AFTER_NEXT.oldest} at least"
        with pytest.raises(WrongFormat, match=words):
            await c.join("b", AFTER_NEXT)
        assert c.everything() == before

    play(story)


def test_it_rises_when_the_last_node_of_the_older_version_has_been_replaced(play: Play) -> None:
    async def story(c: Cluster) -> None:
        older = {name: await c.node(name) for name in "ab"}
        for name, registry in older.items():
            await registry.join(name, 0, LEASE_MS, "{}")
        await older["b"].leave("b", 1)
        assert (await c.join("b", NEXT)).format == KNOWN.newest, "a lives"
        assert (await older["a"].join("a", 0, LEASE_MS, "{}")).format == KNOWN.newest, (
            "the way back"
        )
        await older["a"].leave("a", 2)
        assert (await c.join("a", NEXT)).format == NEXT.newest
        with pytest.raises(WrongFormat, match="at most"):
            await older["a"].join("a", 0, LEASE_MS, "{}")
        assert (await c.join("c", AFTER_NEXT)).format == NEXT.newest, "the one after that may come"

    play(story)


def test_a_node_that_is_not_shut_out_yet_counts(play: Play) -> None:
    async def story(c: Cluster) -> None:
        dead = await c.node("dead")
        assert (await dead.join("dead", 0, 0, "{}")).format == KNOWN.newest
        a = await c.node("a", NEXT)
        assert (await a.join("a", 0, LEASE_MS, "{}")).format == KNOWN.newest
        renewed = await a.renew("a", 1, LEASE_MS, 0)
        assert renewed.due == ["dead"]
        victim = next(member for member in renewed.changed if member.node == "dead")
        assert await a.claim("a", 1, victim, LEASE_MS)
        assert (await c.join("b", NEXT)).format == KNOWN.newest, "its commands may still be there"
        await a.reaped("a", 1, "dead", 1)
        assert (await c.join("b", NEXT)).format == NEXT.newest

    play(story)


def test_what_had_no_format_is_taken_over_beside_nodes_of_that_version(play: Play) -> None:
    async def story(c: Cluster) -> None:
        lun = uuid.uuid4().hex
        old = Older(c.client, "old")
        assert old.join() == [1, 1]
        new = await c.node("new")
        assert await new.join("new", 0, LEASE_MS, "{}") == Joined(1, 2, 0)
        assert c.format() is None
        assert old.unit("attach", lun, ARRIVED) == [0, 0, b""]
        assert (await new.attach(lun, "new", 1)).behind == 0
        assert old.unit("submit", lun, 0, *write(1, 0, 8)) == []
        assert await new.submit(lun, "new", 1, (), [write(1, 4, 12)]) == [1]
        assert old.unit("submit", lun, 1, 1) == []
        await c.heard.until("granted", lun, 1)
        assert old.unit("submit", lun, 0, *write(2, 0, 8)) == [2], "each waits for the other"
        old.unit("detach", lun)
        await c.heard.until("departed", lun, "old", 0)  # it does not say which life
        old.leave()
        assert await c.join("old") == Joined(2, 1, KNOWN.newest), "with the number that it had"
        assert c.format() == KNOWN.newest
        assert await epochs_over(c.url, structlog.get_logger()) == {"old": 1}

    play(story)


def test_a_node_of_before_formats_comes_back_and_holds_the_next_format_up(play: Play) -> None:
    async def story(c: Cluster) -> None:
        await c.join("a")
        await c.join("b", NEXT)
        b = Older(c.client, "b")
        assert b.join() == [2, 2], "it does not ask, and what is there it understands"
        await (await c.node("a")).leave("a", 1)
        assert (await c.join("a", NEXT)).format == KNOWN.newest, "what b's last life knew is over"
        b.leave()
        assert (await c.join("b", NEXT)).format == NEXT.newest

    play(story)


def test_who_finds_another_redis_with_a_newer_format_ends_and_is_refused(play: Play) -> None:
    async def story(c: Cluster) -> None:
        a = await c.node("a")
        await a.join("a", 0, LEASE_MS, "{}")
        await a.renew("a", 1, LEASE_MS, 0)
        c.client.flushall()
        await c.join("b", NEXT)
        c.client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StaleNode):
            await _renew(a)
        with pytest.raises(WrongFormat, match=f"has format {NEXT.newest}"):
            await c.join("a")  # its next life

    play(story)


async def _renew(a: RedisRegistry) -> None:
    while True:
        with contextlib.suppress(RegistryAway):  # the connection was cut
            await a.renew("a", 1, LEASE_MS, 1)
            return
