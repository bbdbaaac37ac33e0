"""What each node has of the reservations that nodes keep together, and what a registry that has
forgotten them gets back.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
import structlog
from msgspec.structs import replace

from target import reservation_file, shared_reservations
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.reservation_file import ReservationCopy
from target.scsi.documents import Kept
from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import (
    EMPTY,
    Registration,
    ReservationState,
    decode_state,
    encode_state,
)
from target.shared_reservations import KEY, SharedReservations
from tests.support.skipping_loop import run_skipping
from workers.executor import BlockingExecutor

LUN = "disk"


class Inline(BlockingExecutor):
    """Does it on the spot."""

    def __init__(self) -> None:
        return

    def run(self, work: object, done: object) -> None:
        assert callable(work)
        assert callable(done)
        work()
        done()


class FakeNode:
    """A node that has a lease always."""

    def __init__(self, name: str, registry: MemoryRegistry) -> None:
        self.id, self.epoch, self.registry = name, 1, registry


class Nodes:
    """Nodes of one registry, each with a data directory."""

    def __init__(self, folder: Path) -> None:
        self.registry = MemoryRegistry(lambda: 0, lambda node, told: None)
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    async def start(self, name: str) -> tuple[SharedReservations, Kept]:
        """A life of a node, and what it finds."""
        await self.registry.attach(LUN, name, 1)
        node = cast(ClusterNode, FakeNode(name, self.registry))
        copy = ReservationCopy(self.path(name), Inline())
        shared = SharedReservations(node, LUN, copy, structlog.get_logger())
        return shared, await shared.recover()


async def change(version: int, state: ReservationState, *nodes: SharedReservations) -> None:
    """Keep a version, and have it in force on ``nodes``."""
    assert await nodes[0].put(version - 1, encode_state(state))
    for node in nodes:
        kept = asyncio.Event()
        node.in_force(Kept(version, encode_state(state)), kept.set)
        await kept.wait()


def registered(*keys: int, aptpl: bool = True) -> ReservationState:
    name = NexusName("iqn.test:a", b"\x80\0\0\0\0\1", 1)
    registrations = tuple(Registration(replace(name, port=key), key) for key in keys)
    return ReservationState(aptpl=aptpl, registrations=registrations)


def keys(kept: Kept) -> list[int]:
    return [it.key for it in decode_state(kept.document).registrations]


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def test_a_registry_that_has_forgotten_gets_back_what_is_to_last(nodes: Nodes) -> None:
    async def story() -> None:
        one, _ = await nodes.start("one")
        await change(1, registered(1), one)
        nodes.registry.forget_all()
        _, kept = await nodes.start("one")
        assert (kept.version, keys(kept)) == (1, [1])
        assert await nodes.registry.load(LUN, KEY) == kept

    run_skipping(story())


def test_what_was_not_to_last_does_not_come_back(nodes: Nodes) -> None:
    """Nor by a node that was away when that was said."""

    async def story() -> None:
        (one, _), (away, _) = await nodes.start("one"), await nodes.start("away")
        await change(1, registered(1), one, away)
        await change(2, registered(1, 2, aptpl=False), one)
        nodes.registry.forget_all()
        for name in ("one", "away"):
            _, kept = await nodes.start(name)
            assert (kept.version, keys(kept)) == (2, [])

    run_skipping(story())


def test_who_joins_when_nothing_lasts_any_more_knows_that(nodes: Nodes) -> None:
    async def story() -> None:
        one, _ = await nodes.start("one")
        await change(1, registered(1), one)
        nodes.path("away").write_bytes(nodes.path("one").read_bytes())
        await change(2, EMPTY, one)
        await nodes.start("late")
        nodes.registry.forget_all()
        for name in ("late", "away"):
            _, kept = await nodes.start(name)
            assert (kept.version, keys(kept)) == (2, [])

    run_skipping(story())


@pytest.mark.parametrize("changed", [False, True])
def test_the_newest_version_wins_unless_initiators_have_gone_on(
    nodes: Nodes, changed: bool
) -> None:
    """A node that was away comes back first, with what it knew."""

    async def story() -> None:
        (one, _), (away, _) = await nodes.start("one"), await nodes.start("away")
        await change(1, registered(1), one, away)
        await change(2, registered(1, 2), one)
        await change(3, registered(1, 2, 3), one)
        nodes.registry.forget_all()
        away, kept = await nodes.start("away")
        assert (kept.version, keys(kept)) == (1, [1])
        if changed:
            state = decode_state(kept.document)
            await change(2, replace(state, registrations=registered(9).registrations), away)
        _, kept = await nodes.start("one")
        assert (kept.version, keys(kept)) == ((2, [9]) if changed else (3, [1, 2, 3]))

    run_skipping(story())


def test_a_registry_that_has_lost_its_last_changes(nodes: Nodes) -> None:
    async def story() -> None:
        one, _ = await nodes.start("one")
        await change(1, registered(1), one)
        await change(2, registered(1, 2), one)
        nodes.registry.forget_all()
        await nodes.registry.attach(LUN, "one", 1)
        assert await one.put(0, encode_state(registered(1)))
        _, kept = await nodes.start("one")
        assert (kept.version, keys(kept)) == (2, [1, 2])

    run_skipping(story())


def test_what_does_not_change_what_lasts_is_not_written(nodes: Nodes) -> None:
    async def story() -> None:
        one, _ = await nodes.start("one")
        await change(1, registered(1), one)
        before = nodes.path("one").stat().st_ino
        await change(2, replace(registered(1), generation=7), one)
        assert nodes.path("one").stat().st_ino == before

    run_skipping(story())


def test_a_change_that_cannot_be_written_is_not_done(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        one, _ = await nodes.start("one")
        done: list[str] = []
        with monkeypatch.context() as patch:

            def full(path: Path, file: object) -> None:
                raise OSError(28, "on purpose")

            patch.setattr(reservation_file, "_write", full)
            one.in_force(Kept(1, encode_state(registered(1))), lambda: done.append("done"))
            await asyncio.sleep(3 * shared_reservations.RETRY_SECONDS)
            assert not done
        await asyncio.sleep(2 * shared_reservations.RETRY_SECONDS)
        assert done == ["done"]
        assert nodes.path("one").exists()

    run_skipping(story())
