"""One node's life: what ends it, with the registry in memory and a played clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway
from tests.simulation.world import SILENT
from tests.support.skipping_loop import run_skipping

LEASE_SECONDS = 4.0
WAIT_SECONDS = 1.0


class Life:
    """One, and what it says; ``registry.away`` is whether calls fail."""

    def __init__(self, **callbacks: Callable[..., None]) -> None:
        loop = asyncio.get_running_loop()
        self.fenced = 0
        self.registry = _Away(lambda: round(loop.time() * 1000), lambda node, notice: None)
        self.slept = 0.0  # what the clock has gone on while nobody looked
        told: dict[str, Any] = {"on_fenced": self._fenced, "on_stalled": lambda: None, **callbacks}
        self.node = ClusterNode(
            lambda notices: self.registry,
            "a",
            lease_seconds=LEASE_SECONDS,
            wait_seconds=WAIT_SECONDS,
            clock=lambda: loop.time() + self.slept,
            wall=loop.time,
            log=SILENT,
            **told,
        )

    def _fenced(self) -> None:
        self.fenced += 1


class _Away(MemoryRegistry):
    away = False
    slow_seconds = 0.0

    async def renew(self, *args: Any) -> Any:
        if self.away:
            raise RegistryAway("cut")
        await asyncio.sleep(self.slow_seconds)
        return await super().renew(*args)


def fail(*args: Any) -> None:
    raise ValueError("a bug")


def once_joined(*args: Any) -> None:
    """The first members are those of ``join``, whose caller hears of a bug."""
    once_joined.calls += 1  # type: ignore[attr-defined]
    if once_joined.calls > 1:  # type: ignore[attr-defined]
        fail()


@pytest.mark.parametrize("bug_in", ["on_members", "on_stalled", "on_cut_off"])
def test_a_bug_in_what_a_renewal_tells_ends_that_life_and_is_said(bug_in: str) -> None:
    """Not the renewals alone: a node that has no lease says BUSY for ever."""

    async def story() -> None:
        once_joined.calls = 0  # type: ignore[attr-defined]
        life = Life(**{bug_in: once_joined if bug_in == "on_members" else fail})
        await life.node.join(0, "{}")
        life.node.start()
        await asyncio.sleep(0.1)
        if bug_in == "on_stalled":
            life.slept = LEASE_SECONDS
        life.registry.away = bug_in == "on_cut_off"
        await asyncio.sleep(3 * LEASE_SECONDS)
        assert (life.node.over, life.fenced) == (True, 1)
        assert not life.node.leased

    run_skipping(story())


def test_a_node_that_is_stopped_is_not_shut_out() -> None:
    async def story() -> None:
        life = Life()
        await life.node.join(0, "{}")
        life.node.start()
        await asyncio.sleep(LEASE_SECONDS)
        await life.node.stop()
        assert life.fenced == 0

    run_skipping(story())


@pytest.mark.parametrize("renewal_seconds", [LEASE_SECONDS / 10, LEASE_SECONDS / 4])
def test_a_node_that_is_stopped_while_it_renews_its_lease_notices_before_it_has_one(
    renewal_seconds: float,
) -> None:
    """By the answer, or before that is there."""

    async def story() -> None:
        leased: list[bool] = []
        life = Life(on_stalled=lambda: leased.append(life.node.leased))
        await life.node.join(0, "{}")
        life.registry.slow_seconds = renewal_seconds
        life.node.start()
        await asyncio.sleep(LEASE_SECONDS / 20)
        life.slept = LEASE_SECONDS
        await asyncio.sleep(LEASE_SECONDS)
        assert leased == [False]
        await life.node.stop()

    run_skipping(story())
