"""What a worker knows of each target node: its epoch, its volumes, its stream, what runs for it.

Rules:

1. All that runs for a node belongs to one epoch and one stream.  A new stream, or a new epoch, ends
   the old one: what waited there is dropped, and what ran there must have ended before the new one
   is served.
2. An epoch that is fenced, or lower than one that was seen, is refused.
3. A COMPARE_AND_WRITE that was executed is remembered by its sequence number, and answered from
   memory when it is sent again.  The last ``REMEMBERED_MAX`` of an epoch are kept: twice what a
   stream may have unanswered, so one that is still unanswered is always among them.
4. Handles of volumes are of one worker process, node and epoch.  They begin at a random number, so
   that one of an earlier process names nothing here, rather than another volume.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections import OrderedDict
from typing import Final, Protocol

from workers.fences import Fences
from workers.flushes import FlushGroup
from workers.limits import STREAM_IOS_MAX
from workers.shares import Share
from workers.store import StoreStatus, VolumeStore

NODES_MAX: Final = 1024
REMEMBERED_MAX: Final = 2 * STREAM_IOS_MAX


class StaleEpoch(Exception):
    """Rule 2; the text says which epoch it had to be."""


class TooManyNodes(Exception):
    """``NODES_MAX`` nodes have streams."""


class End(enum.Enum):
    """Why a stream has ended."""

    SUPERSEDED = "a newer stream of the node has begun"
    STALE = "the epoch of the node is over"
    STOPPING = "the worker stops"
    EVICTED = "the worker has been shut out of its store"
    GONE = "the node has closed it, or cannot be reached"


class NodeStream(Protocol):
    """The stream that serves a node."""

    def end(self, reason: End) -> None:
        """Drop what waits, begin nothing more."""


class OpenShare:
    """A share that a node has opened, behind a handle."""

    __slots__ = ("flushes", "share", "store")

    def __init__(self, share: Share, flushes: FlushGroup) -> None:
        assert share.store is not None, "opened by Shares.open"
        self.share = share
        self.store: VolumeStore = share.store
        self.flushes = flushes


class Node:
    """One target node."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        self.volumes: dict[int, OpenShare] = {}  # by handle
        self.handles: dict[Share, int] = {}  # the last one of each share
        self.stream: NodeStream | None = None
        self.running = 0  # I/Os in stores
        self.running_epoch = 0  # of these (rule 1)
        self.streams = 0  # that there have been: the one with the last number may serve
        self._idle = asyncio.Event()
        self._idle.set()
        self._remembered: OrderedDict[int, tuple[StoreStatus, int]] = OrderedDict()

    def advance(self, epoch: int) -> None:
        """A new epoch begins (rule 1)."""
        self.end_stream(End.STALE)
        self.epoch = epoch
        self.forget()

    def forget(self) -> None:
        """Its handles, and what was executed for it."""
        self.volumes.clear()
        self.handles.clear()
        self._remembered.clear()

    def end_stream(self, reason: End) -> None:
        """End the stream that there is, if any."""
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.end(reason)

    def begin(self) -> None:
        """An I/O goes to a store."""
        self.running += 1
        self.running_epoch = self.epoch
        self._idle.clear()

    def ended(self) -> None:
        """An I/O has come back from a store."""
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing runs for the node."""
        await self._idle.wait()

    def remember(self, sequence: int, status: StoreStatus, miscompare_offset: int) -> None:
        """Rule 3."""
        self._remembered[sequence] = (status, miscompare_offset)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    def recall(self, sequence: int) -> tuple[StoreStatus, int] | None:
        """How the COMPARE_AND_WRITE of this sequence number ended, if it was executed."""
        return self._remembered.get(sequence)


class Nodes:
    """All nodes that a worker has heard of, within bounds."""

    def __init__(self, fences: Fences) -> None:
        self._fences = fences
        self._nodes: OrderedDict[str, Node] = OrderedDict()  # the one heard of last is last
        self._handle = secrets.randbelow(1 << 31)
        self._flushes: dict[Share, FlushGroup] = {}  # one for all nodes

    def check(self, name: str, epoch: int) -> None:
        """Raise StaleEpoch (rule 2)."""
        if self._fences.refuses(name, epoch):
            raise StaleEpoch(f"epoch {epoch} of node {name} has been fenced")
        node = self._nodes.get(name)
        if node is not None and epoch < node.epoch:
            raise StaleEpoch(f"epoch {epoch} of node {name} is over, it has epoch {node.epoch}")

    def enter(self, name: str, epoch: int) -> Node:
        """The node, in this epoch."""
        self.check(name, epoch)
        node = self._nodes.get(name)
        if node is None:
            self._make_room()
            node = self._nodes[name] = Node(name, epoch)
        elif epoch > node.epoch:
            node.advance(epoch)
        self._nodes.move_to_end(name)
        return node

    def _make_room(self) -> None:
        """Forget the node that was silent longest."""
        if len(self._nodes) < NODES_MAX:
            return
        for name, node in self._nodes.items():
            if node.stream is None and node.running == 0:
                del self._nodes[name]
                return
        raise TooManyNodes(f"{NODES_MAX} nodes have streams here")

    def open_volume(self, node: Node, share: Share) -> int:
        """A handle for ``share``, the same if the node has it open already (rule 4)."""
        handle = node.handles.get(share, 0)
        if handle and node.volumes[handle].store is share.store:
            return handle
        assert share.store is not None, "opened by Shares.open"
        flushes = self._flushes.get(share)
        if flushes is None:
            flushes = self._flushes[share] = FlushGroup(share.store)
        self._handle = (self._handle + 1) & 0x7FFFFFFF or 1
        node.volumes[self._handle] = OpenShare(share, flushes)
        node.handles[share] = self._handle
        return self._handle

    def others(self, node: Node, share: Share) -> list[tuple[str, int]]:
        """(name, epoch) of further nodes that have ``share`` open, and are not fenced."""
        return [
            (other.name, other.epoch)
            for other in self._nodes.values()
            if other is not node
            and not self._fences.refuses(other.name, other.epoch)
            and share in other.handles
        ]

    def forget_volume(self, share: Share) -> None:
        """The share is being deleted."""
        self._flushes.pop(share, None)
        for node in self._nodes.values():
            for handle in [h for h, known in node.volumes.items() if known.share is share]:
                del node.volumes[handle]
            node.handles.pop(share, None)

    def forget_all(self) -> None:
        """As after a restart: no stream, no handle and no memory of before.

        The nodes themselves stay: a stream that waits for its turn is superseded (``streams``), and
        a fence finds it.
        """
        self._flushes.clear()
        for node in self._nodes.values():
            node.end_stream(End.EVICTED)
            node.streams += 1
            node.forget()

    async def fence(self, name: str, epoch: int) -> None:
        """Refuse this epoch from now on; returns when it is kept and nothing of it runs.

        Raises OSError or FenceError when it cannot be kept.
        """
        kept = asyncio.ensure_future(self._fences.add(name, epoch))
        await asyncio.sleep(0)  # in force before anything else happens
        node = self._nodes.get(name)
        if node is not None and node.epoch <= epoch:
            node.end_stream(End.STALE)
        await asyncio.shield(kept)
        while node is not None and node.running and node.running_epoch <= epoch:
            await node.idle()

    def all(self) -> list[Node]:
        """For the status and for the drain."""
        return list(self._nodes.values())

    def open_shares(self) -> list[Share]:
        """The shares that nodes have opened, or had."""
        return list(self._flushes)
