"""Payload in memory that the worker lends (worker.proto, rule 11): used, misused, and off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from target.block.borrowed import BorrowedMemory
from target.block.direct_reads import ask_for
from tests.support.worker_client import Served, Stream, running_worker
from workers.limits import LENT_BYTES
from workers.store import IoKind, StoreStatus
from workers.wire import Outgoing

WRITE = IoKind.WRITE
SIZE = 64 << 10
BUFFERS = 64 << 20  # the least has nothing to lend
Body = Callable[[Served, Stream, int, BorrowedMemory], Coroutine[Any, Any, None]]


def play(folder: Path, body: Body) -> None:
    async def main() -> None:
        async with running_worker(folder, buffer_memory=BUFFERS) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            path = served.address.removeprefix("unix:")
            fd = await ask_for(path, stream.lent_token)
            assert fd is not None
            async with asyncio.timeout(30):
                await body(served, stream, handle, BorrowedMemory(fd, LENT_BYTES))

    uvloop.run(main())


def lent(stream: Stream, handle: int, offset: int, data: bytes, at: int) -> Outgoing:
    out = stream.io(WRITE, handle, offset, len(data), data)
    return replace(out, lent=at)


def test_lent_payload_is_written_beside_payload_that_was_sent(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, handle: int, memory: BorrowedMemory) -> None:
        big, small = b"L" * SIZE, b"s" * 512
        at = memory.put([memoryview(big)], SIZE)
        assert at is not None
        credit = stream.credit
        answers = await stream.run(
            stream.io(WRITE, handle, SIZE, 512, small),
            lent(stream, handle, 0, big, at),
        )
        assert [answer.status for answer in answers] == [StoreStatus.OK] * 2
        (read,) = await stream.run(stream.io(IoKind.READ, handle, 0, SIZE + 512))
        assert b"".join(read.payload) == big + small
        assert stream.credit <= credit + 512, "what was lent took no credit"

    play(tmp_path, body)


@pytest.mark.parametrize(
    ("at", "code"),
    [(LENT_BYTES - SIZE + 1, "INVALID_ARGUMENT"), (2 * LENT_BYTES, "INVALID_ARGUMENT")],
)
def test_a_place_beyond_it_ends_the_stream(tmp_path: Path, at: int, code: str) -> None:
    async def body(served: Served, stream: Stream, handle: int, memory: BorrowedMemory) -> None:
        await stream.send(lent(stream, handle, 0, bytes(SIZE), at))
        assert (await stream.status_after_all())[0] == code

    play(tmp_path, body)


def test_other_bytes_than_were_checked_end_the_stream(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, handle: int, memory: BorrowedMemory) -> None:
        at = memory.put([memoryview(b"a" * SIZE)], SIZE)
        assert at is not None
        await stream.send(lent(stream, handle, 0, b"b" * SIZE, at))
        assert (await stream.status_after_all())[0] == "DATA_LOSS"
        again = await served.stream()
        (read,) = await again.run(again.io(IoKind.READ, handle, 0, 512))
        assert b"".join(read.payload) == bytes(512)

    play(tmp_path, body)


def test_only_writes_have_lent_payload(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, handle: int, memory: BorrowedMemory) -> None:
        out = stream.io(IoKind.COMPARE_AND_WRITE, handle, 0, 512, bytes(512), compare=bytes(512))
        await stream.send(replace(out, lent=0))
        assert (await stream.status_after_all())[0] == "INVALID_ARGUMENT"

    play(tmp_path, body)


def test_each_stream_is_lent_memory_of_its_own(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, handle: int, memory: BorrowedMemory) -> None:
        at = memory.put([memoryview(b"o" * SIZE)], SIZE)
        assert at is not None
        newer = await served.stream()
        assert newer.lent_token
        assert newer.lent_token != stream.lent_token
        await newer.send(lent(newer, handle, 0, b"o" * SIZE, at))
        assert (await newer.status_after_all())[0] == "DATA_LOSS", "its own memory is empty"

    play(tmp_path, body)


def test_nothing_is_lent_where_credit_would_suffer(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_worker(tmp_path) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            assert not stream.lent_token
            await stream.send(lent(stream, handle, 0, bytes(SIZE), 0))
            assert (await stream.status_after_all())[0] == "INVALID_ARGUMENT"

    uvloop.run(main())
