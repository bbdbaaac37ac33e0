"""Workers of one shared store, played: an engine that is as bad as it may be, and processes that
are killed, stopped and shut out, in one event loop.

What is played (docs/decisions/0011-fencing-at-rados.md has the real thing):

- An operation that a worker has sent to the engine lands at any time later, whatever becomes of the
  worker, unless the engine has come to know that the worker's client was shut out.
- The engine consists of parts, one for each chunk.  A part learns of evictions from the operations
  that it gets, and from nothing else: each carries how much its sender knew (``view``).
- A process that was stopped goes on where it was, with the messages that it had got.
- An eviction may fail, or succeed and not be told.
- One that notices that it was shut out begins anew as another client.
"""

from __future__ import annotations

import asyncio
from random import Random

from target.block.worker_channel import OpenedShare, ShareInfo
from target.block.worker_errors import NodeFenced, ShareRefused, WorkerGone
from workers.store import IoKind, StoreStatus
from workers.wire import Answer, Parts, WireIo, pack_answers, unpack_batch

STORE_ID = "engine"
CREDIT = 1 << 20
QUICK_SECONDS = 0.002
LANDING_SECONDS_MAX = 12.0  # longer than an I/O waits: there are doubts
SLOW_LANDINGS = 0.02  # how many of all operations take long
POLL_SECONDS = 0.03
BLIND = 0.1  # how many evictions fail, or say so


class Engine:
    """The bytes, and who may write them."""

    def __init__(self, size: int, chunk_bytes: int, random: Random) -> None:
        self.data = bytearray(size)
        self.random = random
        self.view = 1
        self.troubled = True  # False: what is asked for from now on goes well
        self.evicted: dict[str, int] = {}  # since which view
        self._chunk_bytes = chunk_bytes
        self._parts: dict[int, int] = {}  # what each part knows

    async def pause(self) -> None:
        """A moment."""
        await asyncio.sleep(self.random.random() * QUICK_SECONDS)

    def evict(self, client: str) -> None:
        """Decided; who asked knows."""
        self.view += 1
        self.evicted.setdefault(client, self.view)

    async def operate(self, client: str, view: int, wire: WireIo) -> bytes | None:
        """What was read; None: refused, for the client has been shut out."""
        slow = self.troubled and self.random.random() < SLOW_LANDINGS
        await asyncio.sleep(self.random.random() * (LANDING_SECONDS_MAX if slow else QUICK_SECONDS))
        part = wire.offset // self._chunk_bytes
        assert (wire.offset + wire.length - 1) // self._chunk_bytes == part, "cut by the volume"
        knows = self._parts[part] = max(self._parts.get(part, 0), view)
        if self.evicted.get(client, knows + 1) <= knows:
            return None
        span = slice(wire.offset, wire.offset + wire.length)
        if wire.kind is IoKind.WRITE:
            self.data[span] = wire.payload
        return bytes(self.data[span]) if wire.kind is IoKind.READ else b""


class _Client:
    """A process at the engine."""

    def __init__(self, name: str, view: int) -> None:
        self.name = name
        self.view = view
        self.running = 0
        self.stream: PlayedStream | None = None
        self.epoch = 0
        self.gone = False


class PlayedWorker:
    """A worker at one address."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.stopped = False
        self.served = 0  # operations
        self._starts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.client = self._next_client()

    def _next_client(self) -> _Client:
        self._starts += 1
        return _Client(f"{self.name}.{self._starts}", self.engine.view)

    def restart(self) -> None:
        """As after kill -9: what the engine has been sent is on its way all the same."""
        self._leave()
        self.stopped = False

    def _leave(self) -> None:
        old, self.client = self.client, self._next_client()
        old.gone = True
        if old.stream is not None:
            old.stream.end("the process has gone")

    def _noticed(self, client: _Client) -> None:
        """It has been shut out."""
        if not client.gone:
            self._leave()

    async def ready(self, client: _Client | None = None) -> None:
        """When this process runs; raises WorkerGone if it is no more."""
        client = client or self.client
        while self.stopped and not client.gone:  # noqa: ASYNC110  # played time costs nothing
            await asyncio.sleep(POLL_SECONDS)
        if client.gone:
            raise WorkerGone("reset")

    def connect(self) -> PlayedChannel:
        """For a node."""
        return PlayedChannel(self)

    def begin(self, stream: PlayedStream) -> None:
        """Serve a stream."""
        task = asyncio.ensure_future(self._serve(stream, self.client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: PlayedStream, client: _Client) -> None:
        """Control and data as workers/nodes.py and workers/stream.py have them."""
        try:
            first = unpack_batch(await stream.inbox.get())
            await self.ready(client)
            if first.epoch < client.epoch:
                return stream.end("a newer epoch is here")
            client.epoch = first.epoch
            old, client.stream = client.stream, stream
            if old is not None:
                old.end("superseded")
            while client.running:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
            await self.ready(client)
            if client.stream is not stream:
                return None
            stream.answer()
            while True:
                data = await stream.inbox.get()
                await self.engine.pause()
                await self.ready(client)
                if client.stream is not stream:
                    return None
                for wire in unpack_batch(data).ios:
                    client.running += 1
                    task = asyncio.ensure_future(self._operate(stream, client, wire))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except WorkerGone:
            return None

    async def _operate(self, stream: PlayedStream, client: _Client, wire: WireIo) -> None:
        found = await self.engine.operate(client.name, client.view, wire)
        try:
            await self.ready(client)
        except WorkerGone:
            return
        finally:
            client.running -= 1
        if found is None:
            self._noticed(client)
        elif client.stream is stream:
            self.served += 1
            payload = (memoryview(found),) if wire.kind is IoKind.READ else ()
            stream.answer(Answer(wire.sequence, StoreStatus.OK, payload), len(wire.payload))

    def end(self) -> list[asyncio.Task[None]]:
        """What is left to be cancelled."""
        return list(self._tasks)


class PlayedStream:
    """Of ``worker_channel.WorkerStream``'s kind."""

    def __init__(self, worker: PlayedWorker) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._worker = worker
        self._numbers = 0
        self._why = ""

    def answer(self, *answers: Answer | int) -> None:
        """An answer and the credit that it gives back; none: the first message."""
        found = [it for it in answers if isinstance(it, Answer)]
        credit = sum(it for it in answers if isinstance(it, int)) if found else CREDIT
        self._numbers += 1
        self._outbox.put_nowait(b"".join(pack_answers(self._numbers, found, request_credit=credit)))

    def end(self, why: str) -> None:
        self._why = self._why or why
        self._outbox.put_nowait(None)

    async def write(self, message: Parts) -> None:
        await self._worker.engine.pause()
        if self._why:
            raise WorkerGone(self._why)
        self.inbox.put_nowait(b"".join(message))

    async def read(self) -> bytes:
        data = None if self._why else await self._outbox.get()
        if data is None:
            raise WorkerGone(self._why)
        return data

    def cancel(self) -> None:
        self.end("the stream was cut")


class PlayedChannel:
    """Of ``worker_channel.WorkerChannel``'s kind."""

    def __init__(self, worker: PlayedWorker) -> None:
        self._worker = worker
        self._client = worker.client
        self._streams: list[PlayedStream] = []

    async def _called(self, seconds: float = 5.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._worker.engine.pause()
                await self._worker.ready(self._client)
        except TimeoutError:
            raise WorkerGone("no answer") from None

    async def status(self) -> None:
        await self._called()

    async def probe(self, seconds: float) -> None:
        await self._called(seconds)

    async def create_volume(self, info: ShareInfo) -> None:
        await self._called()

    async def open_volume(self, node: str, epoch: int, uuid: bytes) -> OpenedShare:
        await self._called()
        worker, client = self._worker, self._client
        if epoch < client.epoch:
            raise NodeFenced("a newer epoch is here")
        client.view = worker.engine.view
        if client.name in worker.engine.evicted:
            worker._noticed(client)
        await self._called()
        handle = int(client.name.rpartition(".")[2])
        info = ShareInfo("disk", uuid, len(worker.engine.data), 65536, 512)
        return OpenedShare(handle, info, True, STORE_ID, client.name, "")

    async def evict(self, store_id: str, instance: str, seconds: float) -> None:
        assert store_id == STORE_ID
        engine, client = self._worker.engine, self._client
        fate = engine.random.random() if engine.troubled else 1
        await self._called(seconds)
        if fate < BLIND / 2:
            raise ShareRefused("not decided")
        engine.evict(instance)
        await self._called(seconds)
        if fate < BLIND:
            raise WorkerGone("decided, and nobody knows")
        client.view = engine.view

    def stream(self) -> PlayedStream:
        stream = PlayedStream(self._worker)
        self._streams.append(stream)
        if self._client is self._worker.client:
            self._worker.begin(stream)
        else:
            stream.end("reset")
        return stream

    async def close(self) -> None:
        for stream in self._streams:
            stream.end("closed")
