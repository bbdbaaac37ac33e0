"""A volume's share on a worker, as a store.

All I/O goes through ``submit`` and over the link, but for reads of what a worker on this machine
has cached (``direct_reads.py``).  An I/O that is larger than a message may carry is cut, and its
pieces run concurrently.

Rules:

1. I/O whose worker is out goes to another share of the volume (``share_group.py``).
2. A worker whose ``volatile_id`` has changed may have lost what it had answered and nobody had
   flushed.  If there was any of that, FUA writes and flushes end with SYNC_LOST until a flush has
   said so.  A write that was answered while a flush ran was not flushed by it.  What other nodes
   had written and not flushed nobody here knows: where others serve the volume, each node says it,
   for an initiator may write through one and flush through another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from target.block.direct_reads import DirectFile, ask_for
from target.block.extents import cut_buffers
from target.block.remote_io import WRITING, RemoteIo
from target.block.share_group import ShareGroup
from target.block.worker_channel import OpenedShare, ShareInfo, WorkerChannel
from target.block.worker_errors import NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_link import WorkerLink
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore
from workers.wire import LENGTH_MAX


class RemoteStore(VolumeStore):
    """The share of the volume ``info`` on the worker of ``link``.

    ``group`` is of the shares of all workers of the volume.  ``store_id`` is the shared store that
    it is known to be in.
    ``create``: it may still have to be made there; ``on_created`` keeps that it has been, before
    anything is written to it.  A share that was made once and is missing is never made again: its
    data are missing too.
    """

    writes_at_hand = False  # whatever writes is the worker's to do

    def __init__(
        self,
        link: WorkerLink,
        info: ShareInfo,
        *,
        create: bool = False,
        on_created: Callable[[], None] = lambda: None,
        group: ShareGroup | None = None,
        store_id: str = "",
    ) -> None:
        self.size = info.size
        self.info = info
        self.link = link
        self.at_hand = bool(link.address.unix_path)  # it may be
        self._direct: DirectFile | None = None
        self.store_id = store_id
        self.group = group if group is not None else ShareGroup()
        self.group.members.append(self)
        self.doubts = self.group.doubts
        self.held: list[RemoteIo] = []
        self.written = 0
        self._flushed = 0  # how many of them are known to be on stable storage
        self._sync_lost = False
        self._volatile_id: str | None = None
        self._handle = 0
        self._create = create
        self._on_created = on_created
        self.refusal = ""
        self._opened = asyncio.Event()
        link.add(self)

    @property
    def reason(self) -> str:
        """Why the share is not served; empty if it is."""
        why = self.link.reason or self.refusal
        return f"worker {self.link.address}: {why}" if why else ""

    @property
    def handle(self) -> int:
        """0 as well while its group has not settled (share_group.py, rule 3)."""
        return self._handle if self.group.settled else 0

    @property
    def is_open(self) -> bool:
        """Whether the worker has opened the share for this connection, or the one before."""
        return self._handle != 0

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        direct, sole = self._direct, self.group.sole
        if direct is None or not self.link.queue.serving or self.doubts or not sole():
            return False
        return direct.read_now(offset, buffers, nbytes) and sole()

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        if io.length > LENGTH_MAX[io.kind] and io.kind is not IoKind.FLUSH:
            _Pieces(io).submit(self)
        else:
            self._send(io)

    def cancel(self, io: StoreIo) -> None:
        for member in self.group.members:  # whichever has it
            member.link.queue.cancel(io)

    def _send(self, io: StoreIo, deadline: float | None = None) -> None:
        link = self.link
        if link.out or (io.kind is IoKind.FLUSH and not link.serving):  # rule 1
            member = self.group.member_for(self, io)
            member.link.submit(io, member, deadline)
        else:
            link.submit(io, self, deadline)

    def move(self, remote: RemoteIo) -> None:
        """Submit ``remote`` again, under its old deadline (of ``remote_io.Share``)."""
        assert remote.io is not None, "somebody waits for it"
        self._send(remote.io, remote.deadline)

    def settle(self) -> None:
        """The worker has served, or is out (of ``worker_link.LinkedShare``)."""
        self.group.settle()

    def doubt_over(self) -> None:
        """What waited for that may go, at whatever worker (of ``remote_io.Share``)."""
        self.group.doubt_over()

    def answered(self, remote: RemoteIo, io: StoreIo) -> None:
        """Rule 2 (of ``remote_io.Share``)."""
        if io.status is not StoreStatus.OK:
            return
        flush = remote.kind is IoKind.FLUSH
        if not (flush or io.fua):
            if remote.kind in WRITING:
                self.written += 1
        elif self._sync_lost:
            self._sync_lost = not flush
            io.status = StoreStatus.SYNC_LOST
            io.detail = f"worker {self.link.address} has restarted: what was not flushed is lost"
        elif flush:
            self._flushed = max(self._flushed, remote.mark)

    def close(self) -> None:
        self._handle = 0
        self._no_direct()
        self.link.remove(self)
        self.group.members.remove(self)  # a volume may have left this worker

    async def open(self, channel: WorkerChannel, node: str, epoch: int) -> OpenedShare | None:
        """Make the share if need be, and open it (of ``worker_link.LinkedShare``)."""
        self._handle = 0
        self._no_direct()
        self._opened.clear()
        try:
            if self._create:
                await channel.create_volume(self.info)
                self._on_created()
                self._create = False
            opened = await channel.open_volume(node, epoch, self.info.uuid)
            if opened.info.size < self.info.size:
                await channel.resize_volume(self.info.uuid, self.info.size)
                opened = await channel.open_volume(node, epoch, self.info.uuid)
            self._check(opened)
            await self.link.shut_out_strangers(channel, opened.others)
        except (NoSuchShare, ShareRefused) as exc:
            self.refusal = str(exc)
            self._opened.set()
            return None
        self.refusal = ""
        self.shared = opened.shared
        self.store_id = opened.store_id
        unflushed = self.written > self._flushed or not self.group.sole()
        if self._volatile_id not in (None, opened.volatile_id) and unflushed:
            self._sync_lost = True
            self._flushed = self.written
        self._volatile_id = opened.volatile_id
        self._handle = opened.handle
        if opened.read_token:
            fd = await ask_for(self.link.address.unix_path, opened.read_token)
            self._direct = DirectFile(fd) if fd is not None else None
        if self not in self.group.members:  # it has been closed meanwhile
            self._handle = 0
            self._no_direct()
        self._opened.set()
        return opened

    def _no_direct(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    async def wait_open(self, seconds: float) -> str:
        """Wait for the worker; returns why the share is not served, empty if it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()
                await self.link.wait_served(seconds)
        return self.reason

    async def grow(self, size: int) -> None:
        """Make the share larger.  Raises WorkerGone or ShareRefused."""
        channel = self.link.channel
        if channel is None or not self.handle:
            raise WorkerGone(self.reason or "it is away")
        await channel.resize_volume(self.info.uuid, size)
        self.info = replace(self.info, size=size)

    def _check(self, opened: OpenedShare) -> None:
        """Chunks of another size would lie elsewhere."""
        ours, theirs = self.info, opened.info
        if (theirs.uuid, theirs.chunk_bytes) != (ours.uuid, ours.chunk_bytes):
            raise ShareRefused(f"has volume {theirs.name} in chunks of {theirs.chunk_bytes} bytes")
        if theirs.place and theirs.place != ours.place:
            raise ShareRefused(f"has another part of volume {ours.name}: are addresses mixed up?")
        if opened.shared and not (opened.store_id and opened.instance):
            raise ShareRefused("does not say what store it shares")
        if self.store_id and opened.store_id != self.store_id:
            raise ShareRefused(f"has another store than the one that volume {ours.name} is in")
        if theirs.size < ours.size:
            raise ShareRefused(f"has {theirs.size} bytes of volume {ours.name}, not {ours.size}")


class _Pieces:
    """An I/O that is too large for a message."""

    def __init__(self, io: StoreIo) -> None:
        assert io.kind is not IoKind.COMPARE_AND_WRITE, "it is one act and cannot be cut"
        self._io = io
        most = LENGTH_MAX[io.kind]
        # Runs of the first piece answer a BLOCK_STATUS well enough: it may always end early.
        end = most if io.kind is IoKind.BLOCK_STATUS else io.length
        self._pieces = [
            StoreIo(
                io.kind,
                io.offset + at,
                min(most, end - at),
                self._done,
                cut_buffers(io.buffers, at, min(most, end - at)),
                fua=io.fua,
                extents_max=io.extents_max,
            )
            for at in range(0, end, most)
        ]
        self._left = len(self._pieces)

    def submit(self, store: RemoteStore) -> None:
        for piece in self._pieces:
            store.submit(piece)

    def _done(self, _: StoreIo) -> None:
        self._left -= 1
        if self._left:
            return
        io = self._io
        io.extents = self._pieces[0].extents
        for piece in self._pieces:
            if piece.status is not StoreStatus.OK:
                io.status, io.detail = piece.status, piece.detail
                break
        io.done(io)
