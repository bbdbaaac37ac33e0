"""What a node cannot follow: all know of it, it keeps nothing else back, and is tried again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from target import catalog_following, shared_catalog
from target.cluster.registry import RegistryAway
from target.datadir import VolumeRecord
from target.scsi.access_list import AccessEntry
from target.volume_errors import Late, NotEverywhere, VolumeError
from tests.support.catalog_nodes import NAME, Node, Pair, pair, until

ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"
FULL = "No space left on device"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_following, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(catalog_following, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(shared_catalog, "RETRY_SECONDS", 0.02)


def run(folder: Path, story: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with pair(folder) as two:
            await two.one.access.put(AccessEntry(initiator=ONE))
            await two.one.access.put(AccessEntry(initiator=OTHER))
            await story(two)

    asyncio.run(whole())


class FullDisk:
    """Of a node; ``free`` gives it room again."""

    def __init__(self, node: Node) -> None:
        self._data, self._write = node.data, node.data._write
        node.data._write = self._full  # type: ignore[method-assign]

    def _full(self) -> None:
        raise OSError(errno.ENOSPC, FULL)

    def free(self) -> None:
        self._data._write = self._write  # type: ignore[method-assign]


async def late(change: Coroutine[Any, Any, object]) -> tuple[Late, ...]:
    with pytest.raises(NotEverywhere) as raised:
        await change
    return raised.value.late


async def nobody_is_behind(two: Pair) -> None:
    async with asyncio.timeout(10):
        while await two.one.catalog.following.behind():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_who_may_not_be_let_in_is_not_although_the_disk_is_full(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        disk = FullDisk(two.other)
        (it,) = await late(two.one.access.delete(ONE))
        assert (it.node, it.reason) == ("other", f"in force, but not kept: {FULL}")
        assert not two.one.admits(ONE)
        assert not two.other.admits(ONE)
        assert two.other.admits(OTHER)
        behind = await two.one.catalog.following.behind()
        assert behind == {"other": {"access list": it.reason}}
        disk.free()
        await nobody_is_behind(two)
        kept = msgspec.json.decode((tmp_path / "other" / "catalog.json").read_bytes())
        assert [entry["initiator"] for entry in kept["access"]] == [OTHER]
        await two.one.access.delete(OTHER, everybody=True)

    run(tmp_path, story)


def test_a_change_is_in_force_although_the_disk_of_who_makes_it_is_full(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        FullDisk(two.one)
        (it,) = await late(two.one.access.delete(ONE))
        assert (it.node, it.reason) == ("one", f"in force, but not kept: {FULL}")
        assert not two.one.admits(ONE)
        assert not two.other.admits(ONE)

    run(tmp_path, story)


def test_one_part_that_fails_keeps_nothing_from_the_others(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        async def bug() -> dict[str, str]:
            raise KeyError("never mind")

        two.other.catalog.following._follows = {
            "bug": bug,
            **two.other.catalog.following._follows,
        }
        await two.one.access.delete(ONE)
        assert not two.other.admits(ONE)
        behind = await two.one.catalog.following.behind()
        assert behind == {"other": {"bug": "internal error: KeyError"}}

    run(tmp_path, story)


def test_a_lun_that_is_taken_is_told_and_followed_when_it_is_free(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        await two.create(two.other, 0)
        address = two.one.volumes.address_of(NAME)
        assert address is not None

        def move(records: dict[str, VolumeRecord]) -> bool:
            records["second"] = msgspec.structs.replace(
                records[NAME], uuid="0b5b2b9c-4dd4-4b38-9b2b-3c6b4a1f8f00"
            )
            return True

        await two.one.catalog.change(move)
        found = await two.one.catalog.announce("volume second", "volumes")
        assert found == (Late(node="other", reason=f"LUN {address} is volume {NAME!r} there"),)
        assert await two.one.catalog.announce("volume third", "volumes") == ()

        def undo(records: dict[str, VolumeRecord]) -> bool:
            del records["second"]
            return True

        await two.one.catalog.change(undo)
        assert await two.one.catalog.announce("volume second", "volumes") == ()
        await nobody_is_behind(two)

    run(tmp_path, story)


def test_what_the_registry_has_taken_without_an_answer_is_followed_by_all(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        registry, away = two.registry, True
        replace, post = registry.replace, registry.post

        async def unanswered(*call: Any) -> bool:
            await replace(*call)
            raise RegistryAway("cut")

        async def perhaps(*call: Any) -> int:
            if away:
                raise RegistryAway("cut")
            return await post(*call)

        registry.replace = unanswered  # type: ignore[method-assign,assignment]
        registry.post = perhaps  # type: ignore[method-assign,assignment]
        with pytest.raises(VolumeError):
            await two.one.access.delete(ONE)
        registry.replace = replace  # type: ignore[method-assign]
        await until(lambda: not two.one.admits(ONE))
        assert two.other.admits(ONE), "nobody has told it"
        away = False
        await until(lambda: not two.other.admits(ONE))

    run(tmp_path, story)


def test_what_could_not_be_announced_is_as_soon_as_that_goes(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        registry, away = two.registry, True
        post = registry.post

        async def perhaps(*call: Any) -> int:
            if away:
                raise RegistryAway("cut")
            return await post(*call)

        registry.post = perhaps  # type: ignore[method-assign,assignment]
        (it,) = await late(two.one.access.delete(ONE))
        assert it.reason == "it cannot be told: no Redis"
        assert two.other.admits(ONE)
        away = False
        await until(lambda: not two.other.admits(ONE))

    run(tmp_path, story)


def test_a_change_that_came_while_a_node_began_is_made_up_for(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        following = two.other.catalog.following
        following._serving = False  # as before ``begin``
        await two.one.access.delete(ONE)
        assert two.other.admits(ONE), "it serves nothing yet"
        await following.begin()
        assert not two.other.admits(ONE)

    run(tmp_path, story)


def test_who_is_silent_is_named(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        for node in (two.one, two.other):
            node.catalog._node.tell_seconds = 0.2
        held = asyncio.Event()

        async def waits() -> dict[str, str]:
            await held.wait()
            return {}

        two.other.catalog.add_follower("something", lambda load: waits())
        (it,) = await late(two.one.access.delete(ONE))
        assert (it.node, it.reason) == ("other", "it has not answered")
        held.set()
        assert await two.one.catalog.announce("access list") == ()

    run(tmp_path, story)


def test_what_a_node_that_was_shut_out_may_not_have_announced_is_looked_for(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        await two.other.catalog.change_part("access", lambda entries: entries[1:])
        assert two.one.admits(ONE)
        await two.one.catalog._gone("a third", False)  # by itself
        await two.one.catalog._gone("a third", True)
        await until(lambda: not two.one.admits(ONE) and not two.other.admits(ONE))

    run(tmp_path, story)
