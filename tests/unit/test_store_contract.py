"""What every store promises (``workers/store.py``), asked of each of them.

A new store joins by a factory in ``FACTORIES``.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.ceph_cluster import CephCluster
from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse
from workers.memory_store import MemoryStore
from workers.rados_client import RadosClient
from workers.rados_store import RadosStore
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore

SIZE = 1 << 20
PAGE = 4096
CHUNK = 65536  # of the rados store


class Bench:
    """A store and the loop that its completions come back to.

    ``unit``: the bytes that the store maps and unmaps at a time.
    """

    unit = PAGE

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.executor = BlockingExecutor(2, self.loop.call_soon_threadsafe)
        self.make: Callable[[bool], VolumeStore]  # with read_only
        self.store: VolumeStore

    def reopen(self, *, read_only: bool) -> None:
        """Close the store and open what it kept."""
        self.store.close()
        self.store = self.make(read_only)

    def submit(self, kind: IoKind, offset: int, length: int, **fields: object) -> list[StoreIo]:
        """Submit an I/O; it is in the list once it has ended."""
        done: list[StoreIo] = []
        io = StoreIo(kind, offset, length, done.append)
        for name, value in fields.items():
            setattr(io, name, value)
        self.store.submit(io)
        return done

    def run(self, kind: IoKind, offset: int, length: int, **fields: object) -> StoreIo:
        """Submit an I/O and wait for it."""
        done = self.submit(kind, offset, length, **fields)
        self.until(lambda: bool(done))
        (io,) = done
        return io

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop, a pass at a time."""
        deadline = self.loop.time() + 10
        while not condition():
            assert self.loop.time() < deadline, "the store does not answer"
            self.loop.run_until_complete(asyncio.sleep(0))

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        io = self.run(IoKind.READ, offset, length, buffers=[memoryview(data)])
        assert io.status is StoreStatus.OK
        return bytes(data)

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        io = self.run(IoKind.WRITE, offset, len(data), buffers=[memoryview(data)], fua=fua)
        assert io.status is StoreStatus.OK

    def extents(self, offset: int, length: int, **fields: object) -> list[StatusExtent]:
        io = self.run(IoKind.BLOCK_STATUS, offset, length, **fields)
        assert io.status is StoreStatus.OK
        return list(io.extents)

    def close(self) -> None:
        self.store.close()
        self.executor.close()
        self.loop.close()


class RadosBench(Bench):
    """A volume in the tests' real cluster."""

    unit = CHUNK

    def __init__(self, ceph: CephCluster, pool: str) -> None:
        super().__init__()
        connected = RadosClient.connect(pool, ceph.conf)
        self.client = self.loop.run_until_complete(connected)

    def close(self) -> None:
        assert self.client.pending == 0
        super().close()
        self.client.close()


def memory(request: pytest.FixtureRequest) -> Bench:
    bench = Bench()
    bench.make = lambda read_only: MemoryStore(SIZE, read_only=read_only)
    return bench


def file(request: pytest.FixtureRequest) -> Bench:
    path: Path = request.getfixturevalue("tmp_path") / "image"
    create_sparse(path, SIZE)
    bench = Bench()
    bench.make = lambda read_only: FileStore(path, bench.executor, read_only=read_only)
    return bench


def rados(request: pytest.FixtureRequest) -> Bench:
    ceph, pool = request.getfixturevalue("ceph"), request.getfixturevalue("ceph_pool")
    bench = RadosBench(ceph, pool)
    uuid = secrets.token_bytes(16)
    bench.make = lambda read_only: RadosStore(bench.client, uuid, SIZE, CHUNK, read_only=read_only)
    return bench


FACTORIES = [memory, file, pytest.param(rados, marks=pytest.mark.ceph)]


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    it: Bench = request.param(request)
    it.store = it.make(False)
    yield it
    it.close()


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def scatter(data: bytes | bytearray, *sizes: int) -> list[memoryview]:
    views, at = [], 0
    for size in (*sizes, len(data) - sum(sizes)):
        views.append(memoryview(data)[at : at + size])
        at += size
    return views


@pytest.mark.parametrize(
    ("offset", "length"), [(0, PAGE), (CHUNK - 100, 200), (CHUNK, 3 * CHUNK), (SIZE - 7, 7)]
)
def test_a_read_that_takes_views_has_all_data_whatever_they_lie_in(
    bench: Bench, offset: int, length: int
) -> None:
    data = random.Random(offset).randbytes(length // 2)
    bench.write(offset, data)
    wanted = data + bytes(length - len(data))
    given = memoryview(bytearray(b"x" * length))
    io = bench.run(IoKind.READ, offset, length, buffers=[given], takes_views=True)
    assert (io.status, b"".join(io.buffers)) == (StoreStatus.OK, wanted)
    if bench.store.has_views:
        io = bench.run(IoKind.READ, offset, length, takes_views=True)
        assert (io.status, b"".join(io.buffers)) == (StoreStatus.OK, wanted)


def test_a_new_store_reads_as_zeros(bench: Bench) -> None:
    assert bench.store.size == SIZE
    assert bench.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("offset", [0, 512, PAGE - 1, 65536 - 512, SIZE - 3 * PAGE])
def test_what_was_written_is_read(bench: Bench, offset: int) -> None:
    data = pattern(3 * PAGE)
    bench.write(offset, data)
    assert bench.read(offset, len(data)) == data
    rest = SIZE - offset - len(data)
    assert bench.read(0, SIZE) == bytes(offset) + data + bytes(rest)


def test_scatter_lists_are_one_run_of_bytes(bench: Bench) -> None:
    data = pattern(70000)
    io = bench.run(IoKind.WRITE, 1000, len(data), buffers=scatter(data, 1, 16384, 40000))
    assert io.status is StoreStatus.OK
    found = bytearray(len(data))
    bench.run(IoKind.READ, 1000, len(data), buffers=scatter(found, 5000, 3, 60000))
    assert found == data


def test_on_the_spot_does_all_or_promises_nothing(bench: Bench) -> None:
    data = pattern(PAGE)
    bench.write(0, bytes(PAGE))
    if bench.store.write_now(0, scatter(data, 100), PAGE):
        assert bench.read(0, PAGE) == data
    found = bytearray(PAGE)
    if bench.store.read_now(0, scatter(found, 100), PAGE):
        assert found == bench.read(0, PAGE)


@pytest.mark.parametrize("kind", [IoKind.ZERO, IoKind.UNMAP])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (PAGE, PAGE), (512, 512), (PAGE - 512, 2 * PAGE + 1024)]
)
def test_zeroed_ranges_read_as_zeros(bench: Bench, kind: IoKind, offset: int, length: int) -> None:
    data = bytearray(pattern(SIZE))
    bench.write(0, bytes(data))
    assert bench.run(kind, offset, length).status is StoreStatus.OK
    data[offset : offset + length] = bytes(length)
    assert bench.read(0, SIZE) == bytes(data)


def test_block_status_tells_what_is_allocated(bench: Bench) -> None:
    unit = bench.unit
    assert bench.extents(0, SIZE) == [StatusExtent(0, SIZE, False)]
    bench.write(4 * unit, pattern(2 * unit))
    assert bench.extents(0, SIZE) == [
        StatusExtent(0, 4 * unit, False),
        StatusExtent(4 * unit, 2 * unit, True),
        StatusExtent(6 * unit, SIZE - 6 * unit, False),
    ]
    assert bench.extents(5 * unit, 2 * unit) == [
        StatusExtent(5 * unit, unit, True),
        StatusExtent(6 * unit, unit, False),
    ]


def test_unmap_gives_whole_units_back(bench: Bench) -> None:
    unit = bench.unit
    bench.write(0, pattern(8 * unit))
    bench.run(IoKind.UNMAP, 2 * unit - 512, 2 * unit + 512)
    assert bench.extents(0, 8 * unit) == [
        StatusExtent(0, 2 * unit, True),
        StatusExtent(2 * unit, 2 * unit, False),
        StatusExtent(4 * unit, 4 * unit, True),
    ]
    bench.run(IoKind.UNMAP, 0, SIZE)
    assert bench.extents(0, SIZE) == [StatusExtent(0, SIZE, False)]


def test_zero_leaves_written_space_allocated(bench: Bench) -> None:
    bench.write(0, pattern(4 * PAGE))
    bench.run(IoKind.ZERO, 0, 4 * PAGE)
    assert bench.read(0, 4 * PAGE) == bytes(4 * PAGE)


def test_block_status_stops_at_the_asked_number_of_extents(bench: Bench) -> None:
    for at in range(0, min(SIZE, 40 * bench.unit), 2 * bench.unit):
        bench.write(at, pattern(512))
    extents = bench.extents(0, SIZE, extents_max=5)
    assert len(extents) == 5
    assert [e.mapped for e in extents] == [True, False, True, False, True]
    assert all(a.offset + a.length == b.offset for a, b in pairwise(extents))


def test_compare_and_write_writes_what_matches(bench: Bench) -> None:
    old, new = pattern(2 * PAGE, 1), pattern(2 * PAGE, 2)
    bench.write(PAGE, old)
    io = bench.run(
        IoKind.COMPARE_AND_WRITE,
        PAGE,
        len(old),
        compare=scatter(old, 700),
        buffers=scatter(new, PAGE),
    )
    assert io.status is StoreStatus.OK
    assert bench.read(PAGE, len(new)) == new


@pytest.mark.parametrize("at", [0, 1, 699, 700, 2 * PAGE - 1])
def test_compare_and_write_names_the_first_difference(bench: Bench, at: int) -> None:
    old, new = pattern(2 * PAGE, 1), pattern(2 * PAGE, 2)
    bench.write(PAGE, old)
    expected = bytearray(old)
    expected[at] ^= 0x80
    expected[-1] ^= 0x01
    io = bench.run(
        IoKind.COMPARE_AND_WRITE,
        PAGE,
        len(old),
        compare=scatter(expected, 700),
        buffers=[memoryview(new)],
    )
    assert (io.status, io.miscompare_offset) == (StoreStatus.MISCOMPARE, at)
    assert bench.read(PAGE, len(old)) == old


def test_flush_and_fua(bench: Bench) -> None:
    bench.write(0, pattern(PAGE), fua=True)
    assert bench.run(IoKind.FLUSH, 0, SIZE).status is StoreStatus.OK
    assert bench.run(IoKind.UNMAP, 0, PAGE, fua=True).status is StoreStatus.OK


@pytest.mark.parametrize(
    "kind", [IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE]
)
def test_a_read_only_store_is_not_changed(bench: Bench, kind: IoKind) -> None:
    bench.reopen(read_only=True)
    assert bench.store.read_only
    before = bench.read(0, PAGE)
    view = [memoryview(bytes([7]) * PAGE)]
    io = bench.run(kind, 0, PAGE, buffers=view, compare=[memoryview(before)])
    assert io.status is StoreStatus.READ_ONLY
    assert not bench.store.write_now(0, view, PAGE)
    assert bench.read(0, PAGE) == before


def test_overlapping_reads_run_side_by_side(bench: Bench) -> None:
    data = pattern(PAGE)
    bench.write(0, data)
    found = [bytearray(PAGE) for _ in range(20)]
    running = [bench.submit(IoKind.READ, 0, PAGE, buffers=[memoryview(buffer)]) for buffer in found]
    bench.until(lambda: all(running))
    assert all(buffer == data for buffer in found)


def test_compare_and_write_of_what_was_never_written(bench: Bench) -> None:
    """Over the edge of a chunk of any store, and the end of its data."""
    at, new = CHUNK - 512, pattern(1024)
    for expected, status, where in (
        (bytes(1023) + b"x", StoreStatus.MISCOMPARE, 1023),
        (bytes(1024), StoreStatus.OK, 0),
    ):
        io = bench.run(
            IoKind.COMPARE_AND_WRITE, at, 1024, compare=scatter(expected), buffers=scatter(new, 3)
        )
        assert (io.status, io.miscompare_offset) == (status, where)
    assert bench.read(at, 2048) == new + bytes(1024)


def test_a_store_is_a_register_of_bytes(bench: Bench) -> None:
    """A long random history, held against a plain bytearray."""
    rng = random.Random(3)
    model = bytearray(SIZE)
    for step in range(300):
        offset = rng.randrange(SIZE - 1)
        length = min(SIZE - offset, rng.choice([1, 512, PAGE, 3 * PAGE, 70000]))
        kind = rng.choice([IoKind.WRITE, IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.READ])
        if kind is IoKind.WRITE:
            data = pattern(length, step)
            bench.write(offset, data)
            model[offset : offset + length] = data
        elif kind is IoKind.READ:
            assert bench.read(offset, length) == model[offset : offset + length]
        else:
            assert bench.run(kind, offset, length).status is StoreStatus.OK
            model[offset : offset + length] = bytes(length)
    assert bench.read(0, SIZE) == bytes(model)
    covered = sum(e.length for e in bench.extents(0, SIZE, extents_max=10000))
    assert covered == SIZE
