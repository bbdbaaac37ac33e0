"""A worker that does what a test tells it: answers late, out of order, not at all, cuts streams.

It speaks lunmesh.worker.v2 over a Unix socket in this process, by gRPC alone or, as workers do to
nodes of their machine, with a socket beside it, and says what it has received.
Bytes are kept in ``data``; nothing is executed before the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from target.block.worker_address import WorkerAddress
from workers.grants import Grants, OfferedSocket
from workers.message_socket import MessageSocket
from workers.store import IoKind, StoreStatus
from workers.wire import (
    NO_OFFERS,
    STATUS_TO_WIRE,
    STREAM_METHOD,
    Answer,
    Batch,
    Offers,
    WireIo,
    pack_answers,
    unpack_batch,
)

SECONDS = 10.0
OK = StoreStatus.OK


class FakeStream:
    """One Data.Stream, as the worker sees it."""

    def __init__(self, context: Any, first: Batch, offered: OfferedSocket | None) -> None:
        self._context = context
        self._offered = offered
        self.messages: MessageSocket | None = None
        if offered is not None:
            self.messages = MessageSocket(offered.ours, self._came)
        self.on_socket = False  # something has come by it
        self.first = first
        self.ios: list[WireIo] = []
        self.batches: list[Batch] = []
        self.cancelled: list[int] = []
        self.credited = first.answer_credit
        self.cut = asyncio.Event()
        self.code = grpc.StatusCode.ABORTED  # that it is cut with
        self._number = 0
        self._news = asyncio.Event()

    def _came(self, data: bytes) -> None:
        self.on_socket = True
        self.received(unpack_batch(data))

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
        offers = NO_OFFERS
        if self._number == 1 and self._offered is not None:
            offers = Offers(socket_token=self._offered.token)
        parts = pack_answers(self._number, answers, request_credit=credit, offers=offers)
        data = raw or b"".join(parts)
        if self.on_socket:
            assert self.messages is not None
            await self.messages.write((data,))
        else:
            await self._context.write(data)

    def close(self) -> None:
        """End the socket."""
        if self.messages is not None and self._offered is not None:
            self.messages.close()
            self._offered.theirs.close()


class FakeWorker:
    """Serves at ``address``; ``handle`` is of its only volume and another after ``forget()``."""

    gives_socket = False

    def __init__(self, folder: Path) -> None:
        self.address = WorkerAddress(unix_path=str(folder / "worker.sock"))
        self.data = bytearray(1 << 20)
        self.streams: asyncio.Queue[FakeStream] = asyncio.Queue()
        self.greets = True  # False: a new stream waits for greet(): "still draining"
        self.credit = 4 << 20
        self.handle = 1000
        self.created: list[pb.VolumeShare] = []
        self.open_status = OK
        self.opened = asyncio.Event()  # or refused
        self.share = pb.VolumeShare()
        self.store_id = self.instance = ""  # of a shared store
        self.volatile_id = ""
        self.read_token = b""
        self.evict_status = OK
        self.evicted: list[str] = []  # whom this worker was asked to shut out
        self.deletions: list[pb.DeleteVolumeRequest] = []
        self.deletes = asyncio.Event()  # cleared: deletions wait for it
        self.deletes.set()
        self.runs = asyncio.Event()  # cleared: the process is stopped, and answers no call
        self.runs.set()
        self.asked = asyncio.Event()  # for its status
        self._server: aio.Server | None = None
        self._grants: Grants | None = None

    async def start(self) -> None:
        if self.gives_socket:
            self._grants = Grants(self.address.unix_path)
            self._grants.start()
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
        if self._grants is not None:
            await self._grants.stop()

    async def stream(self) -> FakeStream:
        """The next stream that a node has opened."""
        async with asyncio.timeout(SECONDS):
            return await self.streams.get()

    async def _stream(self, _messages: Any, context: Any) -> None:
        first = unpack_batch(await context.read())
        offered = self._grants.connect() if self._grants is not None else None
        stream = FakeStream(context, first, offered)
        try:
            if self.greets:
                await stream.send(credit=self.credit)
            self.streams.put_nowait(stream)
            await self._serve(stream, context)
        finally:
            stream.close()
        if stream.cut.is_set():
            await context.abort(stream.code, "cut by the test")

    async def _serve(self, stream: FakeStream, context: Any) -> None:
        tasks = [
            asyncio.ensure_future(self._read(stream, context)),
            asyncio.ensure_future(stream.cut.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
        fake.opened.set()
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
            read_token=fake.read_token,
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
