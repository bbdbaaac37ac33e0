"""The way from a node to one worker: one connection, one stream, for all volumes; kept up.

Rules:

1. What is to be sent gathers while the last message goes out, and leaves as one message.  Nothing
   here costs a task, a future or a timer per I/O.
2. A connection that fails is given up whole; the next attempt waits, longer each time, with jitter.
   What was in flight is ``worker_queue.py``'s, which says what may be sent again.
3. Volumes are opened first, then the stream's first message goes out alone, and I/O follows when
   the worker has answered it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from target.block.remote_io import Share
from target.block.worker_address import WorkerAddress
from target.block.worker_channel import NodeFenced, WorkerChannel, WorkerGone, WorkerStream
from target.block.worker_queue import WorkerQueue
from workers.store import StoreIo, StoreStatus
from workers.wire import WireError

BACKOFF_SECONDS: Final = 0.05  # at first; doubled up to
BACKOFF_SECONDS_MAX: Final = 2.0
# A worker serves a new stream when nothing of the old one runs: that may take as long as a disk.
FIRST_ANSWER_SECONDS_MAX: Final = 10.0
EXPIRY_SECONDS: Final = 0.1  # how late a deadline may be noticed
GATHER_SECONDS: Final = 0.005  # the most that an I/O waits for others to go with


class Log(Protocol):
    """What of a structured log is used."""

    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...


class LinkedShare(Share, Protocol):
    """A volume's share on the worker of this link."""

    async def open(self, channel: WorkerChannel, node: str, epoch: int) -> None:
        """Set ``handle``, or 0 and ``reason``.  Raises WorkerGone or NodeFenced."""


class WorkerLink:
    """All that a node has to do with one worker."""

    def __init__(
        self,
        address: WorkerAddress,
        connect: Callable[[], WorkerChannel],
        *,
        node: str,
        epoch: int,
        sequences: Iterator[int],
        clock: Callable[[], float],
        random: Callable[[], float],
        io_seconds: float,
        log: Log,
        checksum: bool = True,
    ) -> None:
        self.address = address
        self.node = node
        self.epoch = epoch
        self.reason = "not connected yet"  # why no stream is served; empty while one is
        self.connections = 0  # streams that were served so far
        self._connect = connect
        self._clock = clock
        self._random = random
        self._io_seconds = io_seconds  # from its submission to the deadline of an I/O
        self._log = log
        self._wake = asyncio.Event()
        self._served = asyncio.Event()
        self._shares: list[LinkedShare] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._gather: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.queue = WorkerQueue(node, epoch, sequences, self._wake.set, checksum=checksum)

    # --- for the stores ---------------------------------------------------------------------------

    def add(self, share: LinkedShare) -> None:
        """Open ``share`` with each connection; before :meth:`start`."""
        assert self._task is None, "a link that runs takes no more volumes"
        self._shares.append(share)

    def remove(self, share: LinkedShare) -> None:
        """The volume is closed; nothing of it may be in flight."""
        self._shares.remove(share)

    def submit(self, io: StoreIo, share: LinkedShare) -> None:
        """Start ``io``; it ends within the time for an I/O, whatever the worker does."""
        self.queue.submit(io, share, self._clock() + self._io_seconds)
        if self._expiry is None:
            self._expire_later()

    def _expire_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(EXPIRY_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self.queue.expire(self._clock())
        if not self.queue.idle and self._expiry is None:
            self._expire_later()

    def _gather_until_later(self) -> None:
        messages = self.queue.messages

        def over() -> None:
            self._gather = None
            if self.queue.gathering and self.queue.messages == messages:
                self.queue.impatient(self._clock())

        self._gather = asyncio.get_running_loop().call_later(GATHER_SECONDS, over)

    # --- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.ensure_future(self._run())

    async def wait_served(self, seconds: float) -> bool:
        """Whether the worker serves us, at the latest after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._served.wait()
        return self._served.is_set()

    async def close(self) -> None:
        """Hang up.  Nothing may be in flight."""
        assert self.queue.idle, "link closed with I/O in flight"
        for timer in (self._expiry, self._gather):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay = BACKOFF_SECONDS
        while True:
            connections = self.connections
            try:
                await self._connection()
            except NodeFenced as exc:
                self._down(f"refuses this node: {exc}")
                self.queue.refuse(StoreStatus.STALE_EPOCH, str(exc))
                return
            except (WorkerGone, WireError, TimeoutError) as exc:
                self._down(str(exc) or "does not answer")
            if self.connections != connections:
                delay = BACKOFF_SECONDS
            await asyncio.sleep(delay * (0.5 + self._random()))
            delay = min(2 * delay, BACKOFF_SECONDS_MAX)

    def _down(self, reason: str) -> None:
        if reason != self.reason:
            self._log.warning("worker away", worker=str(self.address), reason=reason)
        self.reason = reason
        self._served.clear()
        self.queue.lost()

    async def _connection(self) -> None:
        """One connection, until it ends: always with an exception."""
        channel = self._connect()
        try:
            await channel.status()
            for share in list(self._shares):
                await share.open(channel, self.node, self.epoch)
            stream = channel.stream()
            try:
                await self._stream(stream)
            finally:
                stream.cancel()
        finally:
            await channel.close()

    async def _stream(self, stream: WorkerStream) -> None:
        await stream.write(self.queue.first_message())
        async with asyncio.timeout(FIRST_ANSWER_SECONDS_MAX):
            first = await stream.read()
        self.queue.served(first)
        self._log.info("worker serves", worker=str(self.address), retried=self.queue.retried)
        self.reason = ""
        self.connections += 1
        self._served.set()
        for share in self._shares:
            self.queue.released(share)
        writer = asyncio.ensure_future(self._write(stream))
        try:
            while True:
                if not self.queue.answered(await stream.read()):
                    raise WorkerGone("a volume is not served any more")
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, stream: WorkerStream) -> None:
        queue, wake, clock = self.queue, self._wake, self._clock
        try:
            while True:
                message = queue.next_message(clock())
                if message is None:
                    wake.clear()
                    if queue.gathering and self._gather is None:
                        self._gather_until_later()
                    await wake.wait()
                else:
                    await stream.write(message)
        finally:
            stream.cancel()  # then the reader ends too, and knows why
