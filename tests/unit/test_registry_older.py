"""Registries that come back with older data (target/cluster/registry.py, rule 5): both kinds."""

from __future__ import annotations

import pytest

from target.cluster.registry import (
    Event,
    StaleNode,
)
from tests.support.registry_worlds import Play, World, read, write


def test_what_a_node_did_and_the_registry_lacks_ends_its_life_there(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8))
        then = w.remember()
        await w.submit("a", settled=(1,))
        assert await w.submit("b", write(1, 0, 8)) == []
        w.go_back(then)
        for node in "ab":
            with pytest.raises(StaleNode):
                await w.submit(node, write(2, 0, 8))
        assert (await w.of["a"].attach(w.lun, "a", 2)).behind == 1

    play(story)


def test_an_event_that_a_node_heard_and_the_registry_lacks_ends_its_life_there(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        then = w.remember()
        number = await w.of["a"].post(w.lun, "a", 1, b"reset it")
        await w.heard["b"].until("happened", w.lun, Event(number, "a", b"reset it"))
        w.go_back(then)
        with pytest.raises(StaleNode):
            await w.of["b"].acknowledge(w.lun, "b", 1, number)
        assert await w.of["b"].attached(w.lun) == dict.fromkeys("ab", (1, number - 1))

    play(story)


def test_until_all_have_been_heard_writes_wait_and_events_have_no_number(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b", "c")
        w.go_back(w.remember())
        assert await w.submit("b", write(1, 0, 8), read(2, 0, 8)) == [1]
        for idle in "ac":
            await w.heard[idle].until("unheard", w.lun)
        assert ("unheard", w.lun) not in w.heard["b"].told
        assert await w.of["b"].post(w.lun, "b", 1, b"reset it") == 0
        assert await w.of["a"].waiting(w.lun, "a", 1) == []
        assert await w.of["b"].waiting(w.lun, "b", 1) == [1], "c has not been heard"
        await w.of["b"].fence(w.lun, "b", 1, "c", 1)
        await w.heard["b"].until("granted", w.lun, 1)
        assert await w.of["b"].post(w.lun, "b", 1, b"reset it") == 1
        assert await w.submit("a", write(1, 8, 16)) == []

    play(story)


def test_who_has_lost_something_does_not_let_the_others_go_on(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        then = w.remember()
        assert await w.submit("a", write(1, 0, 8)) == []
        w.go_back(then)
        assert await w.submit("b", write(1, 0, 8)) == [1], "a's runs, and is not here"
        with pytest.raises(StaleNode):
            await w.of["a"].waiting(w.lun, "a", 1)
        assert await w.of["b"].waiting(w.lun, "b", 1) == [1]
        await w.of["a"].fence(w.lun, "a", 2, "a", 1)
        await w.heard["b"].until("granted", w.lun, 1)

    play(story)


def test_older_data_in_the_same_process_are_noticed_as_well(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        then = w.remember()
        assert await w.submit("a", write(1, 0, 8)) == []
        assert await w.of["b"].waiting(w.lun, "b", 1) == []
        w.go_back(then, another_process=False)
        with pytest.raises(StaleNode):
            await w.of["b"].waiting(w.lun, "b", 1)
        with pytest.raises(StaleNode):
            await w.of["a"].waiting(w.lun, "a", 1)
        assert (await w.of["b"].attach(w.lun, "b", 2)).behind == 1
        await w.of["b"].fence(w.lun, "b", 2, "b", 1)
        assert (await w.of["b"].attach(w.lun, "b", 2)).behind == 0
        assert await w.of["b"].submit(w.lun, "b", 2, (), [write(1, 0, 8)]) == [1], "a is not fenced"

    play(story)


def test_a_renewal_that_the_registry_lacks_ends_that_life(play: Play) -> None:
    async def story(w: World) -> None:
        a = f"a-{w.lun[:8]}"
        epoch = (await w.of["a"].join(a, 0, 60_000, "{}")).epoch
        change = (await w.of["a"].renew(a, epoch, 60_000, 0)).change
        then = w.remember()
        w.go_back(then)
        await w.of["a"].renew(a, epoch, 60_000, change)
        w.go_back(then)
        with pytest.raises(StaleNode):
            await w.of["a"].renew(a, epoch, 60_000, change)
        assert (await w.of["a"].join(a, epoch, 60_000, "{}")).epoch == epoch + 1

    play(story)


def test_where_leases_were_longer_than_the_registry_knows_nobody_is_claimed(play: Play) -> None:
    async def story(w: World) -> None:
        a, b = (f"{n}-{w.lun[:8]}" for n in "ab")
        second = (await w.of["b"].join(b, 0, 60_000, "{}")).epoch
        await w.of["b"].renew(b, second, 60_000, 0)
        first = (await w.of["a"].join(a, 0, 30, "{}")).epoch
        then = w.remember()
        await w.run_out(30)
        assert a in (await w.of["b"].renew(b, second, 60_000, 0)).due
        w.go_back(then)
        another = (await w.of["c"].join(f"c-{w.lun[:8]}", 0, 60_000, "{}")).epoch
        seen = await w.of["c"].renew(f"c-{w.lun[:8]}", another, 60_000, 0)
        assert a not in seen.due
        victim = next(member for member in seen.changed if member.node == a)
        assert victim.epoch == first
        assert victim.left_ms > 30_000

    play(story)
