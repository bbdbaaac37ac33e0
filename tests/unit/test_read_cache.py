"""What was read is found again while it is what the disk has, and in bounds.

That reads find what was written, whatever the order of answers, is test_write_behind.py's.
"""

from __future__ import annotations

import random

import pytest

from workers.read_cache import FRESH_SECONDS, KEEP_ONE_OF, PAGE_BYTES, ReadCache
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore

PAGES = 32
SIZE = PAGES * PAGE_BYTES
OK, UNAVAILABLE = StoreStatus.OK, StoreStatus.UNAVAILABLE


class Disk(VolumeStore):
    """Answers when it is told to; what it reads says which page it is."""

    size = SIZE

    def __init__(self) -> None:
        self.asked: list[StoreIo] = []
        self.reads = 0
        self.status = OK

    def read_now(self, *_: object) -> bool:
        return False

    def write_now(self, *_: object) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        self.reads += io.kind is IoKind.READ
        self.asked.append(io)

    def answer(self) -> None:
        while self.asked:
            io = self.asked.pop(0)
            io.status = self.status
            if io.kind is IoKind.READ and self.status is OK:
                at = io.offset
                if io.takes_views:
                    io.buffers = [memoryview(bytearray(io.length))]
                for view in io.buffers:
                    view[:] = bytes((at + n) // PAGE_BYTES % 256 for n in range(len(view)))
                    at += len(view)
            io.done(io)

    def close(self) -> None:
        """Nothing."""


class Bench:
    def __init__(self, room: int = SIZE, chance: float = 0.99) -> None:
        self.now = 100.0
        self.room = room
        self.disk = Disk()
        self.cache = ReadCache(
            self.disk, lambda: self.room, clock=lambda: self.now, chance=lambda: chance
        )

    def read(
        self, offset: int, nbytes: int, piece: int = 0, *, takes_views: bool = False
    ) -> tuple[bool, bytes]:
        """Whether it was here, and the data; in buffers of ``piece`` bytes."""
        data = memoryview(bytearray(nbytes))
        step = piece or nbytes
        views = [data[at : at + step] for at in range(0, nbytes, step)]
        here = self.cache.read_now(offset, views, nbytes)
        if here:
            return True, bytes(data)
        io = self.start(IoKind.READ, offset, views, takes_views)
        self.disk.answer()
        return False, b"".join(io.buffers)

    def start(
        self, kind: IoKind, offset: int, views: list[memoryview], takes_views: bool = False
    ) -> StoreIo:
        nbytes = sum(map(len, views))
        io = StoreIo(kind, offset, nbytes, lambda io: None, views, takes_views=takes_views)
        self.cache.submit(io)
        return io

    def change(self, kind: IoKind, offset: int, data: bytes) -> StoreIo:
        io = self.start(kind, offset, [memoryview(data)])
        self.disk.answer()
        return io


def page(number: int) -> bytes:
    return bytes([number]) * PAGE_BYTES


@pytest.mark.parametrize("takes_views", [False, True])
@pytest.mark.parametrize("piece", [0, 512, PAGE_BYTES, 3 * PAGE_BYTES, 1000])
def test_the_second_time_it_is_here(piece: int, takes_views: bool) -> None:
    bench = Bench()
    assert bench.read(PAGE_BYTES, 6 * PAGE_BYTES, piece, takes_views=takes_views) == (
        False,
        b"".join(map(page, range(1, 7))),
    )
    assert bench.read(2 * PAGE_BYTES, 2 * PAGE_BYTES, piece) == (True, page(2) + page(3))
    assert bench.read(PAGE_BYTES + 512, PAGE_BYTES, piece) == (
        True,
        page(1)[512:] + page(2)[:512],
    )
    assert bench.read(6 * PAGE_BYTES, 2 * PAGE_BYTES, piece)[0] is False, "half of it is not"
    assert bench.cache.hits == 2


def test_a_page_that_was_read_in_part_is_not_kept() -> None:
    bench = Bench()
    bench.read(512, PAGE_BYTES)
    assert not bench.cache.nbytes


def test_a_write_changes_what_is_here_and_anything_else_drops_it() -> None:
    bench = Bench()
    bench.read(0, 4 * PAGE_BYTES)
    bench.change(IoKind.WRITE, PAGE_BYTES, b"w" * PAGE_BYTES)
    assert bench.read(0, 3 * PAGE_BYTES) == (True, page(0) + b"w" * PAGE_BYTES + page(2))
    bench.change(IoKind.WRITE, 2 * PAGE_BYTES + 512, b"w" * 512)
    assert bench.read(2 * PAGE_BYTES, 512)[0] is False, "the rest of the page is not known"
    for kind in (IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE):
        bench.read(0, PAGE_BYTES)
        bench.change(kind, 0, bytes(512))
        assert bench.read(0, 512)[0] is False
    bench.change(IoKind.WRITE, 20 * PAGE_BYTES, b"w" * PAGE_BYTES)
    assert bench.read(20 * PAGE_BYTES, 512)[0] is False, "what nobody has read is not kept"


@pytest.mark.parametrize("cut", [512, 1000, PAGE_BYTES, PAGE_BYTES + 200, 6144])
def test_a_write_is_found_page_by_page_whatever_pieces_it_came_in(cut: int) -> None:
    bench = Bench()
    bench.read(0, 4 * PAGE_BYTES)
    data = memoryview(random.Random(cut).randbytes(2 * PAGE_BYTES))
    bench.start(IoKind.WRITE, PAGE_BYTES, [data[:cut], data[cut:]])
    bench.disk.answer()
    for at in range(0, 2 * PAGE_BYTES, 512):
        assert bench.read(PAGE_BYTES + at, 512) == (True, bytes(data[at : at + 512]))
    assert bench.read(0, 4 * PAGE_BYTES) == (True, page(0) + bytes(data) + page(3))


def test_a_write_that_the_store_refuses_leaves_nothing_here() -> None:
    bench = Bench()
    bench.read(0, PAGE_BYTES)
    bench.disk.status = StoreStatus.NO_SPACE
    assert bench.change(IoKind.WRITE, 0, b"w" * PAGE_BYTES).status is StoreStatus.NO_SPACE
    bench.disk.status = OK
    assert bench.read(0, PAGE_BYTES)[0] is False


def test_there_is_a_bound_and_it_may_shrink() -> None:
    bench = Bench(room=4 * PAGE_BYTES, chance=0.0)
    for number in range(PAGES):
        bench.read(number * PAGE_BYTES, PAGE_BYTES)
        assert bench.cache.nbytes <= 4 * PAGE_BYTES
    assert bench.read((PAGES - 1) * PAGE_BYTES, PAGE_BYTES)[0], "what was asked for last"
    bench.room = PAGE_BYTES
    bench.change(IoKind.WRITE, 0, bytes(512))
    assert bench.cache.nbytes == PAGE_BYTES, "writes have taken the room"
    bench.read(0, 8 * PAGE_BYTES)
    assert bench.cache.nbytes <= PAGE_BYTES


def test_reading_all_of_a_larger_disk_leaves_most_of_the_cache_alone() -> None:
    bench = Bench(room=SIZE // 2, chance=1 / KEEP_ONE_OF)
    for _ in range(3):
        for number in range(PAGES):
            bench.read(number * PAGE_BYTES, PAGE_BYTES)
    assert bench.disk.reads == PAGES + 2 * PAGES // 2


def test_what_is_here_is_good_only_while_the_store_answers() -> None:
    bench = Bench()
    bench.read(0, PAGE_BYTES)
    bench.now += FRESH_SECONDS
    assert bench.read(0, PAGE_BYTES)[0]
    bench.now += 0.01
    assert not bench.read(0, PAGE_BYTES)[0], "the store is asked whether we are still its"
    assert bench.read(0, PAGE_BYTES)[0]
    bench.now += 2 * FRESH_SECONDS
    bench.disk.status = UNAVAILABLE
    assert not bench.read(0, PAGE_BYTES)[0]
    assert not bench.cache.nbytes


def test_an_answer_counts_from_when_it_was_asked_for() -> None:
    bench = Bench()
    view = memoryview(bytearray(PAGE_BYTES))
    bench.start(IoKind.READ, 0, [view])
    bench.now += 2 * FRESH_SECONDS
    bench.disk.answer()
    assert not bench.read(0, PAGE_BYTES)[0], "somebody may have taken over meanwhile"


def test_it_grows_with_its_store() -> None:
    bench = Bench()
    bench.cache.size = 2 * SIZE
    assert bench.disk.size == 2 * SIZE
