"""What every registry promises (target/cluster/registry.py): memory, and a real Redis."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.redis_registry import RedisRegistry
from target.cluster.registry import (
    ARRIVED,
    Event,
    Member,
    Notices,
    Registry,
    StaleNode,
    TaskEntry,
)


class Heard(Notices):
    """What one node was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._new = asyncio.Event()

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self._new.set()

    def granted(self, lun: str, sequence: int) -> None:
        self._tell("granted", lun, sequence)

    def happened(self, lun: str, event: Event) -> None:
        self._tell("happened", lun, event)

    def acknowledged(self, lun: str, node: str, number: int) -> None:
        self._tell("acknowledged", lun, node, number)

    def departed(self, lun: str, node: str) -> None:
        self._tell("departed", lun, node)

    def renewed(self) -> None:
        self._tell("renewed")

    async def until(self, *what: Any, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.told.count(what) < times:
                self._new.clear()
                await self._new.wait()


class World:
    """A registry as three nodes see it; the clock of memory's stands still but for ``sleep``."""

    def __init__(self, redis: str | None) -> None:
        self.heard = {name: Heard() for name in "abc"}
        self.lun = uuid.uuid4().hex
        self._now = 1000
        self._redis = redis
        memory = MemoryRegistry(lambda: self._now, lambda node, told: told(self.heard[node]))
        self.of: dict[str, Registry] = dict.fromkeys("abc", memory)
        if redis is not None:
            log = structlog.get_logger()
            self.of = {n: RedisRegistry(redis, n, self.heard[n], log) for n in "abc"}

    async def start(self) -> None:
        for registry in self.of.values():
            if isinstance(registry, RedisRegistry):
                await registry.start()

    async def close(self) -> None:
        for registry in self.of.values():
            if isinstance(registry, RedisRegistry):
                await registry.close()

    async def attach(self, *nodes: str) -> None:
        for node in nodes:
            assert (await self.of[node].attach(self.lun, node, 1)).behind == 0
            if self._redis is not None:
                # Of its own channel, and of the unit's: nothing is missed from now on.
                await self.heard[node].until("renewed", times=2)

    async def submit(
        self, node: str, *entries: TaskEntry, settled: tuple[int, ...] = ()
    ) -> list[int]:
        return await self.of[node].submit(self.lun, node, 1, settled, entries)

    async def run_out(self, milliseconds: int) -> None:
        """Let leases of so long be over."""
        if self._redis is None:
            self._now += milliseconds + 1
        else:
            await asyncio.sleep((milliseconds + 20) / 1000)


def write(sequence: int, start: int, end: int) -> TaskEntry:
    return TaskEntry(sequence, True, start, end, f"w{sequence}")


def read(sequence: int, start: int, end: int) -> TaskEntry:
    return TaskEntry(sequence, False, start, end, f"r{sequence}")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("redis") / "s"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "server is now ready to accept connections" in line.lower():
            break
    yield f"unix://{path}"
    process.terminate()
    process.stdout.close()
    process.wait()


@pytest.fixture(params=["memory", "redis"])
def play(request: pytest.FixtureRequest) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    def run(story: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            world = World(url)
            await world.start()
            try:
                await story(world)
            finally:
                await world.close()

        asyncio.run(main())

    return run


Play = Callable[[Callable[[World], Awaitable[None]]], None]


def test_a_write_waits_for_those_of_others_that_it_overlaps(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b", "c")
        assert await w.submit("a", write(1, 0, 8), write(2, 8, 16)) == []
        assert await w.submit("b", write(1, 7, 9), write(2, 16, 20), read(3, 0, 8)) == [1]
        assert await w.submit("c", write(1, 8, 9)) == [1]
        assert await w.of["b"].waiting(w.lun, "b", 1) == [1]
        await w.submit("a", settled=(1,))
        assert await w.of["b"].waiting(w.lun, "b", 1) == [1]
        await w.submit("a", settled=(2,))
        await w.heard["b"].until("granted", w.lun, 1)
        assert await w.of["c"].waiting(w.lun, "c", 1) == [1], "it is behind b's"
        await w.submit("b", settled=(1, 2, 3))
        await w.heard["c"].until("granted", w.lun, 1)

    play(story)


def test_own_entries_and_reads_hold_nobody_back(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        assert await w.submit("a", write(1, 0, 8), write(2, 0, 8), read(3, 20, 30)) == []
        assert await w.submit("b", write(1, 20, 30), read(2, 0, 8)) == []

    play(story)


def test_who_does_not_wait_any_more_holds_nobody_back(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b", "c")
        await w.submit("a", write(1, 0, 8))
        assert await w.submit("b", write(1, 0, 16)) == [1]
        assert await w.submit("c", write(1, 8, 16)) == [1]
        await w.submit("b", settled=(1,))
        await w.heard["c"].until("granted", w.lun, 1)
        await w.submit("a", settled=(1,))
        await w.submit("c", settled=(1,))
        assert ("granted", w.lun, 1) not in w.heard["b"].told

    play(story)


def test_the_same_again_changes_nothing(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8))
        assert await w.submit("b", write(1, 0, 8)) == [1]
        assert await w.submit("b", write(1, 0, 8)) == [1]
        assert await w.submit("a", write(1, 0, 8)) == [], "it came first"
        await w.submit("a", settled=(1,))
        await w.submit("a", settled=(1,))
        assert await w.submit("b", write(1, 0, 8)) == []

    play(story)


def test_a_fenced_node_holds_nobody_back_and_is_refused(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b", "c")
        await w.submit("a", write(1, 0, 8), read(2, 0, 8))
        assert await w.submit("b", write(1, 0, 8)) == [1]
        await w.of["c"].fence(w.lun, "c", 1, "a", 1)
        await w.heard["b"].until("granted", w.lun, 1)
        await w.heard["b"].until("departed", w.lun, "a")
        for call in (
            w.submit("a", write(3, 0, 8)),
            w.of["a"].attach(w.lun, "a", 1),
            w.of["a"].post(w.lun, "a", 1, b"x"),
            w.of["a"].acknowledge(w.lun, "a", 1, 1),
            w.of["a"].waiting(w.lun, "a", 1),
            w.of["a"].events(w.lun, "a", 1, 0),
            w.of["a"].replace(w.lun, "a", 1, "k", 0, b"x"),
            w.of["a"].fence(w.lun, "a", 1, "b", 1),
        ):
            with pytest.raises(StaleNode):
                await call
        assert (await w.of["a"].attach(w.lun, "a", 2)).behind == 0
        assert sorted(t.info for t in await w.of["b"].tasks(w.lun, 9)) == ["w1"]

    play(story)


def test_a_new_life_comes_behind_its_earlier_one(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8))
        assert (await w.of["a"].attach(w.lun, "a", 2)).behind == 1
        await w.of["a"].fence(w.lun, "a", 2, "a", 1)
        assert (await w.of["a"].attach(w.lun, "a", 2)).behind == 0
        assert await w.submit("b", write(1, 0, 8)) == []
        with pytest.raises(StaleNode):
            await w.submit("a", write(2, 0, 8))
        with pytest.raises(StaleNode):
            await w.of["a"].attach(w.lun, "a", 1)

    play(story)


def test_events_come_to_all_and_stay_until_all_have_done_them(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        number = await w.of["a"].post(w.lun, "a", 1, b"reset it")
        event = Event(number, "a", b"reset it")
        await w.heard["b"].until("happened", w.lun, event)
        assert await w.of["b"].events(w.lun, "b", 1, 0) == [event]
        await w.of["a"].acknowledge(w.lun, "a", 1, number)
        await w.heard["b"].until("acknowledged", w.lun, "a", number)
        assert await w.of["b"].events(w.lun, "b", 1, 0) == [event]
        assert await w.of["b"].attached(w.lun) == {"a": (1, number), "b": (1, number - 1)}
        await w.of["b"].acknowledge(w.lun, "b", 1, number)
        assert await w.of["b"].events(w.lun, "b", 1, 0) == []
        await w.attach("c")
        assert await w.of["c"].attached(w.lun) == dict.fromkeys("abc", (1, number))

    play(story)


def test_who_comes_hears_of_a_node_that_is_alone(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a")
        assert await w.of["a"].alone(w.lun, "a", 1, True)
        came = await w.of["b"].attach(w.lun, "b", 1)
        assert (came.alone, came.behind) == ("a", 0)
        await w.heard["a"].until("happened", w.lun, Event(came.event, "b", ARRIVED))
        assert not await w.of["b"].alone(w.lun, "b", 1, True), "there are two"
        assert (await w.of["c"].attach(w.lun, "c", 1)).alone == "a", "until it says that it is not"
        assert not await w.of["a"].alone(w.lun, "a", 1, False)
        assert (await w.of["b"].attach(w.lun, "b", 1)).alone == ""
        for node in "bc":
            await w.of[node].detach(w.lun, node, 1)
        assert await w.of["a"].alone(w.lun, "a", 1, True)
        await w.of["a"].fence(w.lun, "a", 2, "a", 1)
        assert (await w.of["b"].attach(w.lun, "b", 2)).alone == "", "it is over"

    play(story)


def test_who_begins_again_to_serve_has_done_the_events_up_to_then(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        number = await w.of["a"].post(w.lun, "a", 1, b"reset it")
        assert await w.of["b"].attach(w.lun, "b", 1) == (number, 0, ""), "the first answer was lost"
        await w.heard["a"].until("acknowledged", w.lun, "b", number)
        assert (await w.of["a"].attached(w.lun))["b"] == (1, number)

    play(story)


def test_documents_change_from_one_version_to_the_next(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        assert await w.of["a"].load(w.lun, "k") == (0, b"")
        assert await w.of["a"].replace(w.lun, "a", 1, "k", 0, b"one \0\xff")
        assert not await w.of["b"].replace(w.lun, "b", 1, "k", 0, b"two")
        assert await w.of["b"].load(w.lun, "k") == (1, b"one \0\xff")
        assert await w.of["b"].replace(w.lun, "b", 1, "k", 1, b"")
        assert await w.of["b"].load(w.lun, "k") == (2, b"")

    play(story)


def test_what_is_in_flight_is_listed(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8), read(2, 0, 8))
        await w.submit("b", write(1, 0, 8))
        tasks = await w.of["a"].tasks(w.lun, 9)
        assert sorted(
            (t.node, t.epoch, t.sequence, t.exclusive, t.blocked, t.info) for t in tasks
        ) == [
            ("a", 1, 1, True, False, "w1"),
            ("a", 1, 2, False, False, "r2"),
            ("b", 1, 1, True, True, "w1"),
        ]
        assert len(await w.of["a"].tasks(w.lun, 2)) == 2
        await w.of["a"].detach(w.lun, "a", 1)
        await w.heard["b"].until("granted", w.lun, 1)
        await w.heard["b"].until("departed", w.lun, "a")

    play(story)


def test_a_lease_is_renewed_until_it_is_over_and_claimed(play: Play) -> None:
    async def story(w: World) -> None:
        name = {n: f"{n}-{w.lun[:8]}" for n in "ab"}
        a, b = name["a"], name["b"]
        one, first = await w.of["a"].join(a, 0, 50, "{}")
        two, second = await w.of["b"].join(b, 7, 50, '{"x": "y z"}')
        assert (one, two) == (1, 8)
        assert second == first + 1
        await w.run_out(50)
        renewed = await w.of["b"].renew(b, two, 60_000, 0)
        assert renewed.whole
        assert a in renewed.due
        assert b not in renewed.due
        others = {m.node: m for m in renewed.changed}
        assert set(others) == {m.node for m in await w.of["b"].members()}
        assert others[b].left_ms > 0
        assert others[b].info == '{"x": "y z"}'
        assert others[a].left_ms <= 0
        # Late, but nobody was there; a renewal is no change.
        assert a not in (await w.of["a"].renew(a, one, 60_000, 0)).due
        assert (await w.of["b"].renew(b, two, 60_000, renewed.change))[:4] == (
            renewed.change,
            False,
            [],
            [],
        )
        assert not await w.of["b"].claim(b, two, others[a], 1000), "it has come back"
        await w.of["a"].renew(a, one, 1, 0)
        await w.run_out(1)
        assert await w.of["b"].claim(b, two, others[a], 60_000)
        with pytest.raises(StaleNode):
            await w.of["a"].renew(a, one, 60_000, 0)
        claimed = await w.of["b"].renew(b, two, 60_000, renewed.change)
        assert [(m.node, m.reaper) for m in claimed.changed] == [(a, b)]
        assert a not in claimed.due, "it is claimed"
        await w.of["b"].reaped(b, two, a, one)
        gone = await w.of["b"].renew(b, two, 60_000, claimed.change)
        assert (gone.whole, gone.changed, gone.gone) == (False, [], [a])
        assert a not in {m.node for m in await w.of["b"].members()}
        whole = await w.of["b"].renew(b, two, 60_000, gone.change + 1)
        assert whole.whole, "a Redis that has lost the last changes"
        assert whole.change == gone.change
        assert others[a].number == first
        assert await w.of["a"].join(a, 0, 50, "{}") == (2, first)
        await w.of["b"].leave(b, two)
        with pytest.raises(StaleNode):
            await w.of["b"].renew(b, two, 50, 0)

    play(story)


def test_a_claim_passes_on_when_its_holder_dies(play: Play) -> None:
    async def story(w: World) -> None:
        a, b, c = (f"{n}-{w.lun[:8]}" for n in "abc")
        epochs = {
            n: (await w.of["a"].join(n, 0, 1 if n == a else 60_000, "{}")).epoch for n in (a, b, c)
        }
        await w.run_out(1)
        victim = Member(a, epochs[a], 1, 0, "", "{}")
        assert await w.of["b"].claim(b, epochs[b], victim, 30)
        assert await w.of["b"].claim(b, epochs[b], victim, 30), "the answer was lost"
        assert not await w.of["c"].claim(c, epochs[c], victim, 30)
        await w.run_out(30)
        assert a in (await w.of["c"].renew(c, epochs[c], 60_000, 1)).due
        assert await w.of["c"].claim(c, epochs[c], victim, 60_000)
        await w.of["b"].reaped(b, epochs[b], a, epochs[a])
        assert a in {m.node for m in await w.of["c"].members()}, "not b's any more"
        await w.of["c"].reaped(c, epochs[c], a, epochs[a])
        assert a not in {m.node for m in await w.of["c"].members()}

    play(story)
