"""The way from a node to one worker: one connection, one stream, for all volumes; kept up.

Rules:

1. What is to be sent gathers while the last message goes out, and leaves as one message.  Nothing
   here costs a task, a future or a timer per I/O.
2. A connection that fails is given up whole; the next attempt waits, longer each time, with jitter.
   What was in flight is ``worker_queue.py``'s, which says what may be sent again.
3. Volumes are opened first, then the stream's first message goes out alone, and I/O follows when
   the worker has answered it.
4. A worker is asked for a sign of life every ``PROBE_SECONDS``: one that is stopped keeps its
   sockets open, and its kernel answers for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

from target.block.failover import EVICT_SECONDS_MAX, Failover, Log
from target.block.remote_io import Share
from target.block.worker_address import WorkerAddress
from target.block.worker_channel import WorkerChannel, WorkerStatus, WorkerStream
from target.block.worker_errors import NodeFenced, NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_queue import WorkerQueue
from workers.store import StoreIo, StoreStatus
from workers.wire import WireError

BACKOFF_SECONDS: Final = 0.05  # at first; doubled up to
BACKOFF_SECONDS_MAX: Final = 2.0
# A worker serves a new stream when nothing of the old one runs: that may take as long as a disk.
FIRST_ANSWER_SECONDS_MAX: Final = 10.0
PROBE_SECONDS: Final = 1.0
PROBE_SECONDS_MAX: Final = 3.0  # without an answer for so long, it is gone
EXPIRY_SECONDS: Final = 0.1  # how late a deadline may be noticed
GATHER_SECONDS: Final = 0.005  # the most that an I/O waits for others to go with


class LinkedShare(Share, Protocol):
    """A volume's share on the worker of this link."""

    async def open(
        self, channel: WorkerChannel, node: str, epoch: int, status: WorkerStatus
    ) -> None:
        """Set ``handle``, or 0 and ``reason``.  Raises WorkerGone or NodeFenced."""

    def resubmit(self, io: StoreIo) -> None:
        """Submit ``io`` again: others stand in for this worker."""


class WorkerLink:
    """All that a node has to do with one worker.

    ``store_id`` and ``instance`` are what is known of it from earlier lives of this node;
    ``on_instance(store_id, instance)`` keeps what is new of them, before any I/O goes there.
    """

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
        failover: Failover,
        checksum: bool = True,
        store_id: str = "",
        instance: str = "",
        on_instance: Callable[[str, str], None] = lambda store_id, instance: None,
    ) -> None:
        self.address = address
        self.node = node
        self.epoch = epoch
        self.reason = "not connected yet"  # why no stream is served; empty while one is
        self.connections = 0  # streams that were served so far
        self.store_id = store_id  # of a shared store; empty: of none, or not known yet
        self.instance = instance  # of it: the process that may have I/O of ours
        self.out = False  # others stand in (failover.py)
        self._failover = failover
        self._on_instance = on_instance
        self.channel: WorkerChannel | None = None  # while there is one
        self._added = asyncio.Event()  # a share that the connection has not opened
        self._stream: WorkerStream | None = None
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
        failover.workers.append(self)

    # --- for the stores ---------------------------------------------------------------------------

    def add(self, share: LinkedShare) -> None:
        """Open ``share`` with each connection, and with the present one."""
        self._shares.append(share)
        self._added.set()

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
        self._failover.away(self)

    @property
    def served(self) -> bool:
        """Whether the worker serves us."""
        return self._served.is_set()

    async def wait_served(self, seconds: float) -> bool:
        """Whether the worker serves us, at the latest after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._served.wait()
        return self._served.is_set()

    async def evict(self, store_id: str, instance: str, seconds: float) -> None:
        """Have the worker shut another one's process out (failover.py)."""
        if self.channel is None:
            raise WorkerGone(self.reason)
        await self.channel.evict(store_id, instance, seconds)

    def cut(self, reason: str) -> None:
        """Give the connection up; another one follows."""
        self._log.info("worker cut off", worker=str(self.address), reason=reason)
        if self._stream is not None:
            self._stream.cancel()

    def others_stand_in(self) -> None:
        """Ask others for what was asked for here: nothing of it happens here any more."""
        self.out = True
        self.instance = ""
        for io, share in self.queue.give_up():
            # All shares of a queue are those of its link.
            cast("LinkedShare", share).resubmit(io)

    async def close(self) -> None:
        """Hang up.  Nothing may be in flight."""
        assert self.queue.idle, "link closed with I/O in flight"
        self._failover.workers.remove(self)
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
        if not self.out:
            self._failover.away(self)

    async def _connection(self) -> None:
        """One connection, until it ends: always with an exception."""
        channel = self.channel = self._connect()
        try:
            status = await channel.status()
            view = self._failover.view(status.store_id)
            await self._succeed(channel, status)
            opened: set[LinkedShare] = set()
            await self._open(channel, status, opened)
            stream = self._stream = channel.stream()
            try:
                await stream.write(self.queue.first_message())
                async with asyncio.timeout(FIRST_ANSWER_SECONDS_MAX):
                    first = await stream.read()
                if self._failover.view(status.store_id) != view:
                    raise WorkerGone("somebody has been shut out of its store meanwhile")
                await self._serve(channel, status, stream, first, opened)
            finally:
                self._stream = None
                stream.cancel()
        finally:
            self.channel = None
            await channel.close()

    async def _succeed(self, channel: WorkerChannel, status: WorkerStatus) -> None:
        """This process follows another one, which must be shut out first (failover.py, rule 3)."""
        if not status.store_id:
            return
        old, instance = self.instance, status.instance
        shut_out = self._failover.evicted(instance)
        if shut_out or (old and old != instance):
            # Through the successor itself: whatever it does comes after.  A process that was shut
            # out, or was to be, is asked itself, so that it notices.
            try:
                victim = instance if shut_out else old
                await channel.evict(status.store_id, victim, EVICT_SECONDS_MAX)
            except (NoSuchShare, ShareRefused) as exc:
                raise WorkerGone(f"cannot shut out its predecessor: {exc}") from exc
        if shut_out:
            raise WorkerGone("it has been shut out of its store, and has not noticed yet")
        if (self.store_id, old) != (status.store_id, instance):
            try:
                self._on_instance(status.store_id, instance)
            except OSError as exc:
                raise WorkerGone(f"the catalog cannot be written: {exc.strerror}") from exc
        self.store_id, self.instance = status.store_id, instance

    async def _open(
        self, channel: WorkerChannel, status: WorkerStatus, opened: set[LinkedShare]
    ) -> None:
        """Open the shares that are not in ``opened``, which takes them up."""
        self._added.clear()
        while waiting := [share for share in self._shares if share not in opened]:
            for share in waiting:
                opened.add(share)
                await share.open(channel, self.node, self.epoch, status)

    async def _open_added(
        self,
        channel: WorkerChannel,
        status: WorkerStatus,
        stream: WorkerStream,
        opened: set[LinkedShare],
    ) -> None:
        try:
            while True:
                await self._added.wait()
                await self._open(channel, status, opened)
                for share in self._shares:
                    self.queue.released(share)
        except (WorkerGone, NodeFenced):
            stream.cancel()

    async def _serve(
        self,
        channel: WorkerChannel,
        status: WorkerStatus,
        stream: WorkerStream,
        first: bytes,
        opened: set[LinkedShare],
    ) -> None:
        self.queue.served(first)
        self._log.info("worker serves", worker=str(self.address), retried=self.queue.retried)
        self.reason = ""
        self.connections += 1
        self.out = False
        self._served.set()
        self._failover.back(self)
        for share in self._shares:
            self.queue.released(share)
        helpers = [
            asyncio.ensure_future(self._write(stream)),
            asyncio.ensure_future(self._probe(channel, stream)),
            asyncio.ensure_future(self._open_added(channel, status, stream, opened)),
        ]
        try:
            while True:
                if not self.queue.answered(await stream.read()):
                    raise WorkerGone("a volume is not served any more")
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _probe(self, channel: WorkerChannel, stream: WorkerStream) -> None:
        """Rule 4."""
        try:
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                await channel.probe(PROBE_SECONDS_MAX)
        except (WorkerGone, ShareRefused, NoSuchShare) as exc:
            self._log.warning("no sign of life", worker=str(self.address), reason=str(exc))
            stream.cancel()

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
