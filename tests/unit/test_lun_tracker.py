"""The gate of a unit that several nodes serve: the registry in memory, a played clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from target.cluster.lun import EXPIRY_SECONDS
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import ResetUnit
from tests.simulation.played_unit import Request
from tests.support.skipping_loop import run_skipping
from tests.support.tracked_nodes import CALL_SECONDS, LUN, Nodes


def write(block: int = 0) -> Request:
    return Request("write", block, 1, None, 0.0)


def swap() -> Request:
    """COMPARE AND WRITE, as all commands that read before they write."""
    return Request("swap", 0, 1, 0, 0.0)


def read() -> Request:
    return Request("read", 0, 0, None, 0.0)


def serve_while_a_worker_is_away(nodes: Nodes, name: str) -> asyncio.Event:
    """What is set when the worker is back, and can be told to refuse a life."""
    reached = asyncio.Event()

    async def fence(node: str, epoch: int) -> None:
        await reached.wait()

    nodes.serve(name, fence)
    return reached


def test_what_came_before_the_node_counted_does_not_run_behind_a_reset() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, _ = await nodes.join("one"), await nodes.join("other")
        held = nodes.holds["other"] = asyncio.Event()
        nodes.serve("one")
        enter = nodes.serve("other")
        await one.trackers[LUN].wait_open()
        early, late = write(), write()
        assert enter(early) == "waits"
        await asyncio.sleep(0.01)
        assert await one.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3)), (
            "nobody else serves it"
        )
        held.set()
        await asyncio.sleep(0.01)
        assert nodes.outcome("other", early) == "turned away"
        assert enter(late) == "waits"
        await asyncio.sleep(0.01)
        assert nodes.outcome("other", late) == "runs"
        await nodes.close()

    run_skipping(story())


def test_the_end_of_a_command_goes_with_the_next_one() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, _ = await nodes.join("one"), await nodes.join("other")
        enter = nodes.serve("one")
        nodes.serve("other")
        gate = one.trackers[LUN]
        await gate.wait_open()
        await asyncio.sleep(0.01)
        for _ in range(10):
            request = write()
            assert enter(request) == "waits"
            await asyncio.sleep(1.5 * CALL_SECONDS)
            assert nodes.outcome("one", request) == "runs"
            gate.left(cast(SCSIRequest, request))
            await asyncio.sleep(2 * CALL_SECONDS)  # another one comes within SETTLE_SECONDS
        assert nodes.calls["one"].count("submit") == 10
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == 11, "the last end has waited for another one"
        await nodes.close()

    run_skipping(story())


async def alone(nodes: Nodes, name: str) -> Callable[[Request], str]:
    """Serves the unit, and has found out that nobody else does."""
    node = await nodes.join(name)
    enter = nodes.serve(name)
    await node.trackers[LUN].wait_open()
    first = write()
    assert enter(first) == "waits"
    await asyncio.sleep(0.01)
    assert nodes.outcome(name, first) == "runs"
    node.trackers[LUN].left(cast(SCSIRequest, first))
    await asyncio.sleep(0.1)
    return enter


def test_a_node_alone_asks_nobody() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        before = nodes.calls["one"].count("submit")
        for _ in range(1000):
            request = write()
            assert enter(request) == "runs"
            gate.left(cast(SCSIRequest, request))
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == before
        slow = write()
        assert enter(slow) == "runs"
        await asyncio.sleep(0.1)
        assert nodes.calls["one"].count("submit") == before + 1, (
            "for whoever asks what is in flight"
        )
        await nodes.close()

    run_skipping(story())


def test_who_comes_waits_for_what_runs_on_a_node_that_was_alone() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        running = write()
        assert enter(running) == "runs"
        await nodes.join("other")
        enter_other = nodes.serve("other")
        second = write()
        assert enter_other(second) == "waits"
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", second) == "turned away", "it came before the node counted"
        third = write()
        assert enter_other(third) == "waits"
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", third) is None, "it overlaps what runs on the first node"
        gate.left(cast(SCSIRequest, running))
        await asyncio.sleep(0.05)
        assert nodes.outcome("other", third) == "runs"
        assert enter(write()) == "waits", "the first node is alone no more"
        await nodes.close()

    run_skipping(story())


def test_who_is_left_is_alone_again() -> None:
    async def story() -> None:
        nodes = Nodes()
        await alone(nodes, "one")
        other = await nodes.join("other")
        nodes.serve("other")
        await asyncio.sleep(0.1)
        await other.untrack(LUN)
        await asyncio.sleep(0.01)
        gate = nodes.units["one"].gate
        assert gate is not None
        for expected in ("waits", "runs"):
            request = write()
            assert gate.enter(cast(SCSIRequest, request)) == (expected == "runs")
            await asyncio.sleep(0.1)
            gate.left(cast(SCSIRequest, request))
        await nodes.close()

    run_skipping(story())


def test_who_comes_does_not_wait_for_what_has_just_ended() -> None:
    async def story() -> None:
        nodes = Nodes()
        enter = await alone(nodes, "one")
        gate = nodes.units["one"].gate
        assert gate is not None
        running = write()
        assert enter(running) == "runs"
        registering = asyncio.ensure_future(gate._register_all())
        await asyncio.sleep(0)
        gate.left(cast(SCSIRequest, running))
        async with asyncio.timeout(1):
            await registering
        await nodes.close()

    run_skipping(story())


def test_who_was_without_a_lease_looks_what_is_kept() -> None:
    """Another node may have kept something meanwhile, and not have come to tell it."""

    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        for name, node in (("one", one), ("other", other)):
            nodes.serve(name)
            await node.trackers[LUN].wait_open()
        await asyncio.sleep(30)
        assert not nodes.looks, "nothing has happened"
        nodes.away |= {"one", "other"}
        await asyncio.sleep(8)
        assert not one.leased
        nodes.away.clear()
        await asyncio.sleep(3)
        assert sorted(nodes.looks) == ["one", "other"]
        await nodes.close()

    run_skipping(story())


def test_a_worker_that_is_away_holds_up_what_is_on_it_alone() -> None:
    """A node has died with a write on a worker that is there, and one on another that is not."""

    async def story() -> None:
        nodes = Nodes()
        away = asyncio.Event()

        async def fence(node: str, epoch: int) -> None:
            await away.wait()

        def part(node: str, epoch: int, lba: int, blocks: int) -> bool:
            return (node, epoch, lba) == ("other", 1, 0)

        one = await nodes.join("one")
        other = await nodes.join("other")
        enter = nodes.serve("one", fence, part)
        enter_other = nodes.serve("other")
        await one.trackers[LUN].wait_open()
        await other.trackers[LUN].wait_open()
        await asyncio.sleep(0.01)
        for block in (0, 1):
            assert enter_other(write(block)) == "waits"
        await asyncio.sleep(0.01)
        await nodes.kill("other")
        await asyncio.sleep(3.0)
        there, not_there = write(0), write(1)
        for request in (there, not_there):
            assert enter(request) == "waits"
        await asyncio.sleep(6.0)
        assert nodes.outcome("one", there) == "runs"
        assert nodes.outcome("one", not_there) == "turned away"
        again = write(1)
        assert enter(again) == "waits"
        away.set()
        await asyncio.sleep(2.0)
        assert nodes.outcome("one", again) == "runs"
        await nodes.close()

    run_skipping(story())


@pytest.mark.parametrize("first", [write, swap])
@pytest.mark.parametrize("second", [write, swap])
def test_what_changes_blocks_is_never_beside_another_such_command(
    first: Callable[[], Request], second: Callable[[], Request]
) -> None:
    """Not even where a worker would do each of them at once: some are more than one I/O."""

    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        enter, enter_other = nodes.serve("one"), nodes.serve("other")
        await one.trackers[LUN].wait_open()
        await other.trackers[LUN].wait_open()
        await asyncio.sleep(0.01)
        running, waiting, reading = first(), second(), read()
        assert enter(running) == "waits", "for the registry"
        await asyncio.sleep(0.01)
        assert nodes.outcome("one", running) == "runs"
        assert enter_other(waiting) == "waits"
        assert enter_other(reading) == "runs", "a read waits for nobody"
        await asyncio.sleep(1.0)
        assert nodes.outcome("other", waiting) is None
        one.trackers[LUN].left(cast(SCSIRequest, running))
        await asyncio.sleep(0.01)
        assert nodes.outcome("other", waiting) == "runs"
        await nodes.close()

    run_skipping(story())


def test_what_waits_for_a_registry_that_is_away_is_turned_away_in_time() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        enter = nodes.serve("one")
        nodes.serve("other")
        await one.trackers[LUN].wait_open()
        await other.trackers[LUN].wait_open()
        await asyncio.sleep(0.01)
        nodes.away |= {"one", "other"}
        early = write()
        assert enter(early) == "waits"
        await asyncio.sleep(one.lease_seconds)
        late = read()
        assert enter(late) == "waits", "there is no lease"
        await asyncio.sleep(one.wait_seconds - one.lease_seconds + EXPIRY_SECONDS)
        assert nodes.outcome("one", early) == "turned away"
        await asyncio.sleep(one.wait_seconds)
        assert nodes.outcome("one", late) == "turned away"
        nodes.away.clear()
        await asyncio.sleep(one.lease_seconds)
        again = write()
        assert enter(again) == "waits"
        await asyncio.sleep(0.01)
        assert nodes.outcome("one", again) == "runs", "it goes on by itself"
        await nodes.close()

    run_skipping(story())


def test_who_is_about_to_serve_is_heard_by_a_registry_that_comes_back() -> None:
    """Or nobody would write until it serves, which may take as long as what it loads."""

    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        enter = nodes.serve("one")
        await one.trackers[LUN].wait_open()

        async def never() -> None:
            await asyncio.get_running_loop().create_future()

        nodes.serve("other", load=never)
        await asyncio.sleep(0.01)
        nodes.registry.restore(nodes.registry.snapshot())
        for node in (one, other):
            node.renewed()
        await asyncio.sleep(0.01)
        request = write()
        assert enter(request) == "waits"
        await asyncio.sleep(0.01)
        assert nodes.outcome("one", request) == "runs"
        assert not other.trackers[LUN].opened
        await nodes.close()

    run_skipping(story())


def test_nobody_waits_for_who_cannot_serve_while_a_worker_is_away() -> None:
    """It has lives of before to shut out there, its own last one among them."""

    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        other.suspects = {"other": 1}
        enter = nodes.serve("one")
        await one.trackers[LUN].wait_open()
        reached = serve_while_a_worker_is_away(nodes, "other")
        await asyncio.sleep(0.01)
        request = write()
        assert enter(request) == "waits"
        reset = asyncio.ensure_future(one.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3)))
        await asyncio.sleep(0.1)
        assert nodes.outcome("one", request) == "runs"
        assert reset.done()
        assert await reset
        assert not other.trackers[LUN].opened
        reached.set()
        await other.trackers[LUN].wait_open()
        await nodes.close()

    run_skipping(story())


def test_who_has_nothing_to_do_is_heard_by_a_registry_whose_connections_have_lasted() -> None:
    """Its functions were loaded anew, or a shard of a Redis Cluster has restarted."""

    async def story() -> None:
        nodes = Nodes()
        for name in ("one", "idle"):
            await nodes.join(name)
        enter = nodes.serve("one")
        nodes.serve("idle")
        for unit in nodes.units.values():
            assert unit.gate is not None
            await unit.gate.wait_open()
        nodes.registry.restore(nodes.registry.snapshot())
        request = write()
        assert enter(request) == "waits"
        await asyncio.sleep(0.01)
        assert nodes.outcome("one", request) == "runs"
        await nodes.close()

    run_skipping(story())


def test_an_event_that_is_not_understood_is_never_said_to_be_done() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        nodes.serve("one")
        nodes.serve("other")
        await one.trackers[LUN].wait_open()
        await other.trackers[LUN].wait_open()
        await asyncio.sleep(0.01)
        later = b'{"type":"of a later version"}'
        number = await nodes.registry.post(LUN, "one", one.epoch, later)
        await asyncio.sleep(0.01)
        assert other.over
        assert (await nodes.registry.attached(LUN))["other"].acknowledged == number - 1
        await nodes.close()

    run_skipping(story())


@pytest.mark.parametrize("told", ["life", "older version"])
def test_what_is_said_of_a_life_that_has_gone_is_not_of_the_next_one(told: str) -> None:
    """By who shuts it out when others have, and by a notice that comes late."""

    async def story() -> None:
        nodes = Nodes()
        slow, quick = await nodes.join("slow"), await nodes.join("quick")
        first = await nodes.join("back")
        reached = serve_while_a_worker_is_away(nodes, "slow")
        for name in ("quick", "back"):
            nodes.serve(name)
        for node in (slow, quick, first):
            await node.trackers[LUN].wait_open()
        await nodes.kill("back")
        slow.trackers[LUN].shut_out("back", first.epoch)
        await quick.trackers[LUN].fence("back", first.epoch)
        assert ("quick", "back", True) in nodes.gone

        second = await nodes.join("back")
        nodes.serve("back")
        await second.trackers[LUN].wait_open()
        over: list[Callable[[], None]] = []
        nodes.units["back"].happened = lambda event, done: over.append(done)  # type: ignore[method-assign]
        reset = asyncio.ensure_future(slow.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3)))
        await asyncio.sleep(0.1)
        nodes.gone.clear()
        reached.set()
        await asyncio.sleep(0.1)
        assert nodes.gone == [("slow", "back", False)], "what its port has is its own"
        assert not reset.done(), "a node that serves the unit has not done it"
        slow.departed(LUN, "back", first.epoch if told == "life" else 0)
        await asyncio.sleep(0.1)
        assert not reset.done(), "a node that serves the unit has not done it"
        over[0]()
        assert await reset
        await nodes.close()

    run_skipping(story())


@pytest.mark.parametrize("part", [True, False])
def test_who_waits_for_a_worker_and_shuts_another_node_out_goes_on_living(part: bool) -> None:
    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        other.suspects = {"other": 1, "ghost": 1}
        enter = nodes.serve("one")
        await one.trackers[LUN].wait_open()
        await asyncio.sleep(0.01)
        reached = asyncio.Event()

        async def fence(node: str, epoch: int) -> None:
            await reached.wait()
            await asyncio.sleep(0.1)

        nodes.serve("other", fence, fenced_part=lambda *_: part)
        await asyncio.sleep(0.01)
        request = write()
        enter(request)
        await asyncio.sleep(1.0)
        assert nodes.outcome("one", request) == "runs"
        await nodes.kill("one")
        await asyncio.sleep(40)
        assert other.shut_out == 1, "it has begun to"
        assert not other.over, "its life was ended while the worker is away"
        reached.set()
        await asyncio.sleep(20)
        assert not other.over, "its life was ended when the worker came back"
        assert other.trackers[LUN].opened
        assert "one" not in await nodes.registry.attached(LUN)
        await nodes.close()

    run_skipping(story())


def test_a_reset_through_who_does_not_count_yet_does_not_end_that_node() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, other = await nodes.join("one"), await nodes.join("other")
        other.suspects = {"other": 1}
        nodes.serve("one")
        await one.trackers[LUN].wait_open()
        reached = serve_while_a_worker_is_away(nodes, "other")
        await asyncio.sleep(0.01)
        assert not await other.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3))
        assert not other.over
        told = asyncio.ensure_future(other.trackers[LUN].announce(ResetUnit(asc=0x29, ascq=3)))
        await asyncio.sleep(0.1)
        reached.set()
        assert await told
        await nodes.close()

    run_skipping(story())
