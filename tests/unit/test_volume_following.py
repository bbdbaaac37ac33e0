"""Two nodes with one catalog: a name comes again while what had it is being deleted."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec
import pytest

from target import volume_cleanup, volume_following
from target.cluster.registry import RegistryAway
from target.datadir import DataDir, DataDirError, VolumeRecord
from target.shared_catalog import KEY, UNIT, Catalog, SharedCatalog
from target.volume_errors import VolumeError
from tests.simulation.world import SILENT
from tests.support.catalog_nodes import NAME, SIZE, WANTED, Node, pair, until


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_cleanup, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(volume_following, "HELP_SECONDS", 0.05)


def followed(node: Node, version: int) -> bool:
    return node.data.followed_version > version


def test_a_volume_is_there_and_goes_on_all_nodes(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            assert two.other.serves
            await two.other.changes.delete(NAME, force=True)
            assert not two.one.serves
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            assert two.workers[0].deletions
            await two.create(two.one, 0)
            assert two.other.serves

    asyncio.run(story())


def test_a_new_volume_outlives_the_deletion_of_one_that_had_its_name(tmp_path: Path) -> None:
    """What could not be made here is being deleted when another node makes one elsewhere."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            first, second = two.workers
            first.runs.clear()  # it is made there, and not opened in time
            first.deletes.clear()
            with pytest.raises(VolumeError):
                await two.create(two.one, 0)
            failed = two.one.data.record(NAME)
            assert failed is not None
            await until(lambda: bool(first.deletions))  # which is not answered
            made = await two.create(two.other, 1)
            assert two.one.serves
            first.runs.set()
            first.deletes.set()
            await until(lambda: set(two.one.data.volumes) == {NAME})
            shared, here = await two.one.shared(), two.one.data.record(NAME)
            assert shared is not None
            assert here is not None
            assert shared.uuid == here.uuid == made != failed.uuid
            assert two.one.serves
            assert two.other.serves
            assert second.deletions == []

    asyncio.run(story())


def test_a_volume_that_is_younger_than_the_catalog_is_not_taken_for_deleted(
    tmp_path: Path,
) -> None:
    """Redis has an older catalog: a snapshot, or a replica that has lagged."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            version, older = await two.registry.load(UNIT, KEY)
            await two.create(two.one, 0)
            for node in (two.one, two.other):
                await until(partial(followed, node, version))
            for which, node in enumerate((two.one, two.other)):
                if not which:
                    two.registry._unit(UNIT).documents[KEY] = (version, older)
                identity = node.data.followed
                member = two.members[which]
                await member.untrack(UNIT)
                await node.catalog.close()
                node.catalog = SharedCatalog(member, node.data, SILENT)  # its next life
                await node.catalog.join(())
                assert node.data.record(NAME) is not None
                assert await node.shared() is not None
                assert node.data.followed != identity
            assert two.one.data.followed == two.other.data.followed

    asyncio.run(story())


def test_a_deletion_that_its_node_does_not_end_is_ended_by_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            made = await two.create(two.one, 0)

            def doom(records: dict[str, VolumeRecord]) -> bool:
                records[NAME].deleting = True
                return True

            await two.one.catalog.change(doom)  # by a node that has died then
            await two.one.catalog.announce()
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            assert {deletion.uuid.hex() for deletion in two.workers[0].deletions} == {
                made.replace("-", "")
            }

    asyncio.run(story())


def test_the_lun_of_one_that_is_being_deleted_is_free_and_of_any_other_is_not(
    tmp_path: Path,
) -> None:
    """Whatever the node has heard of by itself: the catalog of all nodes has the word."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            address = two.one.volumes.address_of(NAME)
            assert address is not None
            two.workers[0].deletes.clear()
            await two.other.changes.delete(NAME, force=True)
            assert await two.one.shared() is not None, "its data are there still"
            other = [str(two.workers[1].address)]
            wanted = msgspec.structs.replace(WANTED, name="next")
            await two.one.changes.create(wanted, workers=other, lun=address.number)
            assert two.other.volumes.address_of("next") == address

            third = msgspec.structs.replace(WANTED, name="third")
            await two.one.changes.create(third, workers=other)
            seen = two.other.volumes.by_address.pop(address)  # as if it had not heard of it
            with pytest.raises(VolumeError, match="is volume 'next'"):
                await two.other.changes.remap("third", "", address.number, force=True)
            two.other.volumes.by_address[address] = seen

    asyncio.run(story())


def test_what_was_read_before_a_change_is_not_followed_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            lock = two.one.changes._lock
            async with lock:  # a change is being made
                following = asyncio.ensure_future(
                    two.one.changes.following.follow(two.one.catalog._load_followed)
                )
                await asyncio.sleep(0.05)
                await two.one.catalog.change(lambda records: bool(records.pop(NAME)))
                two.one.data.begin_delete(NAME)
            await following
            assert two.one.data.is_deleting(NAME), "it has not come back"

    asyncio.run(story())


def test_what_is_being_deleted_does_not_come_back(tmp_path: Path) -> None:
    """The answer was lost, and the others have it; some of its data may be gone."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            two.workers[0].deletes.clear()
            made = await two.create(two.one, 0)
            address = two.one.volumes.address_of(NAME)
            assert address is not None
            two.one.data.begin_delete(NAME)
            await two.one.volumes.remove(address)
            await two.other.catalog.announce()
            assert two.one.data.is_deleting(NAME)
            assert not two.one.serves
            two.one.volumes.cleanup.begin()
            await until(lambda: not two.other.serves)
            two.workers[0].deletes.set()
            await until(lambda: not two.one.data.record(NAME) and not two.other.data.record(NAME))
            assert await two.one.shared() is None
            again = await two.create(two.one, 0)
            assert again != made

    asyncio.run(story())


def test_two_volumes_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    mine = data.create(WANTED, SIZE, ["unix:/w"], 0)
    theirs = VolumeRecord(
        uuid="another", block_bytes=512, chunk_bytes=65536, size_bytes=SIZE, shared=True
    )
    with pytest.raises(DataDirError, match="another one"):
        data.adopt(NAME, theirs)
    assert data.record(NAME) is mine
    data.begin_delete(NAME)
    data.adopt(NAME, msgspec.structs.replace(mine, deleting=False))
    assert data.is_deleting(NAME), "some of it is gone"
    data.adopt(NAME, theirs)
    assert data.record(NAME) is theirs
    assert mine in data.volumes.values(), "it is still to go"
    data.close()


def test_a_catalog_that_cannot_be_read_now_is_asked_for_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as two:
            node = two.other.catalog
            load, calls = node._load, 0

            async def away_once() -> tuple[int, Catalog]:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise RegistryAway("away")
                return await load()

            node._load = away_once  # type: ignore[method-assign]
            await two.create(two.one, 0)
            assert two.other.serves
            assert (UNIT, KEY) == ("catalog", "volumes")

    asyncio.run(story())


def test_who_closes_the_catalog_ends_what_it_follows_and_follows_nothing_more(
    tmp_path: Path,
) -> None:
    """What a node does to end, over all its volumes, is not to meet one that comes or goes."""

    async def story() -> None:
        async with pair(tmp_path) as two:
            await two.create(two.one, 0)
            lock = two.other.changes._lock
            await lock.acquire()
            deleting = asyncio.ensure_future(two.one.changes.delete(NAME, force=True))
            await until(lambda: bool(two.other.catalog.following._tasks))
            closing = asyncio.ensure_future(two.other.catalog.close())
            await asyncio.sleep(0)
            assert not closing.done()
            lock.release()
            await closing
            assert not two.other.serves
            await deleting
            await until(lambda: not two.one.data.record(NAME))
            await two.create(two.one, 0)
            assert not two.other.serves

    asyncio.run(story())
