"""lunmesh.worker.v2.Data: the streams of the nodes, over gRPC and over sockets beside it.

One writer for each stream, and one reader of what comes by gRPC.  What comes by the socket that a
node on this machine is offered (worker.proto, rule 12) is served, and answered, as it comes.
Messages are bytes here (workers/wire.py); what they mean is in workers/stream.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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

FIRST_SECONDS_MAX: Final = 10.0  # for a node to say who it is

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
            async with asyncio.timeout(FIRST_SECONDS_MAX):  # there are places for CALLS_MAX calls
                data: Any = await context.read()
            if data is aio.EOF:  # also where the first message is too large for gRPC
                raise WireError(WireFault.MALFORMED, "the stream has ended without a message")
            first = unpack_batch(data, checksum=worker.checksum)
            if first.payload_bytes:  # before any of it is held until the stream's turn
                raise WireError(WireFault.OUT_OF_CREDIT, "payload before any credit was given")
            if worker.refusing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, worker.refusing)
            node = worker.nodes.enter(first.node, first.epoch)
            session = _Session(worker, context)
            stream = await self._take_over(node, session.wake)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no first message")
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
            await session.run(stream, first, offered)
        finally:
            if node.stream is stream:
                node.stream = None
            stream.finish()
            log.info("stream ends", reason=stream.end_reason.value if stream.end_reason else "")

    async def _take_over(self, node: Node, wake: Callable[[], None]) -> ClientStream:
        """The stream that serves ``node`` from now on: when nothing of an older one runs."""
        node.end_stream(End.SUPERSEDED)
        node.streams += 1
        mine, epoch = node.streams, node.epoch
        await node.idle()
        if node.streams != mine:
            raise _Superseded
        # A fence may have come in the meantime.
        self._worker.nodes.check(node.name, epoch)
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
        return stream


class _Superseded(Exception):
    """A newer stream came while this one waited for its turn."""


class _Stale(Exception):
    """A message of an epoch that is over."""

    def __init__(self, batch: Batch, detail: str) -> None:
        super().__init__(detail)
        self.batch = batch


class _Session:
    """The readers and the writer of one stream."""

    def __init__(self, worker: Worker, context: Context) -> None:
        self._worker = worker
        self._context = context
        self._wake = asyncio.Event()  # the writer
        self._stream: ClientStream
        self._socket: MessageSocket | None = None
        self._on_socket = False  # what the node says comes there, and is answered there
        self._serving = False  # a message of the socket, at whose end what it answers leaves
        self._writing = False  # the writer is, or waits until something has left
        self._read_all = False  # the node has said that it sends no more

    def wake(self) -> None:
        """There may be something to send."""
        if not self._serving:
            self._wake.set()

    async def run(self, stream: ClientStream, first: Batch, offered: OfferedSocket | None) -> None:
        """Until the node has no more to say, breaks the rules, or may not go on."""
        self._stream = stream
        stream.greet(offered.token if offered is not None else b"")
        readers: list[asyncio.Future[None]] = [asyncio.ensure_future(self._read(first))]
        if offered is not None:
            self._socket = MessageSocket(offered.ours, self._came)
            readers.append(self._socket.ended)
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
            if error is None and writer.done():
                error = writer.exception()
            code, details = self._verdict(error)
            # Everything is given back now: a peer that reads nothing may keep us here for long.
            # For gRPC sends one thing at a time, and a status beside a message is never sent.
            stream.finish()
            await asyncio.wait({writer})
            if refusal is not None:
                await self._send(refusal)
            if code is not None:
                await self._context.abort(code, details)
        finally:
            for task in (*readers, writer):
                task.cancel()
            if offered is not None and self._socket is not None:
                self._worker.poll.forget(self)
                self._socket.close()  # before the wait, which may be cancelled
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

    # --- messages in ------------------------------------------------------------------------------

    async def _read(self, batch: Batch) -> None:
        while True:
            self._receive(batch)
            if self._stream.crowded:
                await self._stream.room()
            data: Any = await self._context.read()
            if data is aio.EOF:
                return
            batch = self._unpack(data)

    def _came(self, data: bytes) -> None:
        """A message by the socket: its answers leave at once, where nothing else is leaving."""
        messages, poll = self._socket, self._worker.poll
        assert messages is not None
        if self._stream.end_reason is not None:  # and its memory is lent no more
            return
        poll.came(self)
        if not self._on_socket:
            self._on_socket = True
            self._stream.on_socket()
        self._serving = True
        try:
            batch = self._unpack(data)
            self._receive(batch)
        finally:
            self._serving = False
        if self._stream.crowded:
            messages.pause()
        while not self._writing and (message := self._take()) is not None:
            self._writing = not messages.send(message)
        if self._writing or self._read_all or self._stream.end_reason is not None:
            self._wake.set()
        elif len(batch.ios) == 1 and not self._stream.unanswered:
            poll.expect()

    def _unpack(self, data: bytes) -> Batch:
        return unpack_batch(data, checksum=self._worker.checksum, memory=self._stream.memory)

    def _receive(self, batch: Batch) -> None:
        self._check(batch)
        self._stream.refusing = self._worker.draining
        self._stream.receive(batch)

    def _check(self, batch: Batch) -> None:
        """Rule 3 of worker.proto, on every message."""
        node = self._stream.node
        if batch.node != node.name or batch.epoch > self._stream.epoch:
            raise WireError(WireFault.MALFORMED, "a stream is of one node and one epoch")
        try:
            self._worker.nodes.check(batch.node, batch.epoch)
        except StaleEpoch as exc:
            raise _Stale(batch, str(exc)) from exc

    # --- messages out -----------------------------------------------------------------------------

    async def _write(self) -> None:
        stream, wake, messages = self._stream, self._wake, self._socket
        while stream.end_reason is None:
            wake.clear()
            self._writing = True
            if messages is not None:
                await messages.sent()
            while (message := self._take()) is not None:
                await self._send(message)
            self._writing = False
            if self._read_all and not stream.unanswered:
                return
            if stream.end_reason is None:
                await wake.wait()

    def _take(self) -> Parts | None:
        message = self._stream.take()
        if self._socket is not None and self._socket.paused and not self._stream.crowded:
            self._socket.resume()
        return message

    async def _send(self, message: Parts) -> None:
        """Returns when it is on its way, which is when the next one may be made."""
        messages = self._socket
        if messages is None or not self._on_socket:
            await self._context.write(b"".join(message))
            return
        await messages.sent()
        await messages.write(message)
