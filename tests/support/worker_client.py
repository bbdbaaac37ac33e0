"""A worker in this process, and a raw client of it: no target code, no retries.

async with running_worker(tmp_path) as served:
    handle = await served.open("disk", size=1 << 20)
    stream = await served.stream("node", epoch=1)
    answers = await stream.run(stream.io(IoKind.READ, handle, 0, 4096))
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from workers.buffers import BUFFER_BYTES_MIN
from workers.executor import BlockingExecutor, disk_threads
from workers.server import OPTIONS, WorkerServer
from workers.share_dir import ShareDir
from workers.shares import MemoryShares, Shares, Wrap
from workers.store import IoKind, StoreIo
from workers.wire import (
    STREAM_METHOD,
    Answer,
    Answers,
    Outgoing,
    pack_batch,
    unpack_answers,
)
from workers.worker import Worker

ANSWER_SECONDS = 10
ANSWER_CREDIT = 64 << 20


def _unused(_: StoreIo) -> None:
    raise AssertionError("an I/O of the client is never submitted")


class Stream:
    """One Data.Stream."""

    def __init__(self, call: Any, node: str, epoch: int) -> None:
        self.call = call
        self.node = node
        self.epoch = epoch
        self.credit = 0
        self.lent_token = self.socket_token = b""
        self._number = 0
        self._sequence = 0

    def io(
        self,
        kind: IoKind,
        handle: int,
        offset: int,
        length: int,
        data: bytes = b"",
        *,
        compare: bytes = b"",
        fua: bool = False,
        deadline_ms: int = 0,
        sequence: int = 0,
    ) -> Outgoing:
        """An I/O with the next sequence number, or the one given."""
        self._sequence += not sequence
        io = StoreIo(kind, offset, length, _unused, fua=fua)
        io.buffers = (memoryview(data),) if data else ()
        io.compare = (memoryview(compare),) if compare else ()
        return Outgoing(sequence or self._sequence, handle, deadline_ms, io)

    def pack(self, *ios: Outgoing, **more: Any) -> bytes:
        """A message with the next number."""
        self._number += 1
        return b"".join(pack_batch(self.node, self.epoch, self._number, ios, **more))

    async def send(self, *ios: Outgoing, **more: Any) -> None:
        """A message."""
        await self.call.write(self.pack(*ios, **more))

    async def receive(self) -> Answers:
        """The next message from the worker."""
        async with asyncio.timeout(ANSWER_SECONDS):
            data = await self.call.read()
        assert data is not aio.EOF, await self.status()
        answers = unpack_answers(data)
        self.credit += answers.request_credit
        self.lent_token = answers.offers.lent_token or self.lent_token
        self.socket_token = answers.offers.socket_token or self.socket_token
        return answers

    async def collect(self, count: int) -> dict[int, Answer]:
        """``count`` answers by sequence number."""
        got: dict[int, Answer] = {}
        while len(got) < count:
            for answer in (await self.receive()).answers:
                assert answer.sequence not in got, "answered twice"
                got[answer.sequence] = answer
        return got

    async def run(self, *ios: Outgoing) -> list[Answer]:
        """Send ``ios``; their answers, in their order."""
        await self.send(*ios)
        got = await self.collect(len(ios))
        return [got[out.sequence] for out in ios]

    async def status_after_all(self) -> tuple[str, str]:
        """How the stream has ended, when what it still had to say has been read."""
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(aio.AioRpcError):
                while await self.call.read() is not aio.EOF:
                    pass
        return await self.status()

    async def status(self) -> tuple[str, str]:
        """How the stream has ended: (code, details)."""
        async with asyncio.timeout(ANSWER_SECONDS):
            code = await self.call.code()
            return code.name, await self.call.details()


class WorkerClient:
    """A channel to a worker, wherever it runs; as a context, closed at its end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = aio.insecure_channel(address, options=OPTIONS)
        self.control: Any = worker_pb2_grpc.ControlStub(self.channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def share(self, name: str, size: int = 1 << 20, uuid: bytes = b"") -> pb.VolumeShare:
        """What a volume is."""
        return pb.VolumeShare(
            name=name,
            uuid=uuid or secrets.token_bytes(16),
            size=size,
            chunk_bytes=1 << 20,
            block_bytes=512,
        )

    async def open(
        self, name: str, *, size: int = 1 << 20, node: str = "node", epoch: int = 1
    ) -> int:
        """Create a volume and open it: its handle."""
        uuid = await self.create(name, size=size)
        return await self.reopen(uuid, node=node, epoch=epoch)

    async def create(self, name: str, *, size: int = 1 << 20) -> bytes:
        """Create a volume: its UUID."""
        share = self.share(name, size)
        created = await self.control.CreateVolume(pb.CreateVolumeRequest(share=share))
        assert created.status == pb.STATUS_OK, created.detail
        return share.uuid

    async def reopen(self, uuid: bytes, *, node: str = "node", epoch: int = 1) -> int:
        """Open a volume that is there: its handle."""
        return (await self.opened(uuid, node=node, epoch=epoch)).handle

    async def opened(
        self, uuid: bytes, *, node: str = "node", epoch: int = 1
    ) -> pb.OpenVolumeResponse:
        """Open a volume that is there: all that the worker says."""
        request = pb.OpenVolumeRequest(node=node, epoch=epoch, uuid=uuid)
        opened: pb.OpenVolumeResponse = await self.control.OpenVolume(request)
        assert opened.status == pb.STATUS_OK, opened.detail
        return opened

    def bare_stream(self, node: str = "node", epoch: int = 1) -> Stream:
        """A stream on which nothing has been said."""
        return Stream(self.channel.stream_stream(STREAM_METHOD)(), node, epoch)

    async def stream(
        self, node: str = "node", epoch: int = 1, *, answer_credit: int = ANSWER_CREDIT
    ) -> Stream:
        """A stream that is served, with its first credit."""
        stream = self.bare_stream(node, epoch)
        await stream.send(answer_credit=answer_credit)
        while not stream.credit:
            await stream.receive()
        return stream


async def refused_by(address: str) -> dict[str, int]:
    """By node, up to which epoch a worker refuses it."""
    async with WorkerClient(address) as worker:
        status = await worker.control.GetStatus(pb.GetStatusRequest())
        return {fence.node: fence.epoch for fence in status.fences}


class Served(WorkerClient):
    """A running worker of this process."""

    def __init__(self, worker: Worker, server: WorkerServer, address: str) -> None:
        super().__init__(address)
        self.worker = worker
        self.server = server


@contextlib.asynccontextmanager
async def running_worker(
    folder: Path,
    *,
    memory: bool = False,
    wrap: Wrap = lambda name, store: store,
    buffer_memory: int = BUFFER_BYTES_MIN,
    executors: list[BlockingExecutor] | None = None,
) -> AsyncIterator[Served]:
    """A worker with its shares in ``folder``; at the end nothing may be left in it.

    Its threads are added to ``executors``.
    """
    loop = asyncio.get_running_loop()
    executor = disk_threads(2, loop.call_soon_threadsafe)
    if executors is not None:
        executors.append(executor)
    shares: Shares = MemoryShares(wrap) if memory else ShareDir(folder / "store", executor, wrap)
    worker = Worker(shares, buffer_memory_bytes=buffer_memory, io_threads=2)
    await worker.load()
    address = f"unix:{folder}/worker.sock"
    server = WorkerServer(worker, address)
    await server.start()
    served = Served(worker, server, address)
    try:
        yield served
    finally:
        await served.channel.close()
        await server.stop(5)
        await worker.stop()
        executor.close()
    assert worker.memory.used == 0, "buffers leaked"
    assert worker.memory.requests.shares == worker.memory.answers.shares == 0, "streams leaked"
    assert worker.running == 0
