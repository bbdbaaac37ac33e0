"""A volume's share on a worker, as a store.

Nothing is at hand here: all I/O goes through ``submit`` and over the link.  An I/O that is larger
than a message may carry is cut, and its pieces run concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from target.block.extents import cut_buffers
from target.block.remote_io import RemoteIo, end
from target.block.share_group import route
from target.block.worker_channel import OpenedShare, ShareInfo, WorkerChannel, WorkerStatus
from target.block.worker_errors import NoSuchShare, ShareRefused, WorkerGone
from target.block.worker_link import WorkerLink
from target.block.worker_queue import SYNC_LOST_DETAIL
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore
from workers.wire import length_max

_LENGTH_MAX: Final = {kind: length_max(kind) for kind in IoKind}


class RemoteStore(VolumeStore):
    """The share of the volume ``info`` on the worker of ``link``.

    ``members`` are the shares of all workers of the volume, this one among them (share_group.py).
    ``create``: it may still have to be made there; ``on_created`` keeps that it has been, before
    anything is written to it.  A share that was made once and is missing is never made again: its
    data are missing too.
    """

    at_hand = False

    def __init__(
        self,
        link: WorkerLink,
        info: ShareInfo,
        *,
        create: bool = False,
        on_created: Callable[[], None] = lambda: None,
        members: list[RemoteStore] | None = None,
    ) -> None:
        self.size = info.size
        self.info = info
        self.link = link
        self.handle = 0
        self.doubts: dict[int, RemoteIo] = {}
        self.held: list[RemoteIo] = []
        self.written = self.flushed = 0
        self.sync_lost = False
        self._volatile_id: str | None = None
        self._members = members if members is not None else []
        self._members.append(self)
        self._create = create
        self._on_created = on_created
        self._refusal = ""
        self._opened = asyncio.Event()
        link.add(self)

    @property
    def reason(self) -> str:
        """Why the share is not served; empty if it is."""
        why = self.link.reason or self._refusal
        return f"worker {self.link.address}: {why}" if why else ""

    @property
    def key(self) -> str:
        """Of its place among the volume's workers."""
        return self.info.place

    @property
    def store_id(self) -> str:
        """Of the worker's shared store; empty: of none, or not known yet."""
        return self.link.store_id

    @property
    def out(self) -> bool:
        """Whether others stand in for the worker."""
        return self.link.out

    @property
    def served(self) -> bool:
        """Whether the worker serves this node."""
        return self.link.served

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        if self.sync_lost and (io.fua or io.kind is IoKind.FLUSH):
            self.sync_lost = False  # said once, as a disk would
            end(io, StoreStatus.SYNC_LOST, SYNC_LOST_DETAIL)
        elif io.length > _LENGTH_MAX[io.kind] and io.kind is not IoKind.FLUSH:
            _Pieces(io).submit(self)
        elif self.link.store_id:
            member = route(self, self._members, io, self.info.chunk_bytes)
            member.link.submit(io, member)
        else:
            self.link.submit(io, self)

    def resubmit(self, io: StoreIo) -> None:
        """Submit ``io`` again: others stand in for the worker (of ``worker_link.LinkedShare``)."""
        self.submit(io)

    def close(self) -> None:
        self.link.remove(self)

    async def open(
        self, channel: WorkerChannel, node: str, epoch: int, status: WorkerStatus
    ) -> None:
        """Make the share if need be, and open it (of ``worker_link.LinkedShare``)."""
        self.handle = 0
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
        except (NoSuchShare, ShareRefused) as exc:
            self._refusal = str(exc)
            self._opened.set()
            return
        if opened.instance != status.instance:
            raise WorkerGone("it is another process by now")
        self._refusal = ""
        self.shared = opened.shared
        if opened.volatile_id != self._volatile_id:
            # What it was when we began is nobody's loss of ours.
            if self._volatile_id is not None and self.written > self.flushed:
                self.sync_lost = True
            self._volatile_id = opened.volatile_id
        self.handle = opened.handle
        self._opened.set()

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
        if theirs.size < ours.size:
            raise ShareRefused(f"has {theirs.size} bytes of volume {ours.name}, not {ours.size}")


class _Pieces:
    """An I/O that is too large for a message."""

    def __init__(self, io: StoreIo) -> None:
        assert io.kind is not IoKind.COMPARE_AND_WRITE, "it is one act and cannot be cut"
        self._io = io
        most = _LENGTH_MAX[io.kind]
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
