"""Each node knows the sessions of all: the registry in memory, time that is skipped."""

from __future__ import annotations

import asyncio
from typing import Any

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.registry import RegistryAway
from target.shared_sessions import SharedSessions
from target.sight_info import SessionInfo
from tests.support.cluster_nodes import cluster_node
from tests.support.skipping_loop import run_skipping


class Nodes:
    """Each with a session of an initiator of its name, as long as ``there`` has it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.registry = MemoryRegistry(lambda: round(loop.time() * 1000), lambda name, notice: None)
        self.there: set[str] = set()

    async def life(self, name: str) -> SharedSessions:
        """A new one of that node."""
        node = cluster_node(self.registry, name)
        await node.join(0, "{}")
        shared = SharedSessions(node)
        shared.own = lambda: [_session(name)] if name in self.there else []
        return shared

    def comes(self, name: str, shared: SharedSessions) -> None:
        self.there.add(name)
        shared.changed()


def _session(name: str) -> SessionInfo:
    return SessionInfo(
        id=f"{name}/1",
        node=name,
        tsih=1,
        initiator=f"iqn.2026-11.test:{name}",
        isid="00",
        target="iqn.2026-11.test:target",
        address="",
        user="",
        commands=3,
        header_digest=False,
        data_digest=False,
    )


async def seen(shared: SharedSessions) -> list[tuple[str, int | None]]:
    await asyncio.sleep(1)
    return [(it.node, it.commands) for it in await shared.others()]


def test_who_has_come_and_gone_is_known_to_the_others() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, two, three = [await nodes.life(name) for name in ("one", "two", "three")]
        assert await seen(one) == []
        nodes.comes("two", two)
        nodes.comes("three", three)
        assert await seen(one) == [("three", None), ("two", None)]
        nodes.there.discard("three")
        three.changed()
        assert await seen(one) == [("two", None)]
        await two.close()
        assert await seen(one) == []
        assert not await nodes.registry.attached("sessions.two")
        two.changed()  # its sessions end
        assert await seen(one) == []

    run_skipping(story())


def test_sessions_of_an_earlier_life_are_none() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, two = [await nodes.life(name) for name in ("one", "two")]
        nodes.comes("two", two)
        assert await seen(one) == [("two", None)]
        again = await nodes.life("two")
        assert await seen(one) == []
        nodes.comes("two", again)
        assert await seen(one) == [("two", None)]

    run_skipping(story())


def test_what_the_registry_did_not_hear_is_told_again() -> None:
    async def story() -> None:
        nodes = Nodes()
        one, two = [await nodes.life(name) for name in ("one", "two")]
        replace, away = nodes.registry.replace, True

        async def perhaps(*call: Any) -> bool:
            if away:
                raise RegistryAway("away")
            return await replace(*call)

        nodes.registry.replace = perhaps  # type: ignore[method-assign,assignment]
        nodes.comes("two", two)
        assert await seen(one) == []
        away = False
        assert await seen(one) == [("two", None)]

    run_skipping(story())
