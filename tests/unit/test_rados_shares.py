"""``--store rados:`` on the real Ceph: a catalog for several workers, deletion, fences, space."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from tests.support.ceph_cluster import CephCluster
from workers import rados_shares
from workers.fences import Fences
from workers.rados_catalog import VOLUMES
from workers.rados_client import RadosClient
from workers.rados_pool import RadosError
from workers.rados_shares import RadosShares
from workers.rados_store import PREFIX, STATUS_CHUNKS, object_prefix
from workers.shares import Share, ShareError, ShareFault, ShareInfo
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore

pytestmark = pytest.mark.ceph
CHUNK = 64 << 10
DEADLINE_SECONDS = 30


def new_info(name: str = "disk", size: int = 1 << 20) -> ShareInfo:
    return ShareInfo(name, secrets.token_bytes(16), size, CHUNK, 512)


@asynccontextmanager
async def connected(
    ceph: CephCluster, pool: str, count: int = 1
) -> AsyncIterator[list[RadosShares]]:
    """``count`` workers' shares of one pool."""
    workers = [await RadosShares.connect(pool, ceph.conf) for _ in range(count)]
    try:
        for shares in workers:
            await shares.load()
        yield workers
    finally:
        for shares in workers:
            shares.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await test()

    asyncio.run(bounded())


async def perform(
    store: VolumeStore, kind: IoKind, offset: int, length: int, data: bytes = b""
) -> StoreIo:
    ended: asyncio.Future[StoreIo] = asyncio.get_running_loop().create_future()
    io = StoreIo(kind, offset, length, ended.set_result)
    if kind is IoKind.READ:
        io.buffers = [memoryview(bytearray(length))]
    elif data:
        io.buffers = [memoryview(data)]
    store.submit(io)
    return await ended


async def store_of(shares: RadosShares, info: ShareInfo) -> VolumeStore:
    store = (await shares.open(info.uuid)).store
    assert store is not None
    return store


async def removed(shares: RadosShares) -> None:
    await asyncio.gather(*shares._removals)


def objects(ceph: CephCluster, pool: str, prefix: str = PREFIX) -> list[str]:
    return sorted(n for n in ceph.rados("-p", pool, "ls").split() if n.startswith(prefix))


def test_only_written_chunks_are_objects(ceph: CephCluster) -> None:
    pool, info = ceph.create_pool(), new_info(size=16 << 40)

    async def test() -> None:
        async with connected(ceph, pool) as (shares,):
            await shares.create(info)
            store = await store_of(shares, info)
            last = info.size // CHUNK - 1
            for chunk in (0, 5, last):
                await perform(store, IoKind.WRITE, chunk * CHUNK, 512, b"x" * 512)
            names = [f"{object_prefix(info.uuid)}{chunk:016x}" for chunk in (0, 5, last)]
            assert objects(ceph, pool, object_prefix(info.uuid)) == names
            status = await perform(store, IoKind.BLOCK_STATUS, 3 * CHUNK, 1 << 30)
            assert status.extents[:3] == [
                StatusExtent(3 * CHUNK, 2 * CHUNK, False),
                StatusExtent(5 * CHUNK, CHUNK, True),
                StatusExtent(6 * CHUNK, (STATUS_CHUNKS - 3) * CHUNK, False),
            ], "no more objects are asked for than the bound"
            await perform(store, IoKind.UNMAP, 5 * CHUNK, CHUNK)
            assert objects(ceph, pool, object_prefix(info.uuid)) == [names[0], names[2]]

    run(test)


def test_what_one_worker_does_the_others_see(ceph: CephCluster) -> None:
    pool, info = ceph.create_pool(), new_info()

    async def test() -> None:
        async with connected(ceph, pool, 2) as (a, b):
            assert a.store_id == b.store_id
            assert a.instance != b.instance
            await a.create(replace(info, place="some"))
            await b.create(info)  # as good: a place is not kept
            assert b.list_after("", 10) == [info]
            for twin in (replace(info, name="other"), replace(new_info(), name=info.name)):
                with pytest.raises(ShareError) as caught:
                    await b.create(twin)
                assert caught.value.fault is ShareFault.EXISTS
            here, there = await store_of(a, info), await store_of(b, info)
            await perform(here, IoKind.WRITE, CHUNK - 512, 1024, b"a" * 1024)
            found = await perform(there, IoKind.READ, CHUNK - 512, 1024)
            assert bytes(found.buffers[0]) == b"a" * 1024
            await b.resize(info.uuid, 2 << 20)
            assert (await a.open(info.uuid)).info.size == here.size == 2 << 20
            with pytest.raises(ShareError):
                await a.resize(info.uuid, 1 << 20)
            share = a.get(info.uuid)
            gone: list[Share] = []
            a.gone = gone.append
            await b.delete(info.uuid)
            with pytest.raises(ShareError) as caught:
                await a.open(info.uuid)
            assert caught.value.fault is ShareFault.MISSING
            assert (share.deleting, gone) == (True, [share])
            await removed(b)
            assert objects(ceph, pool) == [VOLUMES]

    run(test)


def test_workers_that_change_the_catalog_at_once(ceph: CephCluster) -> None:
    pool, infos = ceph.create_pool(), [new_info(f"disk{n}") for n in range(24)]

    async def test() -> None:
        async with connected(ceph, pool, 3) as workers:
            random.Random(1).shuffle(infos)
            await asyncio.gather(
                *(workers[n % 3].create(info) for n, info in enumerate(infos)),
                *(workers[(n + 1) % 3].create(info) for n, info in enumerate(infos)),
            )
            expected = sorted(info.name for info in infos)
            for shares in workers:
                await shares.refresh()
                assert [info.name for info in shares.list_after("", 100)] == expected

    run(test)


def test_a_volume_that_several_workers_make_at_once_is_one(ceph: CephCluster) -> None:
    """As a node does that has it on all of them."""
    pool = ceph.create_pool()

    async def test() -> None:
        async with connected(ceph, pool, 3) as workers:
            info = new_info()
            await asyncio.gather(*(shares.create(info) for shares in workers))
            for shares in workers:
                assert (await shares.open(info.uuid)).info == info
            with pytest.raises(ShareError):
                await workers[0].create(replace(info, uuid=secrets.token_bytes(16)))

    run(test)


@pytest.mark.parametrize("tried", [1 << 16, 0], ids=["by chunks", "by the pool's objects"])
def test_a_deletion_goes_on_where_a_worker_has_died(
    ceph: CephCluster, monkeypatch: pytest.MonkeyPatch, tried: int
) -> None:
    monkeypatch.setattr(rados_shares, "CHUNKS_TRIED_MAX", tried)
    pool, info, other = ceph.create_pool(), new_info(), new_info("other")
    remove_objects = RadosShares._remove_objects

    async def test() -> None:
        may_begin = asyncio.Event()

        async def held(self: RadosShares, client: RadosClient, info: ShareInfo) -> int:
            await may_begin.wait()
            return await remove_objects(self, client, info)

        monkeypatch.setattr(RadosShares, "_remove_objects", held)
        async with connected(ceph, pool) as (shares,):
            for each in (info, other):
                await shares.create(each)
                store = await store_of(shares, each)
                await perform(store, IoKind.WRITE, 0, each.size, b"x" * each.size)
            await shares.delete(info.uuid)  # and it ends before the objects are gone
        assert len(objects(ceph, pool, object_prefix(info.uuid))) == info.size // CHUNK
        async with connected(ceph, pool) as (shares,):
            assert shares.list_after("", 10) == [other]
            with pytest.raises(ShareError, match="not yet deleted"):
                await shares.create(info)
            may_begin.set()
            await removed(shares)
            assert objects(ceph, pool, object_prefix(info.uuid)) == []
            assert len(objects(ceph, pool, object_prefix(other.uuid))) == other.size // CHUNK
            await shares.create(info)
            found = await perform(await store_of(shares, info), IoKind.READ, 0, 4096)
            assert bytes(found.buffers[0]) == bytes(4096)

    run(test)


def test_no_worker_lowers_the_fences_of_another(ceph: CephCluster) -> None:
    pool = ceph.create_pool()

    async def test() -> None:
        async with connected(ceph, pool, 2) as (a, b):
            fences = [Fences(a.save_fences), Fences(b.save_fences)]
            await fences[0].add("node", 7)
            await fences[1].add("node", 3)
            await asyncio.gather(fences[0].add("x", 1), fences[1].add("y", 2))
            loaded = Fences(a.save_fences)
            loaded.load(await a.load_fences())
            assert loaded.some(10) == [("node", 7), ("x", 1), ("y", 2)]

    run(test)


def test_a_full_osd_is_no_space(ceph: CephCluster) -> None:
    """And not a write that waits until there is space; what gives space back can be done."""
    pool, info = ceph.create_pool(), new_info(size=1 << 30)

    async def test() -> None:
        async with connected(ceph, pool) as (shares,):
            await shares.create(info)
            store = await store_of(shares, info)
            await perform(store, IoKind.WRITE, 0, 512, b"x" * 512)
            ceph.pretend_full(True)
            try:
                await shares.refresh()  # with the newest map
                io = await perform(store, IoKind.WRITE, CHUNK, 512, b"y" * 512)
                assert io.status is StoreStatus.NO_SPACE
                assert (await perform(store, IoKind.READ, 0, 512)).status is StoreStatus.OK
                assert (await perform(store, IoKind.UNMAP, 0, CHUNK)).status is StoreStatus.OK
                await Fences(shares.save_fences).add("node", 7)
                await shares.delete(info.uuid)
                await removed(shares)
                assert objects(ceph, pool, object_prefix(info.uuid)) == []
            finally:
                ceph.pretend_full(False)

    run(test)


def test_a_client_that_was_shut_out_does_nothing_more(ceph: CephCluster) -> None:
    pool, info = ceph.create_pool(), new_info()

    async def test() -> None:
        async with connected(ceph, pool, 2) as (a, b):
            await a.create(info)
            old, heard = await store_of(a, info), asyncio.Event()
            a.evicted = heard.set
            before = a.instance
            with pytest.raises(ShareError, match="itself"):
                await b.evict(b.instance)
            with pytest.raises(ShareError, match="bad instance"):
                await b.evict("somebody")
            await b.evict(before)
            await b.evict(before)  # again does no harm
            new = await store_of(b, info)
            await perform(new, IoKind.WRITE, 0, 512, b"b" * 512)
            for kind in (IoKind.WRITE, IoKind.READ, IoKind.UNMAP, IoKind.BLOCK_STATUS):
                io = await perform(old, kind, 0, 512, b"a" * 512)
                assert io.status is StoreStatus.UNAVAILABLE
            assert heard.is_set()
            a.abandon()
            with pytest.raises(OSError, match="shutdown"):
                await a.refresh()
            await a.rejoin()
            assert a.instance not in (before, b.instance)
            again = await store_of(a, info)
            assert bytes((await perform(again, IoKind.READ, 0, 512)).buffers[0]) == b"b" * 512
            io = await perform(old, IoKind.WRITE, 0, 512, b"a" * 512)
            assert io.status is StoreStatus.UNAVAILABLE, "what belonged to the old client stays so"

    run(test)


def test_what_waits_for_an_osd_ends_when_it_is_abandoned(ceph: CephCluster) -> None:
    """The OSD does not answer: what was sent ends here, and new operations do at once."""
    pool = ceph.create_pool()

    async def test() -> None:
        client = await RadosClient.connect(pool, ceph.conf)
        assert (await client.wait(partial(client.write, "a", b"x", 0)))[0] == 0
        os.kill(ceph.osd_pid, signal.SIGSTOP)
        try:
            waiting = [
                asyncio.ensure_future(client.wait(partial(client.write, "a", b"y", n)))
                for n in range(8)
            ]
            await asyncio.sleep(0)
            assert client.pending == 8
            client.abandon()
            assert {(await task)[0] for task in waiting} == {-errno.ESHUTDOWN}
            assert (await client.wait(partial(client.stat, "a")))[0] == -errno.ESHUTDOWN
            assert client.pending == 0
        finally:
            os.kill(ceph.osd_pid, signal.SIGCONT)
            client.close()

    run(test)


def test_a_catalog_that_cannot_be_read_is_left_alone(ceph: CephCluster) -> None:
    pool = ceph.create_pool()

    async def test() -> None:
        client = await RadosClient.connect(pool, ceph.conf)
        for text in (b"{", b'{"format": 2}', b'{"volumes": [{"name": "x"}]}'):
            client.write(VOLUMES, text.ljust(40), 0, lambda result, data: None)
            with pytest.raises(RadosError, match=VOLUMES):
                async with connected(ceph, pool):
                    pass
            assert (await client.wait(partial(client.read, VOLUMES, 99, 0)))[1] == text.ljust(40)
        client.close()

    run(test)
