"""What the catalog has since format 2 of the registry is not written before all understand it
(docs/decisions/0031-formats-in-redis.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from target.chap_users import UserRecord, UserSecret
from target.shared_catalog import KEY, UNIT
from target.user_changes import MutualChanges, UserChanges
from target.volume_errors import VolumeError
from tests.simulation.world import SILENT
from tests.support.catalog_nodes import Node, Pair, pair

SECRET, OURS = "zebrazebrazebra", "elephantelephant"
ALICE, SAN = UserSecret(name="alice", secret=SECRET), UserSecret(name="san", secret=OURS)


class UserOfFormat1(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """As versions had it that knew format 1 at most."""

    name: str
    secret: str


class CatalogOfFormat1(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The same."""

    id: str = ""
    volumes: dict[str, Any] = {}
    targets: list[Any] | None = None
    access: list[Any] | None = None
    users: list[UserOfFormat1] | None = None


def run(folder: Path, story: Callable[[Pair], Coroutine[Any, Any, None]], version: int) -> None:
    async def whole() -> None:
        async with pair(folder) as two:
            for member in two.members:
                member.format = version
            await story(two)

    asyncio.run(whole())


async def document(two: Pair) -> bytes:
    return (await two.registry.load(UNIT, KEY))[1]


def changes(node: Node) -> tuple[UserChanges, MutualChanges]:
    users = UserChanges(node.data, node.target, None, node.catalog, SILENT)
    return users, MutualChanges(node.data, users, node.catalog, SILENT)


def test_older_nodes_read_what_is_written_until_then(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        users, mutual = changes(two.one)
        await users.create(ALICE)
        with pytest.raises(VolumeError, match="did not know of mutual CHAP"):
            await mutual.put(SAN)
        found = msgspec.json.decode(await document(two), type=CatalogOfFormat1)
        assert [user.name for user in found.users or ()] == ["alice"]

    run(tmp_path, story, 1)


def test_who_brings_it_along_keeps_it_from_them(tmp_path: Path) -> None:
    """It was alone before."""

    async def story(two: Pair) -> None:
        data = two.one.data
        data.keep_part("users", (UserRecord(name="alice", secret=SECRET, id="a"),))
        data.keep_part("mutual", (SAN,))
        for part in ("users", "mutual"):
            await two.one.catalog._join_part(part)
        found = msgspec.json.decode(await document(two), type=CatalogOfFormat1)
        assert [user.name for user in found.users or ()] == ["alice"]
        assert data.part("users") == (UserRecord(name="alice", secret=SECRET),)

    run(tmp_path, story, 1)


def test_from_then_on_all_nodes_have_it(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        users, mutual = changes(two.one)
        theirs, _ = changes(two.other)
        await users.create(ALICE)
        await mutual.put(SAN)
        assert theirs.mutual == users.mutual
        assert two.other.data.part("users")[0].id
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.json.decode(await document(two), type=CatalogOfFormat1)

    run(tmp_path, story, 2)


def test_a_data_directory_without_it_is_read_by_older_versions(tmp_path: Path) -> None:
    async def story(two: Pair) -> None:
        users, _ = changes(two.one)
        await users.create(ALICE)
        kept = msgspec.json.decode((two.one.data.path / "catalog.json").read_bytes())
        assert "mutual" not in kept
        assert [set(user) for user in kept["users"]] == [{"name", "secret"}]

    run(tmp_path, story, 1)
