"""lunmesh.worker.v2.Data: the streams of the nodes, over gRPC and over sockets beside it.

One writer for each stream, and one reader of what comes by gRPC; another one of the socket that a
node on this machine is offered (worker.proto, rule 12).  Messages are bytes here (workers/wire.py);
what they mean is in workers/stream.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import aio

from workers.buffers import PoolFull
from workers.grants import Grants, OfferedSocket
from workers.message_socket import MessageSocket
from workers.nodes import End, Node, StaleEpoch, TooManyNodes
from workers.store import StoreStatus
from workers.stream import ClientStream
from workers.wire import (
    STREAM_METHOD,
    Answer,
    Batch,
    Parts,
    WireError,
    WireFault,
    pack_answers,
    unpack_batch,
)
from workers.worker import Worker

CODE_OF_FAULT: Final = {
    WireFault.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    WireFault.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    WireFault.OUT_OF_CREDIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    WireFault.CORRUPT: grpc.StatusCode.DATA_LOSS,
}
CODE_OF_END: Final = {
    End.SUPERSEDED: grpc.StatusCode.ABORTED,
    End.STALE: grpc.StatusCode.FAILED_PRECONDITION,
    End.STOPPING: grpc.StatusCode.UNAVAILABLE,
    End.EVICTED: grpc.StatusCode.UNAVAILABLE,
    End.GONE: grpc.StatusCode.CANCELLED,
}

Context = aio.ServicerContext[bytes, bytes]


class DataService:
    """The streams of ``worker``."""

    def __init__(self, worker: Worker, grants: Grants | None = None) -> None:
        self._worker = worker
        self._grants = grants  # if there are nodes on this machine to lend memory to

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``Server.add_generic_rpc_handlers``."""
        service, method = STREAM_METHOD.strip("/").split("/")
        # No serializers: bytes in, bytes out.
        rpc: Any = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(service, {method: rpc})

    async def _stream(self, _messages: Any, context: Context) -> None:
        worker = self._worker
        try:
            data: Any = await context.read()
            if data is aio.EOF:  # also where the first message is too large for gRPC
                raise WireError(WireFault.MALFORMED, "the stream has ended without a message")
            first = unpack_batch(data, checksum=worker.checksum)
            if first.payload_bytes:  # before any of it is held until the stream's turn
                raise WireError(WireFault.OUT_OF_CREDIT, "payload before any credit was given")
            if worker.refusing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, worker.refusing)
            node = worker.nodes.enter(first.node, first.epoch)
            stream, wake = await self._take_over(node)
        except WireError as exc:
            worker.log.warning("bad message", peer=context.peer(), reason=str(exc))
            await context.abort(CODE_OF_FAULT[exc.fault], str(exc))
        except StaleEpoch as exc:
            answers = [Answer(wire.sequence, StoreStatus.STALE_EPOCH) for wire in first.ios]
            await context.write(b"".join(pack_answers(1, answers)))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(exc))
        except (TooManyNodes, PoolFull) as exc:
            reason = str(exc) or "too many nodes for the worker's --buffer-memory"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        except _Superseded:
            await context.abort(CODE_OF_END[End.SUPERSEDED], End.SUPERSEDED.value)
        log = worker.log.bind(node=node.name, epoch=node.epoch, peer=context.peer())
        log.info("stream begins")
        try:
            # A socket, if this can be a node of this machine.
            offered = self._grants.connect() if self._grants is not None else None
            await _Session(worker, stream, wake, context, offered).run(first)
        finally:
            if node.stream is stream:
                node.stream = None
            stream.finish()
            log.info("stream ends", reason=stream.end_reason.value if stream.end_reason else "")

    async def _take_over(self, node: Node) -> tuple[ClientStream, asyncio.Event]:
        """The stream that serves ``node`` from now on: when nothing of an older one runs."""
        node.end_stream(End.SUPERSEDED)
        node.streams += 1
        mine, epoch = node.streams, node.epoch
        await node.idle()
        if node.streams != mine:
            raise _Superseded
        # A fence may have come in the meantime.
        self._worker.nodes.check(node.name, epoch)
        wake = asyncio.Event()
        worker = self._worker
        stream = ClientStream(
            node,
            worker.scheduler,
            worker.memory,
            stats=worker.stats,
            wake=wake,
            loop=worker.loop,
            checksum=worker.checksum,
            lend=self._grants.lend if self._grants is not None else lambda nbytes: None,
        )
        node.stream = stream
        return stream, wake


class _Superseded(Exception):
    """A newer stream came while this one waited for its turn."""


class _Stale(Exception):
    """A message of an epoch that is over."""

    def __init__(self, batch: Batch, detail: str) -> None:
        super().__init__(detail)
        self.batch = batch


class _Session:
    """The readers and the writer of one stream."""

    def __init__(
        self,
        worker: Worker,
        stream: ClientStream,
        wake: asyncio.Event,
        context: Context,
        offered: OfferedSocket | None,
    ) -> None:
        self._worker = worker
        self._stream = stream
        self._wake = wake
        self._context = context
        self._offered = offered
        self._answer: Callable[[Parts], Awaitable[None]] = self._write_call
        self._read_all = False  # the node has said that it sends no more

    async def run(self, first: Batch) -> None:
        """Until the node has no more to say, breaks the rules, or may not go on."""
        context, stream, offered = self._context, self._stream, self._offered
        stream.greet(offered.token if offered is not None else b"")
        readers = [asyncio.ensure_future(self._read(first))]
        if offered is not None:
            messages = MessageSocket(offered.ours)
            readers.append(asyncio.ensure_future(self._read_socket(messages)))
        writer = asyncio.ensure_future(self._write())
        try:
            await asyncio.wait({*readers, writer}, return_when=asyncio.FIRST_COMPLETED)
            errors = [reader.exception() for reader in readers if reader.done()]
            error = next((error for error in errors if error is not None), None)
            if errors and error is None:
                self._read_all = True
                self._wake.set()
                await asyncio.wait({writer})
            refusal = stream.refusal(error.batch) if isinstance(error, _Stale) else None
            code, details = self._verdict(error)
            # Everything is given back now: a peer that reads nothing may keep us here for long.
            # For gRPC sends one thing at a time, and a status beside a message is never sent.
            stream.finish()
            await asyncio.wait({writer})
            if refusal is not None:
                await self._write_call(refusal)
            if code is not None:
                await context.abort(code, details)
        finally:
            for task in (*readers, writer):
                task.cancel()
            if offered is not None:  # before the wait, which gRPC may cancel, or never end
                messages.close()
                offered.theirs.close()
            await asyncio.gather(*readers, writer, return_exceptions=True)

    def _verdict(self, error: BaseException | None) -> tuple[grpc.StatusCode | None, str]:
        """What the node is told at the end; None: all is well."""
        if isinstance(error, WireError):
            peer = self._context.peer()
            self._worker.log.warning("bad message", peer=peer, reason=str(error))
            return CODE_OF_FAULT[error.fault], str(error)
        if isinstance(error, _Stale):
            return CODE_OF_END[End.STALE], str(error)
        if error is not None:
            self._worker.log.error("stream failed", exc_info=error)
            return grpc.StatusCode.INTERNAL, type(error).__name__
        reason = self._stream.end_reason
        if reason is None and not self._read_all:
            reason = End.GONE  # its messages cannot be sent
        return (CODE_OF_END[reason], reason.value) if reason is not None else (None, "")

    async def _read(self, batch: Batch) -> None:
        while True:
            await self._receive(batch)
            data: Any = await self._context.read()
            if data is aio.EOF:
                return
            batch = self._unpack(data)

    async def _read_socket(self, messages: MessageSocket) -> None:
        """What comes there is answered there; an end is for gRPC to tell."""
        data = await messages.read()
        self._answer = messages.write
        while data is not None:
            await self._receive(self._unpack(data))
            data = await messages.read()

    async def _write_call(self, message: Parts) -> None:
        await self._context.write(b"".join(message))

    def _unpack(self, data: bytes) -> Batch:
        return unpack_batch(data, checksum=self._worker.checksum, memory=self._stream.memory)

    async def _receive(self, batch: Batch) -> None:
        stream = self._stream
        self._check(batch)
        stream.refusing = self._worker.draining
        stream.receive(batch)
        if stream.crowded:
            await stream.room()

    def _check(self, batch: Batch) -> None:
        """Rule 3 of worker.proto, on every message."""
        node = self._stream.node
        if batch.node != node.name or batch.epoch > self._stream.epoch:
            raise WireError(WireFault.MALFORMED, "a stream is of one node and one epoch")
        try:
            self._worker.nodes.check(batch.node, batch.epoch)
        except StaleEpoch as exc:
            raise _Stale(batch, str(exc)) from exc

    async def _write(self) -> None:
        stream, wake = self._stream, self._wake
        while stream.end_reason is None:
            wake.clear()
            while (message := stream.take()) is not None:
                await self._answer(message)
            if self._read_all and not stream.unanswered:
                return
            if stream.end_reason is None:
                await wake.wait()
