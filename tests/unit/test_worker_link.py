"""The way to a worker, against one that answers late, out of order, or cuts the stream.

What is proved here is docs/decisions/0010-retries-never-reorder.md.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
import uuid as uuids
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog

from target.block.failover import Failover
from target.block.remote import RemoteStore
from target.block.volume import Volume, VolumeBusy
from target.block.wait import PENDING, Wait
from target.block.worker_channel import ShareInfo, WorkerChannel
from target.block.worker_link import WorkerLink
from target.block.worker_queue import ANSWER_WINDOW_BYTES
from tests.support.fake_worker import FakeStream, FakeWorker
from workers.store import IoKind, StoreError, StoreIo, StoreStatus
from workers.wire import Answer, pack_answers

BLOCK = 4096
SIZE = 1 << 20
OK = StoreStatus.OK
UUID = uuids.UUID("12345678-1234-5678-1234-567812345678")


@pytest.fixture(autouse=True, params=[False, True], ids=["grpc", "socket"])
def _carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it by gRPC, and with a socket beside it."""
    monkeypatch.setattr(FakeWorker, "gives_socket", request.param)


class Setup:
    """A fake worker, a link to it, and a volume over both."""

    def __init__(self, folder: Path, io_seconds: float) -> None:
        self.fake = FakeWorker(folder)
        self.fenced: list[str] = []
        self.on_fenced = self.fenced.append
        self.link = WorkerLink(
            self.fake.address,
            lambda: WorkerChannel(self.fake.address),
            node="node",
            epoch=7,
            sequences=itertools.count(1),
            clock=time.monotonic,
            random=random.random,
            io_seconds=io_seconds,
            log=structlog.get_logger(),
            failover=Failover(structlog.get_logger(), time.monotonic),
            on_fenced=lambda reason: self.on_fenced(reason),
        )
        info = ShareInfo("disk", UUID.bytes, SIZE, 65536, 512)
        self.created = 0
        self.store = RemoteStore(self.link, info, create=True, on_created=self._on_created)
        self.volume = Volume("disk", UUID, [self.store], chunk_bytes=65536)

    def _on_created(self) -> None:
        self.created += 1

    async def away(self, stream: FakeStream) -> None:
        """The worker is gone, and the link has noticed."""
        assert await self.link.wait_served(10)  # or it would be away for it already
        await self.fake.stop()
        stream.cut.set()
        for _ in range(500):
            if not self.link.queue.serving:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the link has not noticed")

    def write(self, block: int, fill: int) -> asyncio.Future[object]:
        return begin(self.volume.write(block * BLOCK, [data(fill)], BLOCK))

    def read(self, block: int) -> tuple[memoryview, asyncio.Future[object]]:
        view = memoryview(bytearray(BLOCK))
        return view, begin(self.volume.read(block * BLOCK, [view], BLOCK))


@asynccontextmanager
async def setup(folder: Path, io_seconds: float = 5.0) -> AsyncIterator[Setup]:
    it = Setup(folder, io_seconds)
    await it.fake.start()
    it.link.start()
    try:
        yield it
    finally:
        await it.link.close()
        await it.fake.stop()


def data(fill: int) -> memoryview:
    return memoryview(bytes([fill]) * BLOCK)


def begin(wait: Wait[object] | Wait[None]) -> asyncio.Future[object]:
    """Start, as a command does."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    outcome: object = wait.begin(future.set_result)
    if outcome is not PENDING:
        future.set_result(outcome)
    return future


async def outcome(future: asyncio.Future[object]) -> object:
    async with asyncio.timeout(10):
        return await future


def status_of(found: object) -> StoreStatus:
    assert isinstance(found, StoreError), found
    return found.status


Test = Callable[[Path], Coroutine[None, None, None]]


def run(test: Test) -> Callable[[Path], None]:
    """A coroutine as a test."""

    def wrapped(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    wrapped.__doc__ = test.__doc__
    return wrapped


# --- the ordinary course --------------------------------------------------------------------------


@run
async def test_a_share_is_made_once_and_kept_before_it_is_used(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        assert (it.created, len(it.fake.created)) == (1, 1)
        assert stream.first.ios == []
        assert (stream.first.node, stream.first.epoch) == ("node", 7)
        stream.cut.set()
        await it.fake.stream()
        assert (it.created, len(it.fake.created)) == (1, 1)


@run
async def test_answers_in_any_order_reach_their_reads(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        it.fake.data[:] = b"".join(bytes([n]) * BLOCK for n in range(SIZE // BLOCK))
        stream = await it.fake.stream()
        reads = [it.read(block) for block in range(8)]
        ios = await stream.has(8)
        assert len(stream.batches) == 1  # one wake-up, one message
        for wire in reversed(ios):
            await stream.send(it.fake.execute(wire))
        for block, (view, done) in enumerate(reads):
            assert await outcome(done) is None
            assert view == data(block)


@run
async def test_payload_waits_for_credit_and_reads_do_not_wait_behind_it(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        it.fake.credit = BLOCK
        stream = await it.fake.stream()
        writes = [it.write(block, 1) for block in range(3)]
        _, read = it.read(9)
        ios = await stream.has(2)
        assert [wire.kind for wire in ios] == [IoKind.WRITE, IoKind.READ]
        assert it.link.queue.credit_bytes == 0
        await stream.send(*map(it.fake.execute, ios))
        assert await outcome(read) is None
        await asyncio.sleep(0.05)
        assert len(stream.ios) == 2
        await stream.send(credit=2 * BLOCK)
        for wire in (await stream.has(4))[2:]:
            await stream.send(it.fake.execute(wire))
        assert [await outcome(write) for write in writes] == [None] * 3


@run
async def test_answers_are_credited_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        assert stream.credited == ANSWER_WINDOW_BYTES
        big = 512 << 10
        for count in range(1, 2 * ANSWER_WINDOW_BYTES // big):
            read = begin(it.volume.read(0, [memoryview(bytearray(big))], big))
            await stream.send(it.fake.execute((await stream.has(count))[-1]))
            await outcome(read)
            assert stream.credited - count * big >= ANSWER_WINDOW_BYTES // 4
            if count == 1:
                assert it.link.queue.answer_credit_bytes == ANSWER_WINDOW_BYTES - big
        await stream.until(lambda: stream.credited > ANSWER_WINDOW_BYTES)


@run
async def test_every_status_arrives_as_itself(tmp_path: Path) -> None:
    retried = {OK, StoreStatus.UNAVAILABLE, StoreStatus.STALE_EPOCH}  # or: the node's life is over
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        for count, status in enumerate(set(StoreStatus) - retried, 1):
            write = it.write(0, 1)
            wire = (await stream.has(count))[-1]
            await stream.send(Answer(wire.sequence, status, (), 77))
            found = await outcome(write)
            assert status_of(found) is status
            assert isinstance(found, StoreError)
            assert found.miscompare_offset == 77


# --- retries --------------------------------------------------------------------------------------


@run
async def test_what_was_in_flight_is_sent_again_under_its_number(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        writes = [it.write(block, 10 + block) for block in range(4)]
        ios = await stream.has(4)
        await stream.send(it.fake.execute(ios[1]))
        assert await outcome(writes[1]) is None
        stream.cut.set()
        second = await it.fake.stream()
        again = await second.has(3)
        assert [w.sequence for w in again] == [ios[n].sequence for n in (0, 2, 3)]
        assert [bytes(w.payload) for w in again] == [bytes(ios[n].payload) for n in (0, 2, 3)]
        await second.send(*map(it.fake.execute, again))
        assert [await outcome(write) for write in writes] == [None] * 4


@run
async def test_a_socket_that_ends_costs_a_connection_and_no_io(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        written = it.write(3, 1)
        (first,) = await stream.has(1)
        assert stream.on_socket == it.link.queue.on_socket == it.fake.gives_socket
        if it.fake.gives_socket:
            stream.close()  # and the stream of gRPC says nothing
        else:
            stream.cut.set()
        again = await it.fake.stream()
        (second,) = await again.has(1)
        assert second.sequence == first.sequence
        await again.send(it.fake.execute(second))
        assert await outcome(written) is None
        assert it.fake.data[3 * BLOCK] == 1


@run
async def test_nothing_is_sent_before_the_worker_serves_the_stream(tmp_path: Path) -> None:
    """It answers the first message when what the old stream left has ended."""
    async with setup(tmp_path) as it:
        first = await it.fake.stream()
        write = it.write(0, 1)
        (old,) = await first.has(1)
        it.fake.greets = False
        first.cut.set()
        second = await it.fake.stream()
        newer = it.write(5, 2)
        await asyncio.sleep(0.1)
        assert second.batches == []
        it.fake.execute(old)  # the old stream's write ends late, before the new one is served
        await second.send(credit=1 << 20)
        for wire in await second.has(2):
            await second.send(it.fake.execute(wire))
        assert [await outcome(write), await outcome(newer)] == [None, None]


@run
async def test_a_write_waits_for_an_older_one_that_is_being_retried(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        first = await it.fake.stream()
        old, new = it.write(0, 1), it.write(0, 2)
        await first.has(1)
        first.cut.set()
        second = await it.fake.stream()
        (retried,) = await second.has(1)
        await asyncio.sleep(0.05)
        assert len(second.ios) == 1
        await second.send(it.fake.execute(retried))
        assert await outcome(old) is None
        await second.send(it.fake.execute((await second.has(2))[1]))
        assert await outcome(new) is None
        assert it.fake.data[:BLOCK] == data(2)


@run
async def test_a_share_that_says_unavailable_is_asked_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        first = await it.fake.stream()
        write = it.write(0, 1)
        (wire,) = await first.has(1)
        it.fake.handle += 1  # another process, say
        await first.send(Answer(wire.sequence, StoreStatus.UNAVAILABLE))
        second = await it.fake.stream()
        (again,) = await second.has(1)
        assert (again.sequence, again.volume) == (wire.sequence, it.fake.handle)
        await second.send(it.fake.execute(again))
        assert await outcome(write) is None


@pytest.mark.parametrize("same_process", [True, False])
def test_a_compare_and_write_is_sent_again_only_to_who_remembers(
    tmp_path: Path, same_process: bool
) -> None:
    async def test() -> None:
        async with setup(tmp_path) as it:
            first = await it.fake.stream()
            act = begin(it.volume.compare_and_write(0, [data(0)], [data(1)], BLOCK))
            (wire,) = await first.has(1)
            if not same_process:
                it.fake.handle += 1
            first.cut.set()
            second = await it.fake.stream()
            if same_process:
                (again,) = await second.has(1)
                assert again.sequence == wire.sequence
                await second.send(Answer(again.sequence, OK))
                assert await outcome(act) is None
            else:
                assert status_of(await outcome(act)) is StoreStatus.WRITE_FAILED
                assert second.ios == []

    asyncio.run(test())


@run
async def test_garbage_ends_the_stream_and_nothing_else(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        for garbage in (b"\xff" * 9, b""):
            stream = await it.fake.stream()
            view, read = it.read(0)
            (wire,) = await stream.has(1)
            if garbage:
                await stream.send(raw=garbage)
            else:  # not as many bytes as were asked for
                await stream.send(Answer(wire.sequence, OK, (data(1)[:-1],)))
            stream = await it.fake.stream()
            (again,) = await stream.has(1)
            assert again.sequence == wire.sequence
            await stream.send(it.fake.execute(again))
            assert await outcome(read) is None
            stream.cut.set()
            assert view == bytes(BLOCK)
        await it.fake.stream()


@run
async def test_a_corrupt_read_is_read_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        first = await it.fake.stream()
        view, read = it.read(0)
        (wire,) = await first.has(1)
        good = it.fake.execute(wire)
        raw = bytearray(b"".join(pack_answers(2, [good])))
        raw[raw.index(bytes(BLOCK)) + 100] ^= 1
        await first.send(raw=bytes(raw))
        second = await it.fake.stream()
        await second.send(it.fake.execute((await second.has(1))[0]))
        assert await outcome(read) is None
        assert view == bytes(BLOCK)


# --- deadlines ------------------------------------------------------------------------------------


@run
async def test_a_worker_that_is_away_costs_the_deadline(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.4) as it:
        stream = await it.fake.stream()
        await it.away(stream)
        assert status_of(await outcome(it.write(0, 1))) is StoreStatus.UNAVAILABLE
        assert not it.store.doubts  # it was never sent


@run
async def test_a_late_answer_touches_nobodys_buffer(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.4) as it:
        it.fake.data[:BLOCK] = data(9)
        stream = await it.fake.stream()
        view, read = it.read(0)
        (wire,) = await stream.has(1)
        assert 0 < wire.deadline_ms < 400
        assert status_of(await outcome(read)) is StoreStatus.DEADLINE
        await stream.until(lambda: wire.sequence in stream.cancelled)
        await stream.send(it.fake.execute(wire))
        again, read = it.read(0)
        await stream.send(it.fake.execute((await stream.has(2))[1]))
        assert await outcome(read) is None
        assert view == bytes(BLOCK)
        assert again == data(9)


@run
async def test_a_write_in_doubt_holds_its_range_until_it_has_ended(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.6) as it:
        stream = await it.fake.stream()
        old = it.write(0, 1)
        (wire,) = await stream.has(1)
        assert status_of(await outcome(old)) is StoreStatus.DEADLINE
        assert it.store.doubts
        new, elsewhere = it.write(0, 2), it.write(1, 3)
        _, read = it.read(0)
        (_, other) = await stream.has(2)
        assert other.offset == BLOCK
        await stream.send(it.fake.execute(other))
        assert await outcome(elsewhere) is None
        assert len(stream.ios) == 2
        await stream.send(it.fake.execute(wire))  # it did happen, late
        await stream.send(it.fake.execute((await stream.has(3))[2]))
        assert await outcome(new) is None
        await stream.send(it.fake.execute((await stream.has(4))[3]))
        assert await outcome(read) is None
        assert it.fake.data[:BLOCK] == data(2)
        assert not it.store.doubts


@run
async def test_what_waits_for_a_doubt_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.4) as it:
        stream = await it.fake.stream()
        for _ in range(3):
            assert status_of(await outcome(it.write(0, 1))) is StoreStatus.DEADLINE
        assert len(stream.ios) == len(it.store.doubts) == 1
        assert it.store.held == []


@run
async def test_a_doubt_ends_with_a_new_stream_and_is_never_sent_again(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.4) as it:
        first = await it.fake.stream()
        old = it.write(0, 1)
        await first.has(1)
        assert status_of(await outcome(old)) is StoreStatus.DEADLINE
        first.cut.set()
        second = await it.fake.stream()
        new = it.write(0, 2)
        (wire,) = await second.has(1)
        assert wire.payload == data(2)
        await second.send(it.fake.execute(wire))
        assert await outcome(new) is None
        await asyncio.sleep(0.1)
        assert len(second.ios) == 1


@run
async def test_what_ended_does_not_pile_up_while_a_worker_is_away(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.2) as it:
        stream = await it.fake.stream()
        await it.away(stream)
        for _ in range(3):
            await asyncio.gather(*(outcome(it.write(block, 1)) for block in range(50)))
        queue = it.link.queue
        assert len(queue._carrying) + len(queue._bare) + len(it.store.held) == 0


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["answer", "stream", "control"])
def test_a_fenced_node_hears_of_it_before_its_io_ends(tmp_path: Path, by: str) -> None:
    """And who still waits then is told to try again, not of an error."""

    async def test() -> None:
        async with setup(tmp_path) as it:
            stream = await it.fake.stream()
            writes = [it.write(block, 1) for block in range(2)]
            ios = await stream.has(2)
            ended: list[list[bool]] = []
            it.on_fenced = lambda reason: ended.append([write.done() for write in writes])
            if by == "answer":
                await stream.send(*(Answer(w.sequence, StoreStatus.STALE_EPOCH) for w in ios))
            else:
                it.fake.open_status = StoreStatus.STALE_EPOCH if by == "control" else OK
                stream.code = grpc.StatusCode.FAILED_PRECONDITION if by == "stream" else stream.code
                stream.cut.set()
            for write in [*writes, it.write(0, 1)]:
                found = await outcome(write)
                assert isinstance(found, VolumeBusy)
                assert found.status is StoreStatus.STALE_EPOCH
            assert ended == [[False, False]]

    asyncio.run(test())


@run
async def test_a_share_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.3) as it:
        stream = await it.fake.stream()
        it.fake.share.uuid = b"another!" * 2
        stream.cut.set()
        await it.fake.stream()
        found = await outcome(it.write(0, 1))
        assert status_of(found) is StoreStatus.UNAVAILABLE
        assert "no such volume" in str(found)
        assert len(it.fake.created) == 1


@run
async def test_nothing_is_left_of_a_volume_that_is_closed(tmp_path: Path) -> None:
    """A connection lasts for months, and volumes come and go."""
    async with setup(tmp_path) as it:
        assert not await it.store.wait_open(10)
        left = weakref.ref(it.store)
        it.volume.close()
        del it.store, it.volume
        gc.collect()
        assert left() is None


@run
async def test_busy_when_away(tmp_path: Path) -> None:
    async with setup(tmp_path, io_seconds=0.2) as it:
        await it.fake.stream()
        it.volume.busy_when_away = True
        assert isinstance(await outcome(it.write(0, 1)), VolumeBusy)


@run
async def test_large_io_is_cut(tmp_path: Path) -> None:
    """A volume never asks for more than its window of data, but a store takes any length."""
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        io = StoreIo(IoKind.UNMAP, 0, 3 << 30, done.set_result)
        it.store.submit(io)
        ios = await stream.has(3)
        assert [(w.offset, w.length) for w in ios] == [(n << 30, 1 << 30) for n in range(3)]
        statuses = (OK, StoreStatus.NO_SPACE, OK)
        await stream.send(*(Answer(w.sequence, s) for w, s in zip(ios, statuses, strict=True)))
        assert await outcome(done) is io
        assert io.status is StoreStatus.NO_SPACE


@run
async def test_what_nobody_wants_is_cancelled_at_the_worker(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        stream = await it.fake.stream()
        wait = it.volume.write(0, [data(1)], BLOCK)
        done = begin(wait)
        (wire,) = await stream.has(1)
        wait.hurry()
        await stream.until(lambda: wire.sequence in stream.cancelled)
        assert not done.done(), "the worker may have begun it"
        await stream.send(Answer(wire.sequence, StoreStatus.DEADLINE))
        assert isinstance(await done, StoreError)
        assert it.link.queue.idle


@run
async def test_what_was_never_sent_ends_at_once_when_nobody_wants_it(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.away(await it.fake.stream())
        wait = it.volume.write(0, [data(1)], BLOCK)
        done = begin(wait)
        assert not done.done()
        wait.hurry()
        assert isinstance(await done, StoreError)
        assert it.link.queue.idle
