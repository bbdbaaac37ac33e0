"""What one node, or one volume, can take of a worker: bounded, and never what others need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import uvloop
from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from structlog.testing import capture_logs

from tests.support.worker_client import Served, WorkerClient, running_worker
from tests.support.worker_protocol import (
    BLOCK,
    READ,
    WRITE,
    Drive,
    ends_with,
    slow,
    something_runs,
    statuses,
    still_works,
)
from workers import data_service
from workers.executor import BlockingExecutor
from workers.fault_store import Faults, FaultStore
from workers.limits import MESSAGE_IOS_MAX, STREAM_IOS_MAX
from workers.server import OPTIONS
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore
from workers.stream import ClientStream
from workers.wire import Parts


def deaf_client(served: Served) -> WorkerClient:
    """gRPC at its side buffers little of what nobody reads."""
    options = (*OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    client = WorkerClient(served.address)
    client.channel = aio.insecure_channel(served.address, options=options)
    return client


def test_more_ios_than_a_stream_may_have(tmp_path: Path) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream(answer_credit=0)
        ios = [stream.io(READ, handle, 0, 512) for _ in range(STREAM_IOS_MAX + 10)]
        for at in range(0, len(ios), 1024):
            await stream.send(*ios[at : at + 1024])
        refused = await stream.collect(10)
        assert {answer.status for answer in refused.values()} == {StoreStatus.UNAVAILABLE}
        await stream.send(answer_credit=1 << 30, cancel=[out.sequence for out in ios[:1000]])
        rest = await stream.collect(STREAM_IOS_MAX)
        assert len(rest) == STREAM_IOS_MAX

    slow(tmp_path, body, Faults(delay_seconds=0.001))


def test_what_a_worker_could_not_do_is_told(tmp_path: Path) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        with capture_logs() as lines:
            await stream.send(
                stream.io(READ, handle, 4096, 512), stream.io(READ, handle, 1 << 50, 512)
            )
            await stream.collect(2)
        told = {
            (line["volume"], line["op"], line["offset"], line["length"], line["status"])
            for line in lines
            if line["event"] == "I/O failed" and line["node"]
        }
        assert told == {
            ("disk", "read", 4096, 512, "read failed"),
            ("disk", "read", 1 << 50, 512, "out of range"),
        }

    slow(tmp_path, body, Faults(error=1.0))


def test_a_node_that_reads_no_answers_is_read_no_more(drive: Drive) -> None:
    """Its I/Os end at once, and never run: what they leave behind has its bound all the same."""
    messages = 24

    async def body(served: Served) -> None:
        deaf = deaf_client(served)
        stream = await deaf.stream()
        ours = served.worker.nodes.enter("node", 1).stream
        assert isinstance(ours, ClientStream)

        async def send() -> None:
            for _ in range(messages):
                ios = [stream.io(IoKind.FLUSH, 1, 0, 0) for _ in range(MESSAGE_IOS_MAX)]
                await stream.send(*ios)

        sender = asyncio.ensure_future(send())
        while not ours.crowded:  # noqa: ASYNC110  # it has no event for tests
            await asyncio.sleep(0.01)
        for number in range(20):  # nothing holds up the others, and nothing more is read
            await still_works(served, f"other{number}")
            assert len(ours._outbox._answers) < STREAM_IOS_MAX + MESSAGE_IOS_MAX
        assert served.worker.stats.ios < messages * MESSAGE_IOS_MAX
        # Once it reads, everything is answered.
        answers = await stream.collect(messages * MESSAGE_IOS_MAX)
        await sender
        await deaf.channel.close()
        assert {answer.status for answer in answers.values()} == {StoreStatus.UNAVAILABLE}

    drive(body)


def test_a_node_that_reads_no_answers_can_be_fenced(drive: Drive) -> None:
    async def body(served: Served) -> None:
        deaf = deaf_client(served)
        stream = await deaf.stream()
        ours = served.worker.nodes.enter("node", 1).stream
        assert isinstance(ours, ClientStream)
        while not ours.crowded:
            ios = [stream.io(IoKind.FLUSH, 1, 0, 0) for _ in range(MESSAGE_IOS_MAX)]
            await stream.send(*ios)
        fence = pb.FenceRequest(fence=pb.NodeFence(node="node", epoch=1), timeout_ms=5000)
        assert (await served.control.Fence(fence)).status == pb.STATUS_OK
        await ends_with(stream, "FAILED_PRECONDITION")
        await deaf.channel.close()

    drive(body)


def test_a_client_that_hoards_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """It gives credit for more than all buffers, and reads no answers."""

    async def body(served: Served) -> None:
        handle = await served.open("disk", size=8 << 20)
        greedy = await served.stream(answer_credit=1 << 30)
        ios = [greedy.io(READ, handle, 0, 1 << 20) for _ in range(100)]
        await greedy.send(*ios)
        await asyncio.sleep(0.1)
        await still_works(served)
        assert served.worker.memory.used <= served.worker.memory.total_bytes
        assert len(await greedy.collect(100)) == 100

    slow(tmp_path, body, Faults())


@pytest.mark.parametrize("kind", [IoKind.ZERO, IoKind.FLUSH])
def test_volumes_whose_disk_does_not_answer_leave_threads_to_others(
    tmp_path: Path, kind: IoKind
) -> None:
    """As many as can be: three of four threads are stuck, or all that there are for flushes."""
    answers = threading.Event()

    def wait() -> None:
        answers.wait(30)

    class Stuck(FaultStore):
        """Its threads wait for the disk, each job for good."""

        def _stall(self, io: StoreIo) -> None:
            assert self._executor is not None
            executor = self._executor.syncs if io.kind is IoKind.FLUSH else self._executor
            executor.run(wait, lambda: self._submit(io))

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wrap(name: str, store: VolumeStore) -> VolumeStore:
            if not name.startswith("stuck"):
                return store
            executor = served_executor[0]
            return Stuck(store, Faults(stall_seconds=1), loop.call_later, executor)

        served_executor: list[BlockingExecutor] = []
        async with running_worker(tmp_path, wrap=wrap, executors=served_executor) as served:
            try:
                await work(served)
            finally:
                answers.set()

    async def work(served: Served) -> None:
        stream = await served.stream()
        handles = [await served.open(f"stuck{n}") for n in range(3)]
        ios = [stream.io(kind, handle, 0, 512) for _ in range(50) for handle in handles]
        await stream.send(*ios)
        while served.worker.stats.ios < len(ios):  # noqa: ASYNC110  # no event for tests
            await asyncio.sleep(0.01)
        handle = await served.open("quick", node="other")
        quick = await served.stream("other")
        for _ in range(20):
            io = quick.io(IoKind.ZERO, handle, 0, 512)
            assert statuses(await quick.run(io)) == [StoreStatus.OK]
            if kind is IoKind.ZERO:
                io = quick.io(IoKind.FLUSH, handle, 0, 0)
                assert statuses(await quick.run(io)) == [StoreStatus.OK]
        assert served.worker.running >= 3
        answers.set()
        assert len(await stream.collect(len(ios))) == len(ios)

    uvloop.run(main())


def test_a_store_that_raises_fails_that_io_and_no_other(tmp_path: Path) -> None:
    """It did so in the middle of giving I/Os their turns, and none had a turn again."""
    raising = True

    class Raising(FaultStore):
        at_hand = False

        def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
            return False

        def submit(self, io: StoreIo) -> None:
            if raising:
                raise RuntimeError("a bug")
            super().submit(io)

    async def main() -> None:
        nonlocal raising
        loop = asyncio.get_running_loop()

        def wrap(_: str, store: VolumeStore) -> VolumeStore:
            return Raising(store, Faults(), loop.call_later)

        async with running_worker(tmp_path, wrap=wrap) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            for failed in (True, False):
                ios = [stream.io(READ, handle, 0, 512) for _ in range(20)]
                ios.append(stream.io(IoKind.FLUSH, handle, 0, 0))
                expected = StoreStatus.WRITE_FAILED if failed else StoreStatus.OK
                assert set(statuses(await stream.run(*ios))) == {expected}
                raising = False

    uvloop.run(main())


def test_flushes_that_come_together_share_one(tmp_path: Path) -> None:
    flushes = 0

    class Counting(FaultStore):
        def submit(self, io: StoreIo) -> None:
            nonlocal flushes
            flushes += io.kind is IoKind.FLUSH
            super().submit(io)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wrap(_: str, store: VolumeStore) -> VolumeStore:
            return Counting(store, Faults(delay_seconds=0.1), loop.call_later)

        async with running_worker(tmp_path, wrap=wrap) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            answers = await stream.run(*[stream.io(IoKind.FLUSH, handle, 0, 0) for _ in range(50)])
            assert statuses(answers) == [StoreStatus.OK] * 50
            assert flushes == 2

    uvloop.run(main())


def test_payload_beyond_the_credit_ends_the_stream(tmp_path: Path) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk", size=8 << 20)
        stream = await served.stream()
        size = 1 << 20
        for _ in range(1 + stream.credit // size):
            await stream.send(stream.io(WRITE, handle, 0, size, bytes(size)))
        assert "credit" in await ends_with(stream, "RESOURCE_EXHAUSTED")
        await still_works(served)

    slow(tmp_path, body)


def test_a_stream_whose_answers_cannot_be_made_ends_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, bugs = ClientStream.take, [KeyError("a bug")]

    def taken(stream: ClientStream) -> Parts | None:
        if stream.unanswered:
            raise bugs.pop()
        return take(stream)

    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(ClientStream, "take", taken)
            await stream.send(stream.io(READ, handle, 0, 512))
            assert await ends_with(stream, "INTERNAL") == "KeyError"
        assert [it["exc_info"] for it in logs if it["event"] == "stream failed"]
        await still_works(served)

    slow(tmp_path, body)


def test_a_stream_that_says_nothing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_service, "FIRST_SECONDS_MAX", 0.1)

    async def body(served: Served) -> None:
        await ends_with(served.bare_stream(), "DEADLINE_EXCEEDED")
        await still_works(served)

    slow(tmp_path, body)


def test_payload_in_the_first_message_is_refused_at_once(tmp_path: Path) -> None:
    """Not when the stream's turn has come: what runs on the older one may take its time."""

    async def body(served: Served) -> None:
        handle = await served.open("disk")
        old = await served.stream()
        await old.send(old.io(WRITE, handle, 0, 512, BLOCK))
        await something_runs(served)
        first = served.bare_stream()
        await first.send(first.io(WRITE, handle, 0, 512, BLOCK))
        assert "credit" in await ends_with(first, "RESOURCE_EXHAUSTED")
        # The node's other stream has not been ended for it.
        assert statuses(list((await old.collect(1)).values())) == [StoreStatus.OK]

    slow(tmp_path, body)
