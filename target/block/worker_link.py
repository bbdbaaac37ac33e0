"""The way from a node to one worker: one connection, one stream, for all volumes; kept up.

Rules:

1. What is to be sent gathers while the last message goes out, and leaves as one message.  Nothing
   here costs a task, a future or a timer per I/O.
2. A connection that fails is given up whole; the next attempt waits, longer each time, with jitter.
   What was in flight is ``worker_queue.py``'s, which says what may be sent again.
3. Volumes are opened first, ``OPENS_MAX`` side by side, then the stream's first message goes out
   alone, and I/O follows when the worker has answered it.
4. A worker that says nothing is asked for a sign of life every ``PROBE_SECONDS``: one that is
   stopped keeps its sockets open, and its kernel answers for it.
5. A process of a shared store that may have I/O of ours (``suspects``) is shut out before another
   one at the same address gets any (``evictions.py``).  Which one gets it is kept before it does.
6. Other nodes that have a volume open at the worker, and that no member of the cluster is
   (``strangers`` says which), are refused there before the volume gets I/O of ours: they belong to
   a registry that has forgotten them, and may not know it yet.
7. Where the worker is on this machine, all messages but each side's first go over a socket that it
   gives, for gRPC costs each as much as all else that is done with it (local_stream.py).
8. A worker that refuses this epoch (``NodeFenced``) ends this life of the node: ``on_fenced`` is
   told before any I/O ends for it.  Whoever waits there drops its sessions first: an initiator that
   is told of an error does not look for another way.
9. Shares that the worker has refused are asked for again every ``REFUSED_SECONDS``, ``OPENS_MAX``
   of them at a time: a disk that was full may have space again.
10. Whatever ends a connection, another attempt follows, but for rule 8.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Final, Protocol

from target.block.borrowed import BorrowedMemory
from target.block.direct_reads import ask_for
from target.block.evictions import EVICT_SECONDS, Log
from target.block.failover import Failover
from target.block.local_stream import LocalStream
from target.block.remote_io import Share
from target.block.together import together
from target.block.worker_address import WorkerAddress
from target.block.worker_channel import OpenedShare, WorkerChannel, WorkerStream
from target.block.worker_errors import NodeFenced, NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_queue import WorkerQueue
from workers.store import StoreIo, StoreStatus
from workers.wire import WireError

BACKOFF_SECONDS: Final = 0.05  # at first; doubled up to
BACKOFF_SECONDS_MAX: Final = 2.0
# A worker serves a new stream when nothing of the old one runs: that may take as long as a disk.
FIRST_ANSWER_SECONDS_MAX: Final = 10.0
OPENS_MAX: Final = 32  # volumes that are opened side by side
PROBE_SECONDS: Final = 1.0
PROBE_SECONDS_MAX: Final = 3.0  # without an answer for so long, it is gone
EXPIRY_SECONDS: Final = 0.1  # how late a deadline may be noticed
REFUSED_SECONDS: Final = 5.0
FENCE_SECONDS: Final = 5.0  # for what runs at the worker to end
GATHER_SECONDS: Final = 0.005  # the most that an I/O waits for others to go with


Others = tuple[tuple[str, int], ...]
"""Nodes and their epochs."""
Strangers = Callable[[Others], Awaitable[Others]]
"""Raises WorkerGone where it cannot tell."""


class LinkedShare(Share, Protocol):
    """A volume's share on the worker of this link."""

    store_id: str  # of the shared store that it is in; empty: in a local one, or not known yet
    refusal: str  # why the worker does not serve it, although it is there

    async def open(self, channel: WorkerChannel, node: str, epoch: int) -> OpenedShare | None:
        """Set ``handle``, or 0 and ``reason`` (None).  Raises WorkerGone or NodeFenced."""

    def settle(self) -> None:
        """The worker has served, or is out."""


class WorkerLink:
    """All that a node has to do with one worker.

    ``on_instance(store_id, instance)`` keeps which process of a shared store gets I/O from now on.
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
        on_instance: Callable[[str, str], None] = lambda store_id, instance: None,
        strangers: Strangers | None = None,
        on_fenced: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.address = address
        self.node = node
        self.epoch = epoch
        self.reason = "not connected yet"  # why no stream is served; empty while one is
        self.connections = 0  # streams that were served so far
        self.stood_in = 0  # how often others took over for it
        self.store_id = ""  # of this connection: the worker's shared store, if it has one, and
        self.instance = ""  # its process there
        self.suspects: dict[str, str] = {}  # processes that may have I/O of ours, and their stores
        self.settled = True  # none of them has I/O of this node's previous life
        self.out = False  # others stand in (failover.py)
        self.down_since = clock()
        self._asked: set[str] = set()  # whom this connection has shut out before it was served
        self._heard = 0  # messages
        self._failover = failover
        self._on_instance = on_instance
        self._strangers = strangers
        self._on_fenced = on_fenced  # rule 8
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
        self._opened: set[LinkedShare] = set()  # those of them that this connection has opened
        self._refused: dict[LinkedShare, str] = {}  # and why; who was asked for last comes last
        self._expiry: asyncio.TimerHandle | None = None
        self._gather: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.queue = WorkerQueue(node, epoch, sequences, self._wake.set, checksum=checksum)
        failover.add(self)

    async def shut_out_strangers(self, channel: WorkerChannel, others: Others) -> None:
        """Rule 6.  Raises WorkerGone."""
        if self._strangers is None or not others:
            return
        for node, epoch in await self._strangers(others):
            self._log.warning("a node that nobody knows is shut out", node=node, epoch=epoch)
            await channel.fence(node, epoch, FENCE_SECONDS)

    # --- for the stores ---------------------------------------------------------------------------

    def add(self, share: LinkedShare) -> None:
        """Open ``share`` with each connection, and with the present one."""
        self._shares.append(share)
        self._added.set()

    def remove(self, share: LinkedShare) -> None:
        """The volume is closed; nothing of it may be in flight."""
        self._shares.remove(share)
        self._opened.discard(share)
        self._refused.pop(share, None)

    def suspect(self, store_id: str, instance: str) -> None:
        """``instance`` may have I/O of this node's previous life."""
        if instance not in self.suspects:
            self.suspects[instance] = store_id
            self.settled = False
            self.cut("a volume that it had is opened again")

    def submit(self, io: StoreIo, share: Share, deadline: float | None = None) -> None:
        """Start ``io``; it ends within the time for an I/O, whatever the worker does."""
        if deadline is None:
            deadline = self._clock() + self._io_seconds
        self.queue.submit(io, share, deadline)
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

    # --- for failing over -------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Whether I/O goes to the worker."""
        return self.queue.serving

    @property
    def store_ids(self) -> set[str]:
        """The shared stores where I/O of ours is or may be, as far as is known."""
        if self.queue.refused is not None:
            return set()  # a node that was fenced must shut nobody out
        known = {share.store_id for share in self._shares if share.store_id}
        return known | set(self.suspects.values())  # a volume may have left it, and its doubts not

    async def evict(self, store_id: str, instance: str) -> None:
        """Have the worker shut another one's process out (evictions.py)."""
        if self.channel is None:
            raise WorkerGone(self.reason)
        await self.channel.evict(store_id, instance, EVICT_SECONDS)

    async def fence(self, node: str, epoch: int) -> None:
        """Have the worker refuse an epoch of another node, for good; nothing of it runs there then.

        Raises WorkerGone where that is not known.
        """
        if self.channel is None:
            if self.out:
                return  # shut out of its store itself, whatever it has of that node
            raise WorkerGone(self.reason)
        await self.channel.fence(node, epoch, FENCE_SECONDS)

    def cut(self, reason: str) -> None:
        """Give the connection up, at once; another one follows."""
        if self.serving:
            self._down(reason)
            if self._stream is not None:
                self._stream.cancel()

    def others_stand_in(self) -> None:
        """Ask others for what was asked for here: nothing of it happens here any more."""
        if not self.out:
            count = self.queue.waiting
            self._log.warning("others stand in", worker=str(self.address), moved=count)
            self.stood_in += 1
        self.out = True
        self._settle()
        for remote in self.queue.give_up():
            remote.share.move(remote)

    def _settle(self) -> None:
        self.settled = True
        for share in self._shares:
            share.settle()

    def _release(self) -> None:
        for share in self._shares:
            self.queue.released(share)

    # --- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self.down_since = self._clock()
        self._task = asyncio.ensure_future(self._run())
        self._failover.changed()

    async def wait_served(self, seconds: float) -> bool:
        """Whether the worker serves us, at the latest after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._served.wait()
        return self._served.is_set()

    async def close(self) -> None:
        """Hang up.  Nothing may be in flight."""
        assert self.queue.idle, "link closed with I/O in flight"
        self._failover.remove(self)
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
                self._on_fenced(f"worker {self.address} refuses this node: {exc}")  # rule 8
                self.queue.refuse(StoreStatus.STALE_EPOCH, str(exc))
                return
            except (WorkerGone, WireError, TimeoutError) as exc:
                self._down(str(exc) or "does not answer")
            except Exception as exc:  # rule 10: a bug, or a system that has run out of something
                self._down(f"the connection failed: {exc!r}")
            if self.connections != connections:
                delay = BACKOFF_SECONDS
            await asyncio.sleep(delay * (0.5 + self._random()))
            delay = min(2 * delay, BACKOFF_SECONDS_MAX)

    def _down(self, reason: str) -> None:
        if reason != self.reason:
            self._log.warning("worker away", worker=str(self.address), reason=reason)
        self.reason = reason
        if self.serving:
            self.down_since = self._clock()
        self._served.clear()
        self.queue.lost()
        self._failover.changed()

    async def _connection(self) -> None:
        """One connection, until it ends: always with an exception."""
        channel = self.channel = self._connect()
        try:
            await channel.status()
            self._asked.clear()
            evictions = self._failover.evictions.count  # its volumes are opened behind those
            self._opened.clear()
            engines = await self._open(channel)
            self.store_id, self.instance = await self._succeed(channel, engines)
            stream = self._stream = channel.stream()
            try:
                await stream.write(self.queue.first_message())
                async with asyncio.timeout(FIRST_ANSWER_SECONDS_MAX):
                    first = await stream.read()
                if self.instance and self._failover.evictions.since(evictions) - self._asked:
                    raise WorkerGone("somebody has been shut out of its store meanwhile")
                await self._serve(channel, stream, first)
            finally:
                self._stream = None
                stream.cancel()
        finally:
            self.channel = None
            await channel.close()

    async def _open(self, channel: WorkerChannel) -> set[tuple[str, str]]:
        """Open the shares that are not open yet.

        Returns the shared stores that they are in, and the worker's process there: one, if any.
        """
        self._added.clear()
        engines: set[tuple[str, str]] = set()
        while waiting := [share for share in self._shares if share not in self._opened]:
            some = waiting[:OPENS_MAX]
            self._opened.update(some)
            opened = await together(share.open(channel, self.node, self.epoch) for share in some)
            for share, it in zip(some, opened, strict=True):
                before = self._refused.pop(share, "")
                if it is None:
                    reason = share.refusal
                    if reason != before:
                        self._log.warning("share refused", worker=str(self.address), reason=reason)
                    if share in self._opened:  # or the volume has been closed meanwhile
                        self._refused[share] = reason
                elif it.shared:
                    engines.add((it.store_id, it.instance))
        if len(engines) > 1:
            raise WorkerGone("it is another process by now")
        return engines

    async def _succeed(
        self, channel: WorkerChannel, engines: set[tuple[str, str]]
    ) -> tuple[str, str]:
        """This process may follow another one, which is shut out first (rule 5)."""
        if not engines:
            if self.suspects and (self._shares or self.queue.unanswered or not self.settled):
                raise WorkerGone("it does not have the volumes that it had")
            self.suspects.clear()  # all volumes have left it, and nothing of theirs is there
            return "", ""
        ((store_id, instance),) = engines
        evictions = self._failover.evictions
        if instance in evictions:
            raise WorkerGone("it has been shut out of its store, and has not noticed yet")

        def here(store_id: str, suspect: str) -> Awaitable[None]:
            return channel.evict(store_id, suspect, EVICT_SECONDS)

        for suspect, its_store in list(self.suspects.items()):
            if suspect != instance:
                try:
                    await evictions.evict(its_store, suspect, here)
                except (NoSuchShare, ShareRefused) as exc:
                    raise WorkerGone(f"cannot shut out its predecessor: {exc}") from exc
                self._asked.add(suspect)
                self.suspects.pop(suspect, None)
        self._keep(store_id, instance)
        return store_id, instance

    def _keep(self, store_id: str, instance: str) -> None:
        try:
            self._on_instance(store_id, instance)
        except OSError as exc:
            raise WorkerGone(f"the catalog cannot be written: {exc.strerror}") from exc

    async def _open_added(self, channel: WorkerChannel) -> None:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFUSED_SECONDS if self._refused else None):
                        await self._added.wait()
                self._opened.difference_update(islice(self._refused, OPENS_MAX))  # rule 9
                engines = await self._open(channel)
                if engines - {(self.store_id, self.instance)}:
                    raise WorkerGone("it is to be connected with as one with a shared store")
                if self.instance:
                    self._keep(self.store_id, self.instance)
                if self.settled:
                    self._settle()
                self._release()
        except Exception as exc:  # none may end it and leave shares that nobody opens
            self.cut(str(exc) or repr(exc))

    async def _serve(
        self,
        channel: WorkerChannel,
        stream: WorkerStream,
        first: bytes,
    ) -> None:
        self.queue.served(first)
        self._log.info("worker serves", worker=str(self.address), retried=self.queue.retried)
        self.reason = ""
        self.connections += 1
        if self.instance:
            self.suspects[self.instance] = self.store_id
        self.out = False
        self._served.set()
        self._failover.changed()
        self._settle()
        self._release()
        await self._borrow()
        local = await self._local_stream()
        self.queue.on_socket = local is not None
        helpers = [
            asyncio.ensure_future(self._write(stream, local or stream)),
            asyncio.ensure_future(self._probe(channel)),
            asyncio.ensure_future(self._open_added(channel)),
        ]
        try:
            await self._hear(stream, local)
        except WorkerGone as exc:
            if not self.reason:
                raise
            raise WorkerGone(self.reason) from exc  # of the cut
        finally:
            for helper in helpers:
                helper.cancel()
            if local is not None:
                local.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        raise WorkerGone(self.reason)

    async def _hear(self, stream: WorkerStream, local: LocalStream | None) -> None:
        """Until either ends."""
        readers = [asyncio.ensure_future(self._read(stream))]
        if local is not None:
            readers.append(asyncio.ensure_future(local.ended()))
        try:
            await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
            await next(reader for reader in readers if reader.done())
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, stream: WorkerStream) -> None:
        while True:
            self._came(await stream.read())

    def _came(self, data: bytes) -> None:
        """A message from the worker."""
        if not self.serving:  # the stream has been cut, and ends
            return
        self._heard += 1
        if not self.queue.answered(data):
            raise WorkerGone("a volume is not served any more")

    async def _given(self, token: bytes) -> int | None:
        """The descriptor that the worker gives for it, if it is on this machine."""
        if not token or not self.address.unix_path:
            return None
        return await ask_for(self.address.unix_path, token)

    async def _local_stream(self) -> LocalStream | None:
        """Rule 7."""
        fd = await self._given(self.queue.offers.socket_token)
        return LocalStream(fd, self._came) if fd is not None else None

    async def _borrow(self) -> None:
        """Take the memory that a worker on this machine lends to the stream."""
        offers = self.queue.offers
        fd = await self._given(offers.lent_token)
        if fd is not None:
            with contextlib.suppress(OSError, ValueError):  # goes on without
                self.queue.borrow(BorrowedMemory(fd, offers.lent_bytes))

    async def _probe(self, channel: WorkerChannel) -> None:
        """Rule 4."""
        while True:
            heard = self._heard
            await asyncio.sleep(PROBE_SECONDS)
            if heard != self._heard or not (self.instance or self.queue.unanswered):
                continue
            try:
                await channel.probe(PROBE_SECONDS_MAX)
            except Exception as exc:  # none may end it and leave a worker that nobody looks at
                self.cut(f"no sign of life: {exc}")

    async def _write(self, stream: WorkerStream, carrier: WorkerStream | LocalStream) -> None:
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
                    await carrier.write(message)
        finally:
            stream.cancel()  # then the reader ends too, and knows why
