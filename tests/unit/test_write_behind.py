"""Writes behind: what is read, what is flushed, and what is where when something goes wrong."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import rados_store
from workers.dirty_extents import DirtyExtents
from workers.rados_client import Done
from workers.rados_store import RadosStore
from workers.read_cache import ReadCache
from workers.store import IoKind, StoreIo, StoreStatus
from workers.write_behind import WriteBehind, Written

CHUNK, CHUNKS = 4096, 8
SIZE = CHUNK * CHUNKS
BLOCK = 512
NO_SPACE, UNAVAILABLE, OK = StoreStatus.NO_SPACE, StoreStatus.UNAVAILABLE, StoreStatus.OK


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20))))
def test_extents_are_what_was_written_last(puts: list[tuple[int, bytes]]) -> None:
    extents = DirtyExtents()
    there: dict[int, int] = {}
    for start, data in puts:
        extents.put(start, data)
        there |= {start + at: byte for at, byte in enumerate(data)}
    found = {start + at: byte for start, data in extents for at, byte in enumerate(data)}
    assert found == there
    assert extents.nbytes == len(there)
    starts = [start for start, _ in extents]
    assert starts == sorted(starts)
    cut = {at + n: byte for at, data in extents.within(10, 40) for n, byte in enumerate(data)}
    assert cut == {at: byte for at, byte in there.items() if 10 <= at < 40}


class Store:
    """A store that answers when it is told to, in any order; ``refuses`` all writes with that."""

    size, read_only, shared, chunk_bytes = SIZE, False, True, CHUNK

    def __init__(self) -> None:
        self.disk = bytearray(SIZE)
        self.pending: list[Callable[[], None]] = []
        self.writes = 0
        self.refuses = OK
        self.asked: Callable[[], object] = lambda: None  # told of each write

    def submit(self, io: StoreIo) -> None:
        self.pending.append(lambda: self._do(io))

    def _do(self, io: StoreIo) -> None:
        here = slice(io.offset, io.offset + io.length)
        if io.kind is IoKind.READ and io.takes_views:
            io.buffers = (memoryview(bytes(self.disk[here])),)
        elif io.kind is IoKind.READ:
            found = memoryview(self.disk)[here]
            for view in io.buffers:
                view[:], found = found[: len(view)], found[len(view) :]
        elif io.kind is IoKind.WRITE:
            self.disk[here] = b"".join(io.buffers)
        elif io.kind is IoKind.ZERO:
            self.disk[here] = bytes(io.length)
        io.done(io)

    def write_extents(
        self, chunk: int, extents: Sequence[tuple[int, bytes]], written: Written
    ) -> None:
        self.writes += 1
        self.asked()

        def do() -> None:
            if self.refuses is OK:
                for start, data in extents:
                    at = chunk * CHUNK + start
                    self.disk[at : at + len(data)] = data
            written(self.refuses, "")

        self.pending.append(do)

    def answer(self, choose: Callable[[int], int] = lambda count: 0) -> None:
        self.pending.pop(choose(len(self.pending)))()

    def answer_all(self) -> None:
        while self.pending:
            self.answer()

    def close(self) -> None:
        self.pending.clear()


class Bench:
    """``store`` with ``cache`` before it, perhaps one for reads too; what became of I/Os."""

    def __init__(
        self, bytes_max: int = SIZE, age_seconds: float = 1e6, *, read_bytes_max: int = 0
    ) -> None:
        self.store = Store()
        self.cache = WriteBehind(self.store, bytes_max, age_seconds=age_seconds)
        self.reads = ReadCache(
            self.cache, lambda: read_bytes_max, clock=lambda: 0.0, chance=lambda: 0.0
        )

    def start(
        self,
        kind: IoKind,
        offset: int,
        data: bytes | int,
        *,
        fua: bool = False,
        cut: int = 0,
        takes_views: bool = False,
    ) -> StoreIo:
        """In pieces, if it is ``cut`` somewhere."""
        whole = memoryview(bytearray(data))
        views = [whole[:cut], whole[cut:]] if 0 < cut < len(whole) else [whole]
        ended: list[StoreIo] = []
        io = StoreIo(
            kind, offset, len(whole), ended.append, views, fua=fua, takes_views=takes_views
        )
        io.extents_max = 0
        if kind is IoKind.READ and self.reads.read_now(offset, views, len(whole)):
            io.done(io)
        else:
            self.reads.submit(io)
        io.extents = ended  # type: ignore[assignment]  # where it is found whether it has ended
        return io

    def flush(self) -> StoreIo:
        return self.start(IoKind.FLUSH, 0, 0)


def over(io: StoreIo) -> bool:
    return bool(io.extents)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def behind(bench: Bench) -> Bench:
    """After the first flush (rule 1)."""
    io = bench.flush()
    bench.store.answer_all()
    assert over(io)
    return bench


def test_before_the_first_flush_writes_are_written_through() -> None:
    async def body() -> None:
        bench = Bench()
        io = bench.start(IoKind.WRITE, 0, b"a" * BLOCK)
        assert not over(io)
        bench.store.answer_all()
        assert over(io)
        assert bench.store.disk[:BLOCK] == b"a" * BLOCK
        assert not bench.cache.kept_bytes

    run(body)


def test_writes_are_answered_at_once_and_gather() -> None:
    async def body() -> None:
        bench = behind(Bench())
        for number in range(4):
            assert over(bench.start(IoKind.WRITE, number * BLOCK, bytes([number]) * BLOCK))
        read = bench.start(IoKind.READ, 0, 4 * BLOCK)
        assert over(read), "all of it is here"
        assert not bench.store.pending
        flush = bench.flush()
        assert not over(flush)
        bench.store.answer_all()
        assert over(flush)
        assert flush.status is OK
        assert bench.store.writes == 1
        assert bytes(bench.store.disk[: 4 * BLOCK]) == bytes(read.buffers[0])

    run(body)


def test_a_fua_write_comes_behind_what_is_kept_of_its_chunk() -> None:
    async def body() -> None:
        bench = behind(Bench())
        bench.start(IoKind.WRITE, 0, b"o" * BLOCK)
        bench.start(IoKind.WRITE, CHUNK, b"x" * BLOCK)
        fua = bench.start(IoKind.WRITE, 0, b"n" * BLOCK, fua=True)
        bench.store.answer_all()
        assert over(fua)
        assert bench.store.disk[:BLOCK] == b"n" * BLOCK
        assert bench.store.disk[CHUNK : CHUNK + BLOCK] == bytes(BLOCK), "another chunk stays"

    run(body)


def test_a_full_cache_makes_writes_wait() -> None:
    async def body() -> None:
        bench = behind(Bench(bytes_max=4 * BLOCK))
        ios = [bench.start(IoKind.WRITE, n * CHUNK, b"d" * BLOCK) for n in range(6)]
        assert [over(io) for io in ios] == [True] * 4 + [False] * 2
        while not all(over(io) for io in ios):
            assert bench.cache.kept_bytes <= 4 * BLOCK
            bench.store.answer()
        large = bench.start(IoKind.WRITE, 0, b"l" * (2 * CHUNK))
        bench.store.answer_all()
        assert over(large), "one that is larger than the bound goes alone"

    run(body)


def test_what_the_store_refuses_stays_and_is_tried_again() -> None:
    async def body() -> None:
        bench = behind(Bench(bytes_max=2 * BLOCK))
        bench.start(IoKind.WRITE, 0, b"a" * BLOCK)
        bench.store.refuses = NO_SPACE
        flush = bench.flush()
        newer = bench.start(IoKind.WRITE, 0, b"b" * BLOCK)
        waiting = bench.start(IoKind.WRITE, CHUNK, b"c" * (2 * BLOCK))
        bench.store.answer_all()
        assert (over(flush), flush.status) == (True, NO_SPACE)
        assert over(newer), "it has been answered"
        assert (over(waiting), waiting.status) == (True, NO_SPACE), "there is no room for it"
        assert bench.cache.kept_bytes == BLOCK
        bench.store.refuses = OK
        again = bench.flush()
        bench.store.answer_all()
        assert (over(again), again.status) == (True, OK)
        assert bench.store.disk[:BLOCK] == b"b" * BLOCK

    run(body)


class Pool:
    """What RADOS has, two extents an operation; an operation ends when it is told how.

    ``pending``: the object of each that is on its way, where its extents begin, and its end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rados_store, "EXTENTS_MAX", 2)
        self.objects: dict[str, dict[int, bytes]] = {}
        self.pending: list[tuple[str, list[int], Callable[[int], None]]] = []

    def write_extents(self, name: str, extents: Sequence[tuple[int, bytes]], done: Done) -> None:
        def ended(result: int) -> None:
            if result >= 0:
                self.objects.setdefault(name, {}).update(extents)
            done(result, b"")

        self.pending.append((name, [start for start, _ in extents], ended))

    def cache(self) -> WriteBehind:
        client: Any = self
        return WriteBehind(RadosStore(client, bytes(16), SIZE, CHUNK), SIZE, age_seconds=1e6)


def submit(cache: WriteBehind, kind: IoKind, offset: int = 0, data: bytes = b"") -> list[StoreIo]:
    """It is in what is returned when it has ended."""
    ended: list[StoreIo] = []
    cache.submit(StoreIo(kind, offset, len(data), ended.append, [memoryview(data)]))
    return ended


def test_a_chunk_of_many_pieces_goes_to_rados_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        pool = Pool(monkeypatch)
        cache = pool.cache()
        assert submit(cache, IoKind.FLUSH)[0].status is OK
        starts = [2 * BLOCK * n for n in range(4)]
        for at in starts:
            assert submit(cache, IoKind.WRITE, at, b"o" * BLOCK)
        flush = submit(cache, IoKind.FLUSH)
        for result in (0, -errno.ENOSPC):
            assert not flush
            _, _, ended = pool.pending.pop()
            submit(cache, IoKind.WRITE, 0, b"n" * BLOCK)  # newer than what is on its way
            ended(result)
        assert flush[0].status is NO_SPACE
        assert cache.kept_bytes == 4 * BLOCK, "a part that has failed leaves all of it"
        flush = submit(cache, IoKind.FLUSH)
        for some in (starts[:2], starts[2:]):
            assert not flush
            ((_, went, ended),) = pool.pending
            pool.pending.clear()
            assert went == some
            ended(0)
        assert flush[0].status is OK
        assert not pool.pending
        (there,) = pool.objects.values()
        assert there == {at: (b"n" if at == 0 else b"o") * BLOCK for at in starts}

    run(body)


def test_what_is_closed_sends_no_further_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        pool = Pool(monkeypatch)
        cache = pool.cache()
        submit(cache, IoKind.FLUSH)
        for n in range(4):
            submit(cache, IoKind.WRITE, 2 * BLOCK * n, b"o" * BLOCK)
        submit(cache, IoKind.WRITE, CHUNK, b"o" * BLOCK)
        flush = submit(cache, IoKind.FLUSH)  # the volume is to be deleted
        (_, _, first), (_, _, second) = pool.pending
        pool.pending.clear()
        second(-errno.ENOSPC)
        assert flush[0].status is NO_SPACE
        cache.close()  # and then its objects are removed
        first(0)
        pool.objects.clear()
        while pool.pending:
            _, _, ended = pool.pending.pop()
            ended(0)
        assert not pool.objects, "an object was made again behind the deletion"

    run(body)


def test_a_store_that_is_gone_takes_what_is_kept_along() -> None:
    async def body() -> None:
        bench = behind(Bench(bytes_max=2 * BLOCK))
        bench.start(IoKind.WRITE, 0, b"a" * BLOCK)
        flush = bench.flush()
        waiting = bench.start(IoKind.WRITE, CHUNK, b"c" * (2 * BLOCK))
        bench.store.refuses = UNAVAILABLE
        bench.store.answer_all()
        assert (flush.status, waiting.status) == (UNAVAILABLE, UNAVAILABLE)
        assert bench.cache.lost_bytes == BLOCK
        late = bench.start(IoKind.WRITE, 0, b"x" * BLOCK)
        assert not over(late), "the store says what becomes of it"
        for _ in range(2):
            flush = bench.flush()
            assert (over(flush), flush.status) == (True, StoreStatus.SYNC_LOST)

    run(body)


def test_a_store_that_is_gone_when_nothing_is_kept_has_lost_nothing() -> None:
    async def body() -> None:
        bench = behind(Bench())
        bench.start(IoKind.WRITE, 0, b"a" * BLOCK)
        bench.flush()
        bench.store.answer_all()
        bench.store.refuses = UNAVAILABLE
        flush = bench.flush()
        bench.store.answer_all()
        assert (over(flush), flush.status) == (True, OK)

    run(body)


def test_nothing_is_kept_for_long() -> None:
    async def body() -> None:
        bench = behind(Bench(age_seconds=0.01))
        asked = asyncio.Event()
        bench.store.asked = asked.set
        bench.start(IoKind.WRITE, 0, b"a" * BLOCK)
        async with asyncio.timeout(30):
            await asked.wait()
        bench.store.answer_all()
        assert bench.store.disk[:BLOCK] == b"a" * BLOCK
        bench.cache.close()

    run(body)


@pytest.mark.parametrize("seed", range(80))
def test_any_order_of_answers(seed: int) -> None:
    """Reads find what was answered, a flush has it in the store; overlaps are ordered, as above."""

    async def body() -> None:
        chance = random.Random(seed)
        bytes_max = chance.choice((4, 16, 64)) * BLOCK
        bench = behind(Bench(bytes_max, read_bytes_max=chance.choice((0, CHUNK, 4 * CHUNK, SIZE))))
        faults = chance.choice((0.0, 0.2))
        truth = bytearray(SIZE)
        running: list[tuple[int, int, StoreIo, bytes | None]] = []
        # Each with what was there when it began, and where something has been begun since.
        flushes: list[tuple[StoreIo, bytearray, bytearray]] = []

        def settle() -> None:
            for entry in list(running):
                start, stop, io, data = entry
                if not over(io):
                    continue
                running.remove(entry)
                if io.status is not OK:
                    assert io.status is NO_SPACE
                    assert faults
                elif data is not None:
                    truth[start:stop] = data
                else:
                    assert b"".join(io.buffers) == bytes(truth[start:stop])
            for flush in list(flushes):
                io, then, changed = flush
                if over(io):
                    flushes.remove(flush)
                    if io.status is OK:
                        same = zip(then, bench.store.disk, changed, strict=True)
                        assert all(a == b or new for a, b, new in same)

        def change(kind: IoKind, start: int, data: bytes, *, fua: bool = False) -> None:
            for _, _, changed in flushes:
                changed[start : start + len(data)] = b"x" * len(data)
            given: bytes | int = data if kind is IoKind.WRITE else len(data)
            io = bench.start(kind, start, given, fua=fua, cut=BLOCK * chance.randrange(20))
            running.append((start, start + len(data), io, data))

        for _ in range(400):
            first = chance.randrange(SIZE // BLOCK)
            start = first * BLOCK
            stop = min(SIZE, start + BLOCK * chance.choice((1, 2, 8, 11, 16, 24)))
            free = all(stop <= a or start >= b for a, b, _, _ in running)
            match chance.randrange(9):
                case 0 | 1 | 2 if free:
                    data = chance.randbytes(stop - start)
                    change(IoKind.WRITE, start, data, fua=chance.random() < 0.1)
                case 3 if free:
                    change(IoKind.ZERO, start, bytes(stop - start))
                case 4 | 5 if free:
                    io = bench.start(
                        IoKind.READ,
                        start,
                        stop - start,
                        cut=BLOCK * chance.randrange(20),
                        takes_views=chance.random() < 0.5,
                    )
                    running.append((start, stop, io, None))
                case 6 if not any(data for *_, data in running):
                    flushes.append((bench.flush(), bytearray(truth), bytearray(SIZE)))
                case _:
                    bench.store.refuses = NO_SPACE if chance.random() < faults else OK
                    if bench.store.pending:
                        bench.store.answer(chance.randrange)
            settle()
        bench.store.refuses = OK
        bench.store.answer_all()
        settle()
        last = bench.flush()
        bench.store.answer_all()
        assert over(last)
        assert bench.store.disk == truth
        assert not bench.cache.kept_bytes
        assert not running
        assert not flushes or all(over(io) for io, _, _ in flushes)

    run(body)
