"""The socket that a worker gives a node on its machine (worker.proto, rule 12): use and misuse."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from lunmesh.worker.v2 import worker_pb2 as pb

from target.block.direct_reads import ask_for
from tests.support.messages import Messages
from tests.support.worker_client import ANSWER_CREDIT, Served, Stream, running_worker
from workers.data_service import DataService
from workers.grants import Grants, OfferedSocket
from workers.limits import LENGTH_BYTES, MESSAGE_BYTES_MAX, SOCKET_PAYLOAD_BYTES
from workers.store import IoKind, StoreStatus
from workers.wire import STREAM_METHOD, unpack_answers

READ, WRITE = IoKind.READ, IoKind.WRITE
Body = Callable[[Served, Stream, Messages, int], Coroutine[Any, Any, None]]


async def taken(served: Served, stream: Stream) -> Messages:
    fd = await ask_for(served.address.removeprefix("unix:"), stream.socket_token)
    assert fd is not None
    return Messages(socket.socket(fileno=fd))


def play(folder: Path, body: Body) -> None:
    async def main() -> None:
        async with running_worker(folder) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            messages = await taken(served, stream)
            try:
                async with asyncio.timeout(30):
                    await body(served, stream, messages, handle)
            finally:
                messages.close()

    uvloop.run(main())


async def answered(messages: Messages) -> list[StoreStatus]:
    data = await messages.read()
    assert data is not None
    return [answer.status for answer in unpack_answers(data).answers]


def test_what_comes_there_is_answered_there(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        await messages.write((stream.pack(stream.io(WRITE, handle, 512, 512, b"s" * 512)),))
        assert await answered(messages) == [StoreStatus.OK]
        await messages.write((stream.pack(stream.io(READ, handle, 0, 1024)),))
        data = await messages.read()
        assert data is not None
        (answer,) = unpack_answers(data).answers
        assert b"".join(answer.payload) == bytes(512) + b"s" * 512

    play(tmp_path, body)


def test_messages_with_several_answers_are_small_there(tmp_path: Path) -> None:
    """One is read while the next is made.  A large answer goes by itself."""

    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        half = SOCKET_PAYLOAD_BYTES // 2
        reads = [stream.io(READ, handle, 0, half) for _ in range(8)]
        reads.append(stream.io(READ, handle, 0, 4 * half))
        await messages.write((stream.pack(*reads),))
        payloads: list[list[int]] = []
        while sum(map(len, payloads)) < len(reads):
            data = await messages.read()
            assert data is not None
            answers = unpack_answers(data).answers
            payloads.append([sum(map(len, answer.payload)) for answer in answers])
        assert payloads[-1] == [4 * half]
        assert all(sum(some) <= SOCKET_PAYLOAD_BYTES for some in payloads[:-1])

    play(tmp_path, body)


def test_its_token_is_good_once_and_for_one_stream(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        path = served.address.removeprefix("unix:")
        assert await ask_for(path, stream.socket_token) is None
        newer = await served.stream()
        assert newer.socket_token != stream.socket_token
        late = newer.socket_token
        await served.stream()  # and the newer one's socket, which nobody took, is gone
        assert (await newer.status_after_all())[0] == "ABORTED"
        assert await ask_for(path, late) is None

    play(tmp_path, body)


def test_a_newer_stream_ends_it_and_what_comes_late_is_not_executed(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        newer = served.bare_stream()
        await newer.send(answer_credit=ANSWER_CREDIT)
        late = stream.pack(stream.io(WRITE, handle, 0, 512, b"l" * 512))
        await newer.receive()
        while not messages.socket.ended.done():  # it may be taken, and read by nobody
            await messages.write((late,))
            await asyncio.sleep(0)
        assert await messages.read() is None
        assert (await stream.status_after_all())[0] == "ABORTED"
        (read,) = await newer.run(newer.io(READ, handle, 0, 512))
        assert b"".join(read.payload) == bytes(512)

    play(tmp_path, body)


def test_a_fenced_node_is_told_by_grpc(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        request = pb.FenceRequest(fence=pb.NodeFence(node="node", epoch=1), timeout_ms=1000)
        await served.control.Fence(request)
        assert await messages.read() is None
        assert (await stream.status_after_all())[0] == "FAILED_PRECONDITION"
        other = await served.stream("node", 2)
        handle = await served.open("another", epoch=2)
        (read,) = await other.run(other.io(READ, handle, 0, 512))
        assert read.status is StoreStatus.OK

    play(tmp_path, body)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\0\0\0\0", "INVALID_ARGUMENT"),  # a message of nothing
        (b"\x04\0\0\0\xff\xff\xff\xff", "INVALID_ARGUMENT"),
        ((MESSAGE_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "little"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_breaks_the_rules_ends_the_stream(tmp_path: Path, raw: bytes, code: str) -> None:
    async def main() -> None:
        async with running_worker(tmp_path) as served:
            stream = await served.stream()
            fd = await ask_for(served.address.removeprefix("unix:"), stream.socket_token)
            assert fd is not None
            os.write(fd, raw)
            assert (await stream.status_after_all())[0] == code
            os.close(fd)

    uvloop.run(main())


def test_messages_are_numbered_whichever_way_they_come(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        stream.pack()  # one that is never sent
        await messages.write((stream.pack(stream.io(READ, handle, 0, 512)),))
        assert (await stream.status_after_all())[0] == "INVALID_ARGUMENT"

    play(tmp_path, body)


def test_a_node_that_hangs_up_there_is_gone(tmp_path: Path) -> None:
    async def body(served: Served, stream: Stream, messages: Messages, handle: int) -> None:
        await messages.write((stream.pack(stream.io(WRITE, handle, 0, 512, b"k" * 512)),))
        messages.close()
        assert (await stream.status_after_all())[0] in {"OK", "CANCELLED"}
        newer = await served.stream()
        (read,) = await newer.run(newer.io(READ, handle, 0, 512))
        assert b"".join(read.payload) == b"k" * 512, "what was sent before is done"

    play(tmp_path, body)


def test_a_node_that_hangs_up_there_with_answers_unread_is_gone(tmp_path: Path) -> None:
    """uvloop calls a reader once more then, and never again."""

    async def main() -> None:
        async with running_worker(tmp_path) as served:
            handle = await served.open("disk")
            stream = await served.stream()
            fd = await ask_for(served.address.removeprefix("unix:"), stream.socket_token)
            assert fd is not None
            with socket.socket(fileno=fd) as node:
                for _ in range(2):
                    message = stream.pack(stream.io(READ, handle, 0, 512))
                    node.sendall(len(message).to_bytes(LENGTH_BYTES, "little") + message)
                    if not select.select([node], [], [], 0)[0]:
                        await asyncio.to_thread(select.select, [node], [], [], 10)
            assert (await stream.status_after_all())[0] in {"OK", "CANCELLED"}

    uvloop.run(main())


class _WatchedGrants(Grants):
    """Its pairs of sockets are there to be looked at."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.offered: asyncio.Queue[OfferedSocket | None] = asyncio.Queue()

    def connect(self) -> OfferedSocket | None:
        offered = super().connect()
        self.offered.put_nowait(offered)
        return offered


class _SilentCall:
    """A call whose node says one thing and then nothing; at its end it is cancelled."""

    def __init__(self, first: bytes) -> None:
        self._first = [first]

    def peer(self) -> str:
        return "unix:"

    async def read(self) -> bytes:
        if not self._first:
            await asyncio.Event().wait()
        return self._first.pop()

    async def write(self, message: bytes) -> None:
        pass


def test_a_stream_that_is_cancelled_again_at_its_end_leaves_no_socket(tmp_path: Path) -> None:
    """By gRPC, whose client has gone, and by the end of the loop while it waits for its tasks."""

    async def main() -> None:
        async with running_worker(tmp_path) as served:
            grants = _WatchedGrants(f"{tmp_path}/other.sock")
            grants.start()
            handler: Any = DataService(served.worker, grants).handler()
            serve = handler.service(SimpleNamespace(method=STREAM_METHOD)).stream_stream
            call = _SilentCall(served.bare_stream().pack(answer_credit=ANSWER_CREDIT))
            task = asyncio.ensure_future(serve(None, call))
            offered = await grants.offered.get()
            assert offered is not None
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0)
            assert (await asyncio.gather(task, return_exceptions=True))[0] is not None
            assert offered.ours.fileno() == offered.theirs.fileno() == -1
            await grants.stop()

    uvloop.run(main())
