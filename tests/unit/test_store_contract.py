"""What every store promises (``workers/store.py``), asked of each of them.

A new store joins by a factory in ``FACTORIES``.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse
from workers.memory_store import MemoryStore
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, VolumeStore

SIZE = 1 << 20
PAGE = 4096


class Bench:
    """A store and the loop that its completions come back to."""

    def __init__(self, make: Callable[[Bench, bool], VolumeStore]) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.executor = BlockingExecutor(2, self.calls.put)
        self._make = make
        self.store = make(self, False)

    def reopen(self, *, read_only: bool) -> None:
        """Close the store and open what it kept."""
        self.store.close()
        self.store = self._make(self, read_only)

    def run(self, kind: IoKind, offset: int, length: int, **fields: object) -> StoreIo:
        """Submit an I/O and wait for it."""
        done: list[StoreIo] = []
        io = StoreIo(kind, offset, length, done.append)
        for name, value in fields.items():
            setattr(io, name, value)
        self.store.submit(io)
        while not done:
            self.calls.get(timeout=10)()
        assert done == [io]
        return io

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
        return io.extents

    def close(self) -> None:
        self.store.close()
        self.executor.close()


def memory(tmp_path: Path) -> Callable[[Bench, bool], VolumeStore]:
    return lambda bench, read_only: MemoryStore(SIZE, read_only=read_only)


def file(tmp_path: Path) -> Callable[[Bench, bool], VolumeStore]:
    path = tmp_path / "image"
    create_sparse(path, SIZE)
    return lambda bench, read_only: FileStore(path, bench.executor, read_only=read_only)


FACTORIES = [memory, file]


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    it = Bench(request.param(tmp_path))
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
    assert bench.extents(0, SIZE) == [StatusExtent(0, SIZE, False)]
    bench.write(4 * PAGE, pattern(2 * PAGE))
    assert bench.extents(0, SIZE) == [
        StatusExtent(0, 4 * PAGE, False),
        StatusExtent(4 * PAGE, 2 * PAGE, True),
        StatusExtent(6 * PAGE, SIZE - 6 * PAGE, False),
    ]
    assert bench.extents(5 * PAGE, 2 * PAGE) == [
        StatusExtent(5 * PAGE, PAGE, True),
        StatusExtent(6 * PAGE, PAGE, False),
    ]


def test_unmap_gives_whole_pages_back(bench: Bench) -> None:
    bench.write(0, pattern(8 * PAGE))
    bench.run(IoKind.UNMAP, 2 * PAGE - 512, 2 * PAGE + 512)
    assert bench.extents(0, 8 * PAGE) == [
        StatusExtent(0, 2 * PAGE, True),
        StatusExtent(2 * PAGE, 2 * PAGE, False),
        StatusExtent(4 * PAGE, 4 * PAGE, True),
    ]
    bench.run(IoKind.UNMAP, 0, SIZE)
    assert bench.extents(0, SIZE) == [StatusExtent(0, SIZE, False)]


def test_zero_leaves_written_space_allocated(bench: Bench) -> None:
    bench.write(0, pattern(4 * PAGE))
    bench.run(IoKind.ZERO, 0, 4 * PAGE)
    assert bench.read(0, 4 * PAGE) == bytes(4 * PAGE)


def test_block_status_stops_at_the_asked_number_of_extents(bench: Bench) -> None:
    for page in range(0, 40, 2):
        bench.write(page * PAGE, pattern(PAGE))
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
    done: list[StoreIo] = []
    found = [bytearray(PAGE) for _ in range(20)]
    for buffer in found:
        bench.store.submit(StoreIo(IoKind.READ, 0, PAGE, done.append, [memoryview(buffer)]))
    while len(done) < len(found):
        bench.calls.get(timeout=10)()
    assert all(buffer == data for buffer in found)


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
