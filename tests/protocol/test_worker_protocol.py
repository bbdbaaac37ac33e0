"""A raw gRPC client against a worker: right messages, wrong ones, and what they leave behind.

Each test ends with the checks of ``running_worker``: no stream, no I/O and no buffer is left.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import grpc
import pytest
import uvloop
from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from msgspec.structs import replace

from tests.support.worker_client import Served, running_worker
from tests.support.worker_protocol import (
    BLOCK,
    READ,
    WRITE,
    Drive,
    data_of,
    drained,
    ends_with,
    slow,
    something_runs,
    statuses,
    still_works,
)
from workers.fault_store import Faults, FaultStore
from workers.limits import IO_BYTES_MAX, MESSAGE_BYTES_MAX
from workers.store import IoKind, StoreStatus, VolumeStore

# --- right messages ------------------------------------------------------------------------------


def test_every_kind_of_io(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        big = bytes(range(256)) * 4096
        answers = await stream.run(stream.io(WRITE, handle, 0, len(big), big, fua=True))
        answers += await stream.run(
            stream.io(READ, handle, 0, IO_BYTES_MAX),
            stream.io(IoKind.BLOCK_STATUS, handle, 0, 1 << 20),
            stream.io(IoKind.FLUSH, handle, 0, 0),
        )
        assert statuses(answers) == [StoreStatus.OK] * 4
        assert data_of(answers[1]) == big
        assert data_of(answers[2]) == (1 << 20).to_bytes(8, "little") + b"\1"
        answers = await stream.run(stream.io(IoKind.ZERO, handle, 0, 4096))
        answers += await stream.run(stream.io(IoKind.UNMAP, handle, 4096, 1 << 19))
        answers += await stream.run(stream.io(READ, handle, 0, 8192))
        assert statuses(answers) == [StoreStatus.OK] * 3
        assert data_of(answers[2]) == bytes(8192)
        compare_and_write = stream.io(
            IoKind.COMPARE_AND_WRITE, handle, 0, 512, BLOCK, compare=bytes(512)
        )
        again = stream.io(IoKind.COMPARE_AND_WRITE, handle, 0, 512, BLOCK, compare=bytes(512))
        answers = await stream.run(compare_and_write)
        answers += await stream.run(again)
        assert statuses(answers) == [StoreStatus.OK, StoreStatus.MISCOMPARE]
        assert answers[1].miscompare_offset == 0

    drive(body)


def test_io_outside_the_volume_and_of_unknown_volumes(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        answers = await stream.run(
            stream.io(READ, handle, 1 << 20, 512),
            stream.io(READ, handle, (1 << 20) - 512, 1024),
            stream.io(READ, handle, (1 << 64) - 1, 512),
            stream.io(WRITE, handle, 1 << 63, 512, BLOCK),
            stream.io(IoKind.UNMAP, handle, 512, 1 << 20),
            stream.io(READ, handle + 1, 0, 512),
            stream.io(WRITE, 0, 0, 512, BLOCK),
            stream.io(READ, handle, 0, 512),
        )
        out, gone = StoreStatus.OUT_OF_RANGE, StoreStatus.UNAVAILABLE
        assert statuses(answers) == [out] * 5 + [gone] * 2 + [StoreStatus.OK]

    drive(body)


def test_credit_comes_back_with_the_answers(drive: Drive) -> None:
    """More is written in all than credit was ever given at once, and all of it is read back."""

    async def body(served: Served) -> None:
        handle = await served.open("disk", size=8 << 20)
        stream = await served.stream(answer_credit=0)
        data = bytes(1 << 20)
        for _ in range(20):
            assert stream.credit >= len(data)
            stream.credit -= len(data)
            answers = await stream.run(stream.io(WRITE, handle, 0, len(data), data))
            assert statuses(answers) == [StoreStatus.OK]
        # Without credit for answers, a read waits, and a write passes it.
        read = stream.io(READ, handle, 0, 4096)
        await stream.send(read)
        answers = await stream.run(stream.io(WRITE, handle, 0, 512, BLOCK))
        assert statuses(answers) == [StoreStatus.OK]
        await stream.send(answer_credit=4095)
        await stream.send(answer_credit=1)
        assert list(await stream.collect(1)) == [read.sequence]

    drive(body)


# --- wrong messages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"garbage", b"\x0a\xff\xff\xff\xff\x0f", pb.IoBatch(node="").SerializeToString()],
)
def test_garbage_ends_the_stream(drive: Drive, data: bytes) -> None:
    async def body(served: Served) -> None:
        for first in (True, False):
            stream = served.bare_stream() if first else await served.stream()
            await stream.call.write(data)
            await ends_with(stream, "INVALID_ARGUMENT")
        await still_works(served)

    drive(body)


def test_an_oversized_message_ends_the_stream(drive: Drive) -> None:
    async def body(served: Served) -> None:
        stream = served.bare_stream()
        await stream.call.write(bytes(MESSAGE_BYTES_MAX - 1))  # gRPC lets it through
        await ends_with(stream, "INVALID_ARGUMENT")
        channel = aio.insecure_channel(
            served.address, options=[("grpc.max_send_message_length", -1)]
        )
        async with channel:
            served.channel = channel
            stream = served.bare_stream()
            await stream.call.write(bytes(MESSAGE_BYTES_MAX + 1))
            found = await stream.call.code()
            # The second one if the worker had gRPC's verdict before the node had.
            typed = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
            assert found in typed, found
            await still_works(served)

    drive(body)


def test_a_corrupt_payload_ends_the_stream(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream()
        raw = bytearray(stream.pack(stream.io(WRITE, handle, 0, 512, BLOCK)))
        raw[-1] ^= 1
        await stream.call.write(bytes(raw))
        await ends_with(stream, "DATA_LOSS")
        stream = await served.stream()
        answers = await stream.run(stream.io(READ, handle, 0, 512))
        assert data_of(answers[0]) == bytes(512)

    drive(body)


def test_messages_out_of_turn_and_of_others_end_the_stream(drive: Drive) -> None:
    async def body(served: Served) -> None:
        stream = await served.stream()
        stream.pack()  # a number is left out
        await stream.send()
        await ends_with(stream, "INVALID_ARGUMENT")
        stream = await served.stream()
        stream.node = "somebody else"
        await stream.send()
        await ends_with(stream, "INVALID_ARGUMENT")
        await still_works(served)

    drive(body)


def test_mutated_messages_end_in_a_typed_error_or_an_answer(drive: Drive) -> None:
    """A right message with some bytes changed, taken out or put in, as the first with an I/O."""
    typed = {"INVALID_ARGUMENT", "DATA_LOSS", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}

    async def body(served: Served) -> None:
        handle = await served.open("disk")
        random = Random(3)
        ended = answered = 0
        for _ in range(150):
            stream = await served.stream()
            io = random.choice(
                [
                    stream.io(WRITE, handle, 0, 512, BLOCK),
                    stream.io(READ, handle, 0, 4096),
                    stream.io(IoKind.COMPARE_AND_WRITE, handle, 0, 512, BLOCK, compare=BLOCK),
                ]
            )
            raw = bytearray(stream.pack(io))
            for _ in range(random.randint(1, 3)):
                at = random.randrange(min(len(raw), 128))
                length = random.choice((0, 1, 1, 4))
                raw[at : at + length] = random.randbytes(random.choice((0, 1, 1, 4)))
            await stream.call.write(bytes(raw))
            await stream.call.done_writing()
            code, _ = await drained(stream)
            assert code in {*typed, "OK"}
            ended += code in typed
            answered += code == "OK"
        assert ended > 50
        assert answered > 0
        await still_works(served)

    drive(body)


# --- epochs, fences, streams that follow one another ---------------------------------------------


def test_an_epoch_that_is_over_is_refused(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk", epoch=5)
        stream = await served.stream(epoch=5)
        late = served.bare_stream(epoch=4)
        read = late.io(READ, handle, 0, 512)
        await late.send(read)
        assert (await late.collect(1))[read.sequence].status is StoreStatus.STALE_EPOCH
        await ends_with(late, "FAILED_PRECONDITION")
        # The one that is served has not noticed, until it is fenced itself.
        assert statuses(await stream.run(stream.io(READ, handle, 0, 512))) == [StoreStatus.OK]
        fence = pb.FenceRequest(fence=pb.NodeFence(node="node", epoch=5), timeout_ms=5000)
        assert (await served.control.Fence(fence)).status == pb.STATUS_OK
        await ends_with(stream, "FAILED_PRECONDITION")
        request = pb.OpenVolumeRequest(node="node", epoch=5, uuid=bytes(16))
        assert (await served.control.OpenVolume(request)).status == pb.STATUS_STALE_EPOCH
        newer = await served.stream(epoch=6)
        answers = await newer.run(newer.io(READ, handle, 0, 512))
        assert statuses(answers) == [StoreStatus.UNAVAILABLE]  # a handle is of one epoch

    drive(body)


def test_an_older_epoch_on_a_stream_that_is_served_ends_it(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk", epoch=5)
        for epoch in (4, 1, 0):
            stream = await served.stream(epoch=5)
            read = stream.io(READ, handle, 0, 512)
            assert statuses(await stream.run(read)) == [StoreStatus.OK]
            stream.epoch = epoch
            write = stream.io(WRITE, handle, 0, 512, BLOCK)
            await stream.send(write)
            assert (await stream.collect(1))[write.sequence].status is StoreStatus.STALE_EPOCH
            assert f"epoch {epoch}" in await ends_with(stream, "FAILED_PRECONDITION")
        stream = await served.stream(epoch=5)
        stream.epoch = 6  # a newer one begins with a stream of its own
        await stream.send(stream.io(WRITE, handle, 0, 512, BLOCK))
        await ends_with(stream, "INVALID_ARGUMENT")
        stream = await served.stream(epoch=5)
        answers = await stream.run(stream.io(READ, handle, 0, 512))
        assert data_of(answers[0]) == bytes(512), "nothing of them was written"

    drive(body)


def test_a_fence_waits_for_what_runs_and_survives_a_restart(tmp_path: Path) -> None:
    async def first() -> None:
        loop = asyncio.get_running_loop()

        def wrap(_: str, store: VolumeStore) -> VolumeStore:
            return FaultStore(store, Faults(delay_seconds=0.4), loop.call_later)

        async with running_worker(tmp_path, wrap=wrap) as served:
            handle = await served.open("disk", epoch=3)
            stream = await served.stream(epoch=3)
            await stream.send(stream.io(WRITE, handle, 0, 512, BLOCK))
            await something_runs(served)
            fence = pb.NodeFence(node="node", epoch=3)
            early = pb.FenceRequest(fence=fence, timeout_ms=50)
            assert (await served.control.Fence(early)).status == pb.STATUS_DEADLINE
            assert served.worker.running == 1
            late = pb.FenceRequest(fence=fence, timeout_ms=5000)
            assert (await served.control.Fence(late)).status == pb.STATUS_OK
            assert served.worker.running == 0
            # What waits behind a fence is dropped: nothing of it can begin later.
            await ends_with(stream, "FAILED_PRECONDITION")

    async def second() -> None:
        async with running_worker(tmp_path) as served:
            status = await served.control.GetStatus(pb.GetStatusRequest())
            assert [(f.node, f.epoch) for f in status.fences] == [("node", 3)]
            stream = served.bare_stream(epoch=3)
            await stream.send()
            await ends_with(stream, "FAILED_PRECONDITION")

    uvloop.run(first())
    uvloop.run(second())


def test_a_new_stream_is_served_when_the_old_one_has_drained(tmp_path: Path) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        old = await served.stream()
        ios = [old.io(WRITE, handle, 512 * i, 512, BLOCK) for i in range(50)]
        await old.send(*ios)
        await something_runs(served)
        started = asyncio.get_running_loop().time()
        new = await served.stream()
        assert asyncio.get_running_loop().time() - started > 0.1, "served before the old had ended"
        assert served.worker.running == 0, "what waited on the old stream is dropped"
        await ends_with(old, "ABORTED")
        assert statuses(await new.run(new.io(READ, handle, 0, 512))) == [StoreStatus.OK]

    slow(tmp_path, body)


def test_a_stream_can_end_while_all_its_ios_wait(drive: Drive) -> None:
    """They are the last that it has: its buffers are given back, and only then closed."""

    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream(answer_credit=0)
        await stream.send(stream.io(READ, handle, 0, 512))
        await something_runs(served)
        fence = pb.FenceRequest(fence=pb.NodeFence(node="node", epoch=1), timeout_ms=5000)
        assert (await served.control.Fence(fence)).status == pb.STATUS_OK
        await ends_with(stream, "FAILED_PRECONDITION")

    drive(body)


def test_a_compare_and_write_is_not_executed_twice(drive: Drive) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        old = await served.stream()
        io = old.io(IoKind.COMPARE_AND_WRITE, handle, 0, 512, BLOCK, compare=bytes(512))
        assert statuses(await old.run(io)) == [StoreStatus.OK]
        new = await served.stream()
        # Executed again it would miscompare: the block is not zero any more.
        assert statuses(await new.run(io)) == [StoreStatus.OK]
        other = replace(io, sequence=99)
        assert statuses(await new.run(other)) == [StoreStatus.MISCOMPARE]
        # Another epoch numbers its I/Os anew.
        uuid = next(iter(served.worker.shares.list_after("", 1))).uuid
        handle = await served.reopen(uuid, epoch=2)
        newer = await served.stream(epoch=2)
        answers = await newer.run(replace(io, volume=handle))
        assert statuses(answers) == [StoreStatus.MISCOMPARE]

    drive(body)


def test_deadlines_and_cancellation(tmp_path: Path) -> None:
    async def body(served: Served) -> None:
        handle = await served.open("disk")
        stream = await served.stream(answer_credit=0)
        late = stream.io(READ, handle, 0, 512, deadline_ms=30)
        unwanted = stream.io(READ, handle, 0, 512)
        await stream.send(late, unwanted)
        assert (await stream.collect(1))[late.sequence].status is StoreStatus.DEADLINE
        await stream.send(cancel=[unwanted.sequence, 12345])
        assert (await stream.collect(1))[unwanted.sequence].status is StoreStatus.DEADLINE

    slow(tmp_path, body)
