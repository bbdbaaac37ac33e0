"""A worker that does what a test tells it: answers late, out of order, not at all, cuts streams.

It speaks lunmesh.worker.v1 over a Unix socket in this process, and says what it has received.
Bytes are kept in ``data``; nothing is executed before the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from lunmesh.worker.v1 import worker_pb2 as pb
from lunmesh.worker.v1 import worker_pb2_grpc

from target.block.worker_address import WorkerAddress
from workers.store import IoKind, StoreStatus
from workers.wire import (
    STATUS_TO_WIRE,
    STREAM_METHOD,
    Answer,
    Batch,
    WireIo,
    pack_answers,
    unpack_batch,
)

SECONDS = 10.0
OK = StoreStatus.OK


class FakeStream:
    """One Data.Stream, as the worker sees it."""

    def __init__(self, context: Any, first: Batch) -> None:
        self._context = context
        self.first = first
        self.ios: list[WireIo] = []
        self.batches: list[Batch] = []
        self.cancelled: list[int] = []
        self.credited = first.answer_credit
        self.cut = asyncio.Event()
        self._number = 0
        self._news = asyncio.Event()

    def received(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.ios += batch.ios
        self.cancelled += batch.cancel
        self.credited += batch.answer_credit
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until what has been received fulfils ``condition``."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def has(self, count: int) -> list[WireIo]:
        """The first ``count`` I/Os of this stream."""
        await self.until(lambda: len(self.ios) >= count)
        return self.ios[:count]

    async def send(self, *answers: Answer, credit: int = 0, raw: bytes | None = None) -> None:
        self._number += 1
        data = raw or pack_answers(self._number, answers, request_credit=credit)
        await self._context.write(data)


class FakeWorker:
    """Serves at ``address``; ``handle`` is of its only volume and another after ``forget()``."""

    def __init__(self, folder: Path) -> None:
        self.address = WorkerAddress(unix_path=str(folder / "worker.sock"))
        self.data = bytearray(1 << 20)
        self.streams: asyncio.Queue[FakeStream] = asyncio.Queue()
        self.greets = True  # False: a new stream waits for greet(): "still draining"
        self.credit = 4 << 20
        self.handle = 1000
        self.created: list[pb.VolumeShare] = []
        self.open_status = OK
        self.share = pb.VolumeShare()
        self.store_id = self.instance = ""  # of a shared store
        self.volatile_id = ""
        self.evict_status = OK
        self.evicted: list[str] = []  # whom this worker was asked to shut out
        self.deletions: list[pb.DeleteVolumeRequest] = []
        self.deletes = asyncio.Event()  # cleared: deletions wait for it
        self.deletes.set()
        self.runs = asyncio.Event()  # cleared: the process is stopped, and answers no call
        self.runs.set()
        self.asked = asyncio.Event()  # for its status
        self._server: aio.Server | None = None

    async def start(self) -> None:
        self._server = server = aio.server()
        rpc: Any = grpc.stream_stream_rpc_method_handler(self._stream)
        service, method = STREAM_METHOD.strip("/").split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: rpc}),)
        )
        add: Any = worker_pb2_grpc.add_ControlServicer_to_server
        add(_Control(self), server)
        server.add_insecure_port(str(self.address))
        await server.start()

    def become(self, instance: str) -> None:
        """Another process, from the next connection on."""
        self.instance = instance
        self.handle += 1

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def stream(self) -> FakeStream:
        """The next stream that a node has opened."""
        async with asyncio.timeout(SECONDS):
            return await self.streams.get()

    async def _stream(self, _messages: Any, context: Any) -> None:
        stream = FakeStream(context, unpack_batch(await context.read()))
        if self.greets:
            await stream.send(credit=self.credit)
        self.streams.put_nowait(stream)
        reader = asyncio.ensure_future(self._read(stream, context))
        cut = asyncio.ensure_future(stream.cut.wait())
        await asyncio.wait({reader, cut}, return_when=asyncio.FIRST_COMPLETED)
        reader.cancel()
        cut.cancel()
        if stream.cut.is_set():
            await context.abort(grpc.StatusCode.ABORTED, "cut by the test")

    async def _read(self, stream: FakeStream, context: Any) -> None:
        while (data := await context.read()) is not aio.EOF:
            stream.received(unpack_batch(data))

    def execute(self, wire: WireIo) -> Answer:
        """Do it now."""
        at, end = wire.offset, wire.offset + wire.length
        if wire.kind is IoKind.WRITE:
            self.data[at:end] = wire.payload
        elif wire.kind is IoKind.READ:
            return Answer(wire.sequence, OK, (memoryview(bytes(self.data[at:end])),))
        return Answer(wire.sequence, OK)


class _Control(worker_pb2_grpc.ControlServicer):
    def __init__(self, fake: FakeWorker) -> None:
        self._fake = fake

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        fake = self._fake
        fake.asked.set()
        await fake.runs.wait()
        return pb.GetStatusResponse(
            worker="fake",
            shared=bool(fake.store_id),
            store_id=fake.store_id,
            instance=fake.instance,
        )

    async def CreateVolume(self, request: Any, context: Any) -> pb.CreateVolumeResponse:
        self._fake.created.append(request.share)
        self._fake.share.CopyFrom(request.share)
        if self._fake.store_id:
            self._fake.share.place = ""
        return pb.CreateVolumeResponse(status=STATUS_TO_WIRE[OK])

    async def OpenVolume(self, request: Any, context: Any) -> pb.OpenVolumeResponse:
        fake = self._fake
        await fake.runs.wait()
        if fake.share.uuid != request.uuid:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such volume")
        return pb.OpenVolumeResponse(
            status=STATUS_TO_WIRE[fake.open_status],
            handle=fake.handle,
            share=fake.share,
            shared=bool(fake.store_id),
            store_id=fake.store_id,
            instance=fake.instance,
            volatile_id=fake.volatile_id,
        )

    async def DeleteVolume(self, request: Any, context: Any) -> pb.DeleteVolumeResponse:
        self._fake.deletions.append(request)
        await self._fake.deletes.wait()
        return pb.DeleteVolumeResponse(status=STATUS_TO_WIRE[OK])

    async def Evict(self, request: Any, context: Any) -> pb.EvictResponse:
        fake = self._fake
        await fake.runs.wait()
        assert request.store_id == fake.store_id
        fake.evicted.append(request.instance)
        return pb.EvictResponse(status=STATUS_TO_WIRE[fake.evict_status])
