"""Moving a volume's chunks: the order of each step, and random I/O, failures and crashes."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from target.block.layout import Layout, MovingLayout
from target.block.migration import Journal, JournalInDoubt, Mover, finished
from target.block.pool import POOL_BYTES_MIN, BufferPool
from target.block.volume import CHUNK_BYTES_MIN, Volume
from tests.support.stores import FailingStore, HeldStore, StoreWrapper
from tests.support.waits import Waiting, result_of
from workers.memory_store import MemoryStore
from workers.store import IoKind, StoreError, StoreIo, StoreStatus, VolumeStore

CHUNK = CHUNK_BYTES_MIN
CHUNKS = 7
SIZE = (CHUNKS - 1) * CHUNK + CHUNK // 2  # the last one is cut short
BLOCK = 4096
LIFE_SECONDS_MAX = 60
WRITING = (IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP)


class World:
    """What outlives a crash, and when the next one comes."""

    def __init__(self, seed: int, crash_after: int) -> None:
        self.random = random.Random(seed)
        self.steps_left = crash_after
        self.crashed = asyncio.Event()
        self.records: list[int] = []
        self.targets: dict[int, SlowStore] = {}

    def step(self) -> bool:
        """False: the process has crashed, nothing happens any more."""
        self.steps_left -= 1
        if self.steps_left <= 0:
            self.crashed.set()
        return not self.crashed.is_set()


class SlowStore(StoreWrapper):
    """Carries an I/O out when it comes or later, answers later, and fails now and then."""

    at_hand = False

    def __init__(self, inner: MemoryStore, world: World) -> None:
        super().__init__(inner)
        self.world = world
        self.unflushed: set[int] = set()

    def submit(self, io: StoreIo) -> None:
        if self.world.step():
            self._later(lambda: self._carry_out(io))

    def _later(self, what: Callable[[], object], turns: int | None = None) -> None:
        left = self.world.random.randrange(4) if turns is None else turns
        loop = asyncio.get_running_loop()
        loop.call_soon(what if not left else lambda: self._later(what, left - 1))

    def _carry_out(self, io: StoreIo) -> None:
        if not self.world.step():
            return
        if self.world.random.random() < 0.05:
            io.status = StoreStatus.UNAVAILABLE
            self._later(lambda: self._answer(io))
            return
        if io.kind in WRITING:
            self.unflushed |= set(range(io.offset // CHUNK, -(-(io.offset + io.length) // CHUNK)))
        elif io.kind is IoKind.FLUSH:
            self.unflushed.clear()
        done, io.done = io.done, lambda _: None
        self.inner.submit(io)
        io.done = done
        self._later(lambda: self._answer(io))

    def _answer(self, io: StoreIo) -> None:
        if self.world.step():
            io.done(io)


class MemoryJournal:
    """Keeps records over crashes, and fails in each way that a file can."""

    def __init__(self, world: World, layout: MovingLayout) -> None:
        self._world = world
        self._layout = layout

    async def append(self, chunk: int) -> None:
        target = self._layout.stores[self._layout.new_place(chunk)]
        assert isinstance(target, SlowStore)
        assert chunk not in target.unflushed, "journaled before it was flushed"
        records, fate = self._world.records, self._world.random.random()
        await self._step()
        if fate < 0.1:
            raise OSError(28, "No space left on device")
        if fate > 0.2 or self._world.random.random() < 0.5:
            records.append(chunk)
        await self._step()
        if fate < 0.2:
            raise JournalInDoubt("the journal is broken")

    async def revoke(self) -> None:
        await self._step()
        if self._world.random.random() < 0.3:
            raise OSError(5, "Input/output error")
        self._world.records[:] = [r for r in self._world.records if r < self._layout.moved]
        await self._step()

    async def _step(self) -> None:
        await asyncio.sleep(0)
        if not self._world.step():
            await asyncio.Event().wait()


def volume_over(layout: Layout) -> Volume:
    volume = Volume("v", uuid.UUID(int=1), layout.stores, chunk_bytes=CHUNK, place=layout.place)
    volume.relayout(layout)
    return volume


def mover_of(
    volume: Volume,
    layout: MovingLayout,
    journal: Journal,
    pool: BufferPool,
    one_medium: Callable[[VolumeStore, VolumeStore], bool] = lambda one, other: False,
) -> Mover:
    return Mover(
        volume,
        layout,
        journal,
        pool.open_share(),
        clock=time.monotonic,
        random=random.random,
        one_medium=one_medium,
        rate=0,
        backoff_seconds=0,
    )


class Model:
    """What each block may hold: one value, or several after a crash or an error."""

    def __init__(self) -> None:
        self.may: list[set[int]] = [{0} for _ in range(SIZE // BLOCK)]

    async def write(self, volume: Volume, rng: random.Random) -> None:
        """One at a time, so that there is one value that a block must have."""
        block = rng.randrange(len(self.may))
        value = rng.randrange(4)
        self.may[block].add(value)
        try:
            if value:
                data = memoryview(bytes([value]) * BLOCK)
                await finished(volume.write(block * BLOCK, [data], BLOCK))
            else:
                await finished(volume.zero(block * BLOCK, BLOCK, unmap=True))
        except StoreError:
            return  # it may have happened
        self.may[block] = {value}

    def check(self, block: int, data: bytes) -> None:
        assert len(set(data)) == 1, f"block {block} is a mixture"
        assert data[0] in self.may[block], f"block {block} has {data[0]}, not {self.may[block]}"
        self.may[block] = {data[0]}


async def one_life(
    world: World, model: Model, old: list[MemoryStore], new: list[MemoryStore]
) -> bool:
    """From a start to a crash or to the end of the migration (True)."""
    world.crashed = asyncio.Event()
    slow = {id(store): SlowStore(store, world) for store in (*old, *new)}
    layout = MovingLayout(
        Layout([slow[id(s)] for s in old], lambda chunk: chunk % len(old)),
        Layout([slow[id(s)] for s in new], lambda chunk: chunk * 5 % 3 % len(new)),
        world.records[-1] + 1 if world.records else 0,
    )
    volume = volume_over(layout)
    mover = mover_of(volume, layout, MemoryJournal(world, layout), BufferPool(POOL_BYTES_MIN))
    over = asyncio.Event()

    async def write_on() -> None:
        while not over.is_set():
            await model.write(volume, world.random)

    async def read_on() -> None:
        while not over.is_set():
            at = world.random.randrange(SIZE // BLOCK) * BLOCK
            data = bytearray(BLOCK)
            try:
                await finished(volume.read(at, [memoryview(data)], BLOCK))
                await finished(volume.flush())
            except StoreError:
                continue
            assert len(set(data)) == 1

    others = [asyncio.create_task(write_on()), asyncio.create_task(read_on())]
    moving = asyncio.create_task(mover.run())
    crash = asyncio.create_task(world.crashed.wait())
    async with asyncio.timeout(LIFE_SECONDS_MAX):
        await asyncio.wait([moving, crash, *others], return_when=asyncio.FIRST_COMPLETED)
    survived = moving.done() and not world.crashed.is_set()
    over.set()
    tasks = [moving, crash, *others]
    if survived:
        assert moving.result()
        assert volume.layout is layout.new
        world.steps_left = 1 << 30
        await asyncio.gather(*others)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    # What the medium holds, read past the stores that fail: as the next life will look for it.
    final = volume.layout
    if not survived:
        layout.moved = world.records[-1] + 1 if world.records else 0
    for block in range(SIZE // BLOCK):
        store = final.stores[final.place(block * BLOCK // CHUNK)]
        assert isinstance(store, SlowStore)
        data = bytearray(BLOCK)
        assert store.inner.read_now(block * BLOCK, [memoryview(data)], BLOCK)
        model.check(block, bytes(data))
    return survived


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1 << 32),
    crashes=st.lists(st.integers(1, 400), max_size=8),
    counts=st.sampled_from([(1, 1), (1, 3), (3, 1), (2, 3), (3, 2)]),
    kept=st.booleans(),
)
def test_nothing_is_lost_or_mixed_whatever_fails_and_whenever_it_crashes(
    seed: int, crashes: list[int], counts: tuple[int, int], kept: bool
) -> None:
    """``kept``: a store is in the old and in the new layout."""
    old = [MemoryStore(SIZE) for _ in range(counts[0])]
    new = [MemoryStore(SIZE) for _ in range(counts[1])]
    if kept:
        new[-1] = old[0]
    for store in new:
        if store not in old:  # leftovers of an earlier try must not shine through
            store.write_now(0, [memoryview(b"\xee" * SIZE)], SIZE)
    model = Model()
    world = World(seed, 0)
    for crash_after in [*crashes, 1 << 30]:
        world.steps_left = crash_after
        if asyncio.run(one_life(world, model, old, new)):
            return
    raise AssertionError("it did not end without a crash")


# --- one thing at a time -------------------------------------------------------------------------


class KeptJournal:
    def __init__(self) -> None:
        self.records: list[int] = []

    async def append(self, chunk: int) -> None:
        self.records.append(chunk)

    async def revoke(self) -> None:
        raise AssertionError("nothing is in doubt")


def moving(old: VolumeStore, new: VolumeStore) -> tuple[Volume, MovingLayout]:
    layout = MovingLayout(Layout([old]), Layout([new]))
    return volume_over(layout), layout


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIFE_SECONDS_MAX):
        while not condition():  # noqa: ASYNC110  # the mover tells nobody
            await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIFE_SECONDS_MAX):
            await test()

    asyncio.run(bounded())


def test_io_on_the_chunk_that_moves_waits_and_other_io_does_not() -> None:
    async def test() -> None:
        old, new = MemoryStore(2 * CHUNK), HeldStore(MemoryStore(2 * CHUNK))
        new.at_hand = False
        volume, layout = moving(old, new)
        task = asyncio.create_task(
            mover_of(volume, layout, KeptJournal(), BufferPool(POOL_BYTES_MIN)).run()
        )
        await settle(lambda: bool(new.held))
        data = memoryview(b"x" * BLOCK)
        waits = Waiting(volume.write(0, [data], BLOCK))
        assert not waits.over()
        result_of(volume.write(CHUNK, [data], BLOCK))
        while not task.done():
            new.release_all()
            await asyncio.sleep(0)
        await settle(waits.over)
        found = bytearray(BLOCK)
        assert new.inner.read_now(0, [memoryview(found)], BLOCK)
        assert found == data
        assert new.inner.read_now(CHUNK, [memoryview(found)], BLOCK)
        assert found == data

    run(test)


def test_a_store_that_fails_leaves_the_chunk_where_it_was_and_says_why() -> None:
    async def test() -> None:
        new = FailingStore(MemoryStore(CHUNK), {IoKind.WRITE: StoreStatus.NO_SPACE})
        old = MemoryStore(CHUNK)
        volume, layout = moving(old, new)
        data = memoryview(b"x" * CHUNK)
        result_of(volume.write(0, [data], CHUNK))
        journal = KeptJournal()
        mover = mover_of(volume, layout, journal, BufferPool(POOL_BYTES_MIN))
        task = asyncio.create_task(mover.run())
        await settle(lambda: mover.trouble != "")
        assert mover.trouble == "chunk 0: no space left"
        assert (mover.chunks_done, mover.chunks_total, journal.records) == (0, 1, [])
        found = bytearray(CHUNK)
        await finished(volume.read(0, [memoryview(found)], CHUNK))
        assert found == data
        new.failures.clear()
        assert await task
        assert (mover.chunks_done, mover.trouble, journal.records) == (1, "", [0])
        assert old.mapped_bytes == CHUNK  # all of it is left: its share goes as a whole

    run(test)


def test_what_a_source_has_lost_does_not_move() -> None:
    """The one who wrote it has to hear of it: from the store where its flush will go."""

    async def test() -> None:
        old = FailingStore(MemoryStore(CHUNK), {IoKind.FLUSH: StoreStatus.SYNC_LOST})
        volume, layout = moving(old, MemoryStore(CHUNK))
        mover = mover_of(volume, layout, KeptJournal(), BufferPool(POOL_BYTES_MIN))
        task = asyncio.create_task(mover.run())
        await settle(lambda: mover.trouble != "")
        with pytest.raises(StoreError) as caught:
            await finished(volume.flush())
        assert caught.value.status is StoreStatus.SYNC_LOST
        mover.stop()
        assert not await task

    run(test)


def test_a_loss_that_a_store_says_only_once_is_said_to_who_flushes_next() -> None:
    class SaysOnce(FailingStore):
        def submit(self, io: StoreIo) -> None:
            super().submit(io)
            if io.kind is IoKind.FLUSH:
                self.failures.clear()

    async def test() -> None:
        old = SaysOnce(MemoryStore(CHUNK), {IoKind.FLUSH: StoreStatus.SYNC_LOST})
        volume, layout = moving(old, MemoryStore(CHUNK))
        assert await mover_of(volume, layout, KeptJournal(), BufferPool(POOL_BYTES_MIN)).run()
        with pytest.raises(StoreError) as caught:
            await finished(volume.flush())
        assert caught.value.status is StoreStatus.SYNC_LOST
        await finished(volume.flush())

    run(test)


def test_the_old_copy_is_given_back_where_its_store_stays() -> None:
    async def test() -> None:
        stays, comes = MemoryStore(4 * CHUNK), MemoryStore(4 * CHUNK)
        layout = MovingLayout(Layout([stays]), Layout([stays, comes], lambda chunk: chunk % 2))
        volume = volume_over(layout)
        result_of(volume.write(0, [memoryview(b"x" * 4 * CHUNK)], 4 * CHUNK))
        mover = mover_of(volume, layout, KeptJournal(), BufferPool(POOL_BYTES_MIN))
        assert await mover.run()
        assert (stays.mapped_bytes, comes.mapped_bytes) == (2 * CHUNK, 2 * CHUNK)
        assert (mover.moved_chunks, mover.copied_bytes) == (2, 2 * CHUNK)

    run(test)


def test_a_shared_store_changes_hands_without_a_copy() -> None:
    async def test() -> None:
        medium = MemoryStore(2 * CHUNK)
        old, new = StoreWrapper(medium), StoreWrapper(medium)
        volume, layout = moving(old, new)
        result_of(volume.write(0, [memoryview(b"x" * 2 * CHUNK)], 2 * CHUNK))
        pool = BufferPool(POOL_BYTES_MIN)
        mover = mover_of(volume, layout, KeptJournal(), pool, one_medium=lambda one, other: True)
        assert await mover.run()
        assert (mover.copied_bytes, medium.mapped_bytes) == (0, 2 * CHUNK)

    run(test)


def test_a_status_that_was_asked_before_the_move_is_asked_again() -> None:
    """Its old place may have been emptied before it answered."""

    async def test() -> None:
        old, new = HeldStore(MemoryStore(CHUNK)), MemoryStore(CHUNK)
        volume = volume_over(Layout([old]))
        asked = Waiting(volume.block_status(0, CHUNK))
        new.write_now(0, [memoryview(b"x" * CHUNK)], CHUNK)
        layout = MovingLayout(Layout([old]), Layout([new]), moved=1)
        volume.relayout(layout)
        old.release_all()
        assert [(run.length, run.mapped) for run in asked.outcome] == [(CHUNK, True)]
        assert volume.layout.unordered == 0

    run(test)
