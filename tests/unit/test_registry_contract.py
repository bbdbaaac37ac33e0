"""What every registry promises (target/cluster/registry.py): memory, and a real Redis."""

from __future__ import annotations

import pytest
import redis as redis_py

from target.cluster.redis_registry import (
    KNOWN,
    MEMBERS,
    NAME,
    SOURCE,
    RedisRegistry,
    document_key,
    keys_of,
)
from target.cluster.registry import (
    ARRIVED,
    Event,
    Member,
    RegistryAway,
    StaleNode,
)
from tests.support.proving import Proving
from tests.support.registry_worlds import AskedAgain, Play, World, read, write


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


def test_what_was_given_up_is_not_done_behind_what_was_asked_since(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        a = w.of["a"]
        given_up = w.give_up("a")
        assert await w.submit("a", write(1, 0, 8)) == []
        await w.submit("a", settled=(1,))
        number = await w.of["b"].post(w.lun, "b", 1, b"reset it")
        await a.acknowledge(w.lun, "a", 1, number)
        for late in (
            lambda: w.submit("a", write(1, 0, 8)),
            lambda: a.acknowledge(w.lun, "a", 1, number - 1),
            lambda: a.attach(w.lun, "a", 1),
            lambda: a.alone(w.lun, "a", 1, False),
            lambda: a.fence(w.lun, "a", 1, "b", 1),
            lambda: a.replace(w.lun, "a", 1, "settings", 0, b"{}"),
            lambda: a.detach(w.lun, "a", 1),
        ):
            with w.late("a", given_up), pytest.raises(AskedAgain):
                await late()
        assert (await w.of["b"].sizes(w.lun)).writes == 0
        assert await w.submit("b", write(1, 0, 8)) == []
        found = await w.of["b"].attached(w.lun)
        assert found == {"a": (1, number), "b": (1, number - 1)}

    play(story)


def test_what_another_call_has_overtaken_is_asked_as_a_new_one(play: Play) -> None:
    """On connections of their own, as to a Redis Cluster, calls of one unit go side by side."""

    async def story(w: World) -> None:
        await w.attach("a", "b")
        overtaken = w.give_up("a")
        await w.submit("a", read(1, 0, 8))
        with w.late("a", overtaken, w.give_up("a")):
            assert await w.submit("a", write(2, 0, 8)) == []
        assert await w.submit("b", write(1, 0, 8)) == [1]

    play(story)


def test_a_call_of_before_the_node_served_the_unit_anew_is_late_as_well(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a")
        given_up = w.give_up("a")
        await w.of["a"].detach(w.lun, "a", 1)
        assert (await w.of["a"].attach(w.lun, "a", 1)).behind == 0
        with w.late("a", given_up), pytest.raises(AskedAgain):
            await w.of["a"].detach(w.lun, "a", 1)
        assert await w.submit("a", write(1, 0, 8)) == []

    play(story)


def test_a_fenced_node_holds_nobody_back_and_is_refused(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b", "c")
        await w.submit("a", write(1, 0, 8), read(2, 0, 8))
        assert await w.submit("b", write(1, 0, 8)) == [1]
        await w.of["c"].fence(w.lun, "c", 1, "a", 1)
        await w.heard["b"].until("granted", w.lun, 1)
        await w.heard["b"].until("departed", w.lun, "a", 1)
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
        assert [t.info for t in await w.tasks("b")] == ["w1"]

    play(story)


def test_some_commands_of_another_node_are_settled_for_it(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8), write(2, 8, 16), read(3, 0, 8))
        assert await w.submit("b", write(1, 0, 8), write(2, 8, 16)) == [1, 2]
        assert sorted(await w.of["b"].writes_of(w.lun, "a", 1)) == [(1, 0, 8), (2, 8, 16)]
        for _ in range(2):
            await w.of["b"].settle(w.lun, "b", 1, "a", 1, [1])
        await w.heard["b"].until("granted", w.lun, 1)
        assert await w.of["b"].waiting(w.lun, "b", 1) == [2]
        assert await w.submit("a", write(4, 0, 8)) == [4], "behind b's, and a still counts"
        await w.submit("a", settled=(1, 2, 3, 4))
        await w.heard["b"].until("granted", w.lun, 2)
        await w.submit("b", settled=(1, 2))
        assert await w.submit("b", write(3, 0, 99)) == []

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
        await w.heard["a"].until("acknowledged", w.lun, "a", number)
        assert await w.of["b"].events(w.lun, "b", 1, 0) == [event]
        assert await w.of["b"].attached(w.lun) == {"a": (1, number), "b": (1, number - 1)}
        await w.of["b"].acknowledge(w.lun, "b", 1, number)
        await w.heard["a"].until("acknowledged", w.lun, "b", number)
        assert not [told for told in w.heard["b"].told if told[0] == "acknowledged"], "not b's"
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
        assert not await w.of["b"].replace(w.lun, "b", 1, "k", 1, b"back", 9)
        assert await w.of["b"].replace(w.lun, "b", 1, "k", 2, b"back", 9)
        assert await w.of["a"].load(w.lun, "k") == (9, b"back")

    play(story)


def test_what_is_in_flight_is_listed(play: Play) -> None:
    async def story(w: World) -> None:
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8), read(2, 0, 8))
        await w.submit("b", write(1, 0, 8))
        tasks = await w.tasks("a")
        assert sorted(
            (t.node, t.epoch, t.sequence, t.exclusive, t.blocked, t.info) for t in tasks
        ) == [
            ("a", 1, 1, True, False, "w1"),
            ("a", 1, 2, False, False, "r2"),
            ("b", 1, 1, True, True, "w1"),
        ]
        await w.of["a"].detach(w.lun, "a", 1)
        await w.heard["b"].until("granted", w.lun, 1)
        await w.heard["b"].until("departed", w.lun, "a", 1)

    play(story)


def test_many_in_flight_are_listed_in_pages(play: Play) -> None:
    """Redis is not held up by one answer of them all, nor is whoever asks."""

    async def story(w: World) -> None:
        await w.attach("a", "b")
        for begin in range(0, 1200, 300):
            numbers = range(begin, begin + 300)
            await w.submit("a", *(write(n, 8 * n, 8 * n + 8) for n in numbers))
        await w.submit("b", write(1, 0, 8))
        tasks = await w.tasks("b")
        assert len(tasks) == 1201
        assert [(t.node, t.sequence) for t in tasks if t.blocked] == [("b", 1)]
        if isinstance(w.of["b"], RedisRegistry):
            pages = [len(page) async for page in w.of["b"].tasks(w.lun)]
            assert max(pages) < 400

    play(story)


def test_a_lease_is_renewed_until_it_is_over_and_claimed(play: Play) -> None:
    async def story(w: World) -> None:
        name = {n: f"{n}-{w.lun[:8]}" for n in "ab"}
        a, b = name["a"], name["b"]
        one, first, _ = await w.of["a"].join(a, 0, 50, "{}")
        two, second, _ = await w.of["b"].join(b, 7, 50, '{"x": "y z"}')
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
        with pytest.raises(StaleNode):  # a Redis that has lost the last changes
            await w.of["b"].renew(b, two, 60_000, gone.change + 1)
        whole = await w.of["b"].renew(b, two, 60_000, 0)
        assert whole.whole
        assert whole.change == gone.change
        assert others[a].number == first
        assert (await w.of["a"].join(a, 0, 50, "{}", 77))[:2] == (2, first)
        numbers = await w.of["b"].numbers()
        assert (numbers[a], numbers[b]) == (first, second), "gone ones as well"
        await w.of["b"].leave(b, two)
        with pytest.raises(StaleNode):
            await w.of["b"].renew(b, two, 50, 0)

    play(story)


async def _one_of_two_is_over(w: World) -> tuple[str, str, int]:
    """Two members, the epoch of the second one; all of the lease of the first one has passed."""
    a, b = (f"{n}-{w.lun[:8]}" for n in "ab")
    one = (await w.of["a"].join(a, 0, 50, "{}")).epoch
    two = (await w.of["b"].join(b, 0, 60_000, "{}")).epoch
    await w.of["a"].renew(a, one, 50, 0)
    await w.run_out(50)
    return a, b, two


def test_nobody_is_claimed_because_the_clock_of_the_registry_was_put_forward(play: Play) -> None:
    """To it, that is a time in which nobody has renewed a lease: perhaps nobody could."""

    async def story(w: World) -> None:
        a, b, two = await _one_of_two_is_over(w)
        seen = await w.of["b"].renew(b, two, 50, 0)
        assert a not in seen.due
        victim = next(member for member in seen.changed if member.node == a)
        assert victim.left_ms > 0
        await w.run_out(50)
        assert await w.of["b"].claim(b, two, victim, 60_000), "it has not come back since"

    play(story)


def test_who_renews_rarely_keeps_no_dead_node_among_the_living(play: Play) -> None:
    """The lease of one that does not renew it is made whole again once."""

    async def story(w: World) -> None:
        a, b, two = await _one_of_two_is_over(w)
        assert a not in (await w.of["b"].renew(b, two, 50, 0)).due
        await w.run_out(50)
        assert a in (await w.of["b"].renew(b, two, 50, 0)).due

    play(story)


def test_a_node_that_the_registry_has_forgotten_keeps_its_number(play: Play) -> None:
    async def story(w: World) -> None:
        a, b, c = (f"{n}-{w.lun[:8]}" for n in "abc")
        last = max((await w.of["a"].numbers()).values(), default=0)
        assert (await w.of["a"].join(a, 0, 50, "{}", last + 3)).number == last + 3
        assert (await w.of["b"].join(b, 0, 50, "{}", last + 3)).number == last + 4, "it is taken"
        assert (await w.of["c"].join(c, 0, 50, "{}")).number == last + 5

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


# --- bounds ---------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_unit_that_is_dropped(play: Play) -> None:
    async def story(w: World) -> None:
        before = w.remember()
        await w.attach("a", "b")
        await w.submit("a", write(1, 0, 8), read(2, 0, 8))
        await w.submit("b", write(1, 0, 8))
        await w.of["a"].post(w.lun, "a", 1, b"reset it")
        assert await w.of["a"].sizes(w.lun) == (2, 1, 1, 1)
        assert await w.of["a"].replace(w.lun, "a", 1, "settings", 0, b"x")
        await w.of["a"].fence(w.lun, "a", 1, "b", 1)
        await w.of["a"].drop_unit(w.lun)
        assert await w.of["a"].attached(w.lun) == {}
        assert await w.of["a"].sizes(w.lun) == (0, 0, 0, 0)
        assert await w.of["a"].load(w.lun, "settings") == (0, b"")
        with pytest.raises(StaleNode):
            await w.submit("a", write(3, 0, 8))
        await w.of["a"].drop_unit(w.lun)
        if isinstance(before, dict) and not isinstance(w.of["a"], Proving):
            kept = {*keys_of(w.lun), document_key(w.lun, "settings")}
            assert not {key.decode() for key in w.remember()} & kept

    play(story)


def test_numbers_of_nodes_are_not_given_out_beyond_what_a_port_may_have(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("target.cluster.memory_registry.NUMBER_MAX", 3)

    async def story(w: World) -> None:
        if w.redis_url is not None:
            with redis_py.Redis.from_url(w.redis_url) as client:
                client.hset(MEMBERS[3], mapping={f"n{n}": n + 1 for n in range(65_535)})
        else:
            for number in range(3):
                await w.of["a"].join(f"n{number}", 0, 60_000, "{}")
        assert (await w.of["a"].join("n1", 0, 60_000, "{}")).number == 2
        with pytest.raises(RegistryAway, match="there have been"):
            await w.of["a"].join("one too many", 0, 60_000, "{}")
        if w.redis_url is not None:
            with redis_py.Redis.from_url(w.redis_url) as client:
                client.flushall()
        assert "one too many" not in {member.node for member in await w.of["a"].members()}

    play(story)


def test_libraries_of_two_versions_stand_side_by_side(redis_url: str) -> None:
    """Another source has another name, so a newer node never runs what an older one has loaded."""
    older = "lunmesh_0123456789ab"
    with redis_py.Redis.from_url(redis_url) as client:
        client.function_load(SOURCE.replace(NAME, older), replace=True)
        client.function_load(SOURCE, replace=True)
        for name in (NAME, older):
            joined = client.fcall(
                f"{name}_join", len(MEMBERS), *MEMBERS, name, 0, 60_000, "{}", 0, *KNOWN
            )
            assert joined[0] == 1
            assert client.fcall(f"{name}_renew", len(MEMBERS), *MEMBERS, name, 1, 0, 0, 1, 60_000)
