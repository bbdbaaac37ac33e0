"""lunmesh.worker.v1.Data over gRPC: the streams of the nodes.

One reader and one writer for each stream.  Messages are bytes here (workers/wire.py); what they
mean is in workers/stream.py.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc import aio

from workers.buffers import PoolFull
from workers.nodes import End, Node, StaleEpoch, TooManyNodes
from workers.store import StoreStatus
from workers.stream import ClientStream
from workers.wire import (
    STREAM_METHOD,
    Answer,
    Batch,
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

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

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
            if data is aio.EOF:
                return
            first = unpack_batch(data, checksum=worker.checksum)
            if worker.refusing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, worker.refusing)
            node = worker.nodes.enter(first.node, first.epoch)
            stream, wake = await self._take_over(node)
        except WireError as exc:
            worker.log.warning("bad message", peer=context.peer(), reason=str(exc))
            await context.abort(CODE_OF_FAULT[exc.fault], str(exc))
        except StaleEpoch as exc:
            answers = [Answer(wire.sequence, StoreStatus.STALE_EPOCH) for wire in first.ios]
            await context.write(pack_answers(1, answers))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(exc))
        except (TooManyNodes, PoolFull) as exc:
            reason = str(exc) or "too many nodes for the worker's --buffer-memory"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        except _Superseded:
            await context.abort(CODE_OF_END[End.SUPERSEDED], End.SUPERSEDED.value)
        log = worker.log.bind(node=node.name, epoch=node.epoch, peer=context.peer())
        log.info("stream begins")
        try:
            await _Session(worker, stream, wake, context).run(first)
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
    """The reader and the writer of one stream."""

    def __init__(
        self, worker: Worker, stream: ClientStream, wake: asyncio.Event, context: Context
    ) -> None:
        self._worker = worker
        self._stream = stream
        self._wake = wake
        self._context = context
        self._read_all = False  # the node has said that it sends no more

    async def run(self, first: Batch) -> None:
        """Until the node has no more to say, breaks the rules, or may not go on."""
        context, stream = self._context, self._stream
        stream.greet()
        reader = asyncio.ensure_future(self._read(first))
        writer = asyncio.ensure_future(self._write())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is None:
                self._read_all = True
                self._wake.set()
                await asyncio.wait({writer})
            error = reader.exception() if reader.done() else None
            refusal = stream.refusal(error.batch) if isinstance(error, _Stale) else None
            code, details = self._verdict(error)
            # Everything is given back now: a peer that reads nothing may keep us here for long.
            # For gRPC sends one thing at a time, and a status beside a message is never sent.
            stream.finish()
            await asyncio.wait({writer})
            if refusal is not None:
                await context.write(refusal)
            if code is not None:
                await context.abort(code, details)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

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
        worker, stream, context = self._worker, self._stream, self._context
        while True:
            self._check(batch)
            stream.refusing = worker.draining
            stream.receive(batch)
            data: Any = await context.read()
            if data is aio.EOF:
                return
            batch = unpack_batch(data, checksum=worker.checksum)

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
                await self._context.write(message)
            if self._read_all and not stream.unanswered:
                return
            if stream.end_reason is None:
                await wake.wait()
