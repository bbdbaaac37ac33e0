"""Failing over, rule by rule, against scripted workers of one shared store.

The rules are those of docs/decisions/0012-failing-over.md; test_failover_model.py plays with them.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from target.block import failover
from target.block.failover import Failover
from target.block.placement import Placement
from target.block.remote import RemoteStore
from target.block.share_group import ShareGroup
from target.block.volume import Volume
from target.block.worker_channel import ShareInfo, WorkerChannel
from target.block.worker_link import WorkerLink
from tests.support.fake_worker import FakeStream, FakeWorker
from tests.unit.test_worker_link import BLOCK, OK, SIZE, UUID, begin, data, outcome, run, status_of
from workers.store import IoKind, StoreStatus
from workers.wire import Answer

CHUNK = 65536
WAIT_SECONDS = 10.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test says when a worker has been away for long enough (``Node.late``)."""
    monkeypatch.setattr(failover, "FAILOVER_SECONDS", 1000.0)
    monkeypatch.setattr(failover, "RETRY_SECONDS", 0.05)


class Node:
    """Over workers of one store; ``known`` is what the catalog says of their instances."""

    def __init__(self, fakes: list[FakeWorker], known: dict[int, str], io_seconds: float) -> None:
        self.failover = Failover(structlog.get_logger(), time.monotonic)
        self.kept: list[tuple[int, str, str]] = []
        self.links: list[WorkerLink] = []
        self.stores: list[RemoteStore] = []
        group = ShareGroup()
        sequences = itertools.count(1)
        for number, fake in enumerate(fakes):
            link = self._link(number, fake, sequences, io_seconds)
            if number in known:
                link.suspect("engine", known[number])
            info = ShareInfo("disk", UUID.bytes, SIZE, CHUNK, 512, place=f"p{number}")
            store_id = "engine" if number in known else ""
            self.stores.append(RemoteStore(link, info, create=True, group=group, store_id=store_id))
            self.links.append(link)
        self.place = Placement(UUID, [store.info.place for store in self.stores])
        self.volume = Volume("disk", UUID, self.stores, chunk_bytes=CHUNK, place=self.place)

    def _link(
        self, number: int, fake: FakeWorker, sequences: itertools.count[int], io_seconds: float
    ) -> WorkerLink:
        return WorkerLink(
            fake.address,
            lambda: WorkerChannel(fake.address),
            node="node",
            epoch=7,
            sequences=sequences,
            clock=time.monotonic,
            random=random.random,
            io_seconds=io_seconds,
            log=structlog.get_logger(),
            failover=self.failover,
            on_instance=lambda store_id, instance: self.kept.append((number, store_id, instance)),
        )

    def late(self, worker: int) -> None:
        """It has been away for as long as others wait for it."""
        self.links[worker].down_since -= 1000.0
        self.failover.changed()

    def block_of(self, worker: int) -> int:
        """The number of a block whose home is ``worker``."""
        return next(n for n in range(SIZE // CHUNK) if self.place(n) == worker) * CHUNK // BLOCK

    def write(self, block: int, fill: int) -> asyncio.Future[object]:
        return begin(self.volume.write(block * BLOCK, [data(fill)], BLOCK))


@asynccontextmanager
async def setup(
    folder: Path,
    count: int = 2,
    io_seconds: float = 8.0,
    known: dict[int, str] | None = None,
    stopped: int | None = None,
    store_id: str = "engine",
) -> AsyncIterator[tuple[Node, list[FakeWorker]]]:
    fakes = []
    for number in range(count):
        (folder / str(number)).mkdir()
        fake = FakeWorker(folder / str(number))
        if store_id:
            fake.store_id, fake.instance = store_id, f"{number}.1"
        await fake.start()
        fakes.append(fake)
        if number == stopped:
            fake.runs.clear()
    node = Node(fakes, known or {}, io_seconds)
    node.failover.start()
    for link in node.links:
        link.start()
    try:
        for number, link in enumerate(node.links):
            assert number == stopped or await link.wait_served(WAIT_SECONDS)
        yield node, fakes
    finally:
        for fake in fakes:
            fake.runs.set()
        await node.failover.close()
        for link in node.links:
            await link.close()
        for fake in fakes:
            await fake.stop()


async def until(condition: object, what: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def answer(stream: FakeStream, fake: FakeWorker, count: int) -> None:
    """Execute the I/O number ``count`` of a stream, and say so."""
    await stream.send(fake.execute((await stream.has(count))[-1]))


async def leave(node: Node, worker: int, fake: FakeWorker, stream: FakeStream) -> None:
    """The process hangs: its stream is cut, it answers nothing, and it is missed."""
    fake.runs.clear()
    stream.cut.set()
    await until(lambda: not node.links[worker].serving, "noticed")
    node.late(worker)


@run
async def test_io_moves_after_the_eviction_and_not_before(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        second.evict_status = StoreStatus.UNAVAILABLE
        write = node.write(node.block_of(0), 5)
        await one.has(1)
        await leave(node, 0, first, one)
        await until(lambda: len(second.evicted) >= 2, "asked again")
        assert two.ios == []
        assert not node.links[0].out
        second.evict_status = OK
        (wire,) = await two.has(1)
        assert set(second.evicted) == {"0.1"}
        assert wire.payload == data(5)
        await two.send(second.execute(wire))
        assert await outcome(write) is None
        assert node.links[0].out


@run
async def test_what_comes_while_a_worker_is_out_goes_to_the_others(tmp_path: Path) -> None:
    async with setup(tmp_path, 3) as (node, fakes):
        streams = [await fake.stream() for fake in fakes]
        await leave(node, 0, fakes[0], streams[0])
        await until(lambda: node.links[0].out, "out")
        homes = [n for n in range(SIZE // CHUNK) if node.place(n) == 0]
        writes = [node.write(n * CHUNK // BLOCK, 1) for n in homes]
        await until(lambda: sum(len(s.ios) for s in streams[1:]) == len(homes), "sent")
        for stream, fake in zip(streams[1:], fakes[1:], strict=True):
            await stream.send(*map(fake.execute, stream.ios))
        assert [await outcome(write) for write in writes] == [None] * len(homes)
        assert fakes[1].evicted == fakes[2].evicted == ["0.1"]


@run
async def test_a_flush_needs_one_worker_only(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        second.evict_status = StoreStatus.UNAVAILABLE
        await leave(node, 0, first, one)
        await until(lambda: not node.links[0].serving, "noticed")
        flush = begin(node.volume.flush())
        ios = await two.has(2)
        assert {wire.kind for wire in ios} == {IoKind.FLUSH}
        await two.send(*map(second.execute, ios))
        assert await outcome(flush) is None


@run
async def test_a_compare_and_write_that_was_sent_is_not_sent_elsewhere(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        at = node.block_of(0) * BLOCK
        act = begin(node.volume.compare_and_write(at, [data(0)], [data(1)], BLOCK))
        await one.has(1)
        await leave(node, 0, first, one)
        assert status_of(await outcome(act)) is StoreStatus.WRITE_FAILED
        assert two.ios == []


@run
async def test_a_compare_and_write_waits_for_its_retry_and_its_process_goes(tmp_path: Path) -> None:
    """It was sent, and lined up again on a stream that ended before it could go."""
    async with setup(tmp_path, 1) as (node, (fake,)):
        one = await fake.stream()
        act = begin(node.volume.compare_and_write(0, [data(0)], [data(1)], BLOCK))
        await one.has(1)
        fake.credit = BLOCK  # it needs two blocks: it has to wait
        one.cut.set()
        two = await fake.stream()
        await until(lambda: node.links[0].serving, "served")
        fake.become("0.2")
        two.cut.set()
        three = await fake.stream()
        assert status_of(await outcome(act)) is StoreStatus.WRITE_FAILED
        assert two.ios == three.ios == []


@run
async def test_a_successor_gets_io_when_all_have_shut_out_its_predecessor(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, _ = await first.stream(), await second.stream()
        write = node.write(node.block_of(0), 5)
        await one.has(1)
        first.become("0.2")
        one.cut.set()
        again = await first.stream()
        await again.has(1)
        assert first.evicted == second.evicted == ["0.1"]
        assert (0, "engine", "0.2") in node.kept
        await answer(again, first, 1)
        assert await outcome(write) is None


@run
async def test_who_fails_to_shut_out_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    async with setup(tmp_path, 3) as (node, fakes):
        streams = [await fake.stream() for fake in fakes]
        fakes[2].evict_status = StoreStatus.UNAVAILABLE
        connections = node.links[2].connections
        await leave(node, 0, fakes[0], streams[0])
        await until(lambda: node.links[0].out, "out")
        await fakes[2].stream()
        await until(lambda: node.links[2].connections == connections + 1, "served again")
        assert node.links[1].connections == 1


@run
async def test_an_instance_that_was_shut_out_is_not_used_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        await leave(node, 0, first, one)
        await until(lambda: node.links[0].out, "out")
        first.runs.set()
        await until(lambda: "shut out" in node.links[0].reason, "recognized")
        write = node.write(node.block_of(0), 3)
        await answer(two, second, 1)
        assert await outcome(write) is None
        assert first.streams.empty()
        first.become("0.2")
        again = await first.stream()
        await until(lambda: not node.links[0].out, "home again")
        write = node.write(node.block_of(0), 4)
        await answer(again, first, 1)
        assert await outcome(write) is None


@run
async def test_who_opened_its_volumes_before_an_eviction_starts_over(tmp_path: Path) -> None:
    async with setup(tmp_path, 3) as (node, fakes):
        streams = [await fake.stream() for fake in fakes]
        fakes[2].greets = False  # its volumes are opened, and it is not served yet
        streams[2].cut.set()
        behind = await fakes[2].stream()
        await leave(node, 0, fakes[0], streams[0])
        await until(lambda: node.links[0].out, "out")
        fakes[2].greets = True
        await behind.send(credit=1 << 20)
        await fakes[2].stream()  # another one
        await until(lambda: node.links[2].serving, "served")
        assert node.links[2].connections == 2
        assert behind.ios == []


@run
async def test_a_write_in_doubt_holds_its_range_at_every_worker(tmp_path: Path) -> None:
    """Its home was out, and is there again, while another one has not said what became of it."""
    async with setup(tmp_path, io_seconds=1.0) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        block = node.block_of(0)
        await leave(node, 0, first, one)
        await until(lambda: node.links[0].out, "out")
        old = node.write(block, 1)
        (wire,) = await two.has(1)
        assert status_of(await outcome(old)) is StoreStatus.DEADLINE
        first.become("0.2")
        first.runs.set()
        home = await first.stream()
        await until(lambda: not node.links[0].out, "home again")
        new = node.write(block, 2)
        elsewhere = node.write(block + 1, 3)
        await answer(home, first, 1)
        assert await outcome(elsewhere) is None
        assert len(home.ios) == 1
        await two.send(second.execute(wire))
        await answer(home, first, 2)
        assert await outcome(new) is None


@run
async def test_a_doubt_at_a_worker_that_the_volume_has_left_ends_as_well(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=1.0) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        block = node.block_of(0)
        old = node.write(block, 1)
        await one.has(1)
        assert status_of(await outcome(old)) is StoreStatus.DEADLINE
        node.stores[0].close()
        volume = Volume("disk", UUID, [node.stores[1]], chunk_bytes=CHUNK)
        await leave(node, 0, first, one)
        new = begin(volume.write(block * BLOCK, [data(2)], BLOCK))
        (wire,) = await two.has(1)
        assert second.evicted == ["0.1"]
        assert wire.payload == data(2)
        await two.send(second.execute(wire))
        assert await outcome(new) is None


@run
async def test_a_moved_io_keeps_its_deadline(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=1.5) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        began = asyncio.get_running_loop().time()
        write = node.write(node.block_of(0), 1)
        await one.has(1)
        await asyncio.sleep(0.5)
        await leave(node, 0, first, one)
        (wire,) = await two.has(1)
        spent = asyncio.get_running_loop().time() - began
        assert wire.deadline_ms <= (1.5 - spent) * 1000 + 100
        assert status_of(await outcome(write)) is StoreStatus.DEADLINE


@run
async def test_a_new_life_sends_nothing_before_the_last_one_is_over(tmp_path: Path) -> None:
    """What the last life sent to one worker may be of a chunk whose home is another."""
    async with setup(tmp_path, known={0: "0.0", 1: "1.1"}, stopped=0) as (node, (_, second)):
        two = await second.stream()
        write = node.write(node.block_of(1), 1)
        second.evict_status = StoreStatus.UNAVAILABLE
        node.late(0)
        await until(lambda: len(second.evicted) >= 2, "asked")
        assert two.ios == []
        second.evict_status = OK
        await answer(two, second, 1)
        assert await outcome(write) is None
        assert set(second.evicted) == {"0.0"}


@run
async def test_while_nobody_else_is_there_io_waits(tmp_path: Path) -> None:
    async with setup(tmp_path) as (node, (first, second)):
        one, two = await first.stream(), await second.stream()
        await leave(node, 0, first, one)
        await until(lambda: node.links[0].out, "out")
        await leave(node, 1, second, two)
        await until(lambda: not node.links[1].serving, "both away")
        write = node.write(node.block_of(0), 7)
        second.runs.set()
        back = await second.stream()
        await answer(back, second, 1)
        assert await outcome(write) is None


@run
async def test_a_worker_that_answers_nothing_is_given_up(tmp_path: Path) -> None:
    """Its stream is open, and its kernel answers for it."""
    async with setup(tmp_path) as (node, (first, second)):
        _, two = await first.stream(), await second.stream()
        write = node.write(node.block_of(0), 1)
        first.runs.clear()
        await until(lambda: not node.links[0].serving, "noticed")
        assert "no sign of life" in node.links[0].reason
        node.late(0)
        await answer(two, second, 1)
        assert await outcome(write) is None
        assert second.evicted == ["0.1"]


# --- local stores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [True, False])
def test_a_machine_that_restarts_between_write_and_flush_is_told_of(
    tmp_path: Path, flushed: bool
) -> None:
    async def test() -> None:
        async with setup(tmp_path, 1, store_id="") as (node, (fake,)):
            one = await fake.stream()
            write = node.write(0, 1)
            await answer(one, fake, 1)
            assert await outcome(write) is None
            count = 1
            if flushed:
                flush = begin(node.volume.flush())
                await answer(one, fake, 2)
                assert await outcome(flush) is None
                count = 2
            flush = begin(node.volume.flush())  # on its way when the machine goes
            await one.has(count + 1)
            fake.volatile_id, fake.handle = "another boot", fake.handle + 1
            one.cut.set()
            two = await fake.stream()
            await answer(two, fake, 1)
            found = await outcome(flush)
            if flushed:
                assert found is None
            else:
                assert status_of(found) is StoreStatus.SYNC_LOST
            flush = begin(node.volume.flush())
            await answer(two, fake, 2)
            assert await outcome(flush) is None  # said once

    asyncio.run(test())


@run
async def test_a_write_answered_while_a_flush_runs_was_not_flushed_by_it(tmp_path: Path) -> None:
    async with setup(tmp_path, 1, store_id="") as (node, (fake,)):
        one = await fake.stream()
        flush = begin(node.volume.flush())
        (first,) = await one.has(1)
        write = node.write(0, 1)
        await answer(one, fake, 2)
        assert await outcome(write) is None
        await one.send(fake.execute(first))
        assert await outcome(flush) is None
        fake.volatile_id = "another"
        one.cut.set()
        two = await fake.stream()
        fua = begin(node.volume.write(0, [data(1)], BLOCK, True))
        await two.send(Answer((await two.has(1))[0].sequence, OK))
        assert status_of(await outcome(fua)) is StoreStatus.SYNC_LOST
        flush = begin(node.volume.flush())
        await answer(two, fake, 2)
        assert status_of(await outcome(flush)) is StoreStatus.SYNC_LOST
