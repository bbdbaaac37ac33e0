"""A worker's shares of volumes: which there are, and the store of each.

Rules:

1. A share is created, resized and deleted by one call at a time, and each is safe to repeat: a
   caller that heard no answer asks again.
2. Its store is opened once, when the first node asks, and then stays open: a store remembers a
   flush that failed (workers/store.py, rule 5), and must not forget it with a reconnect.
3. A share whose metadata or data is not what it should be is not served; the others are.
4. What was deleted is not made again: UUIDs are never used twice, so that a creation of it is one
   that was on its way when its caller gave it up.
5. A change that has begun is ended, whoever still waits for it: gRPC cancels the call of a caller
   that has gone, and half of a change is none that could be repeated.

``MemoryShares`` is gone with the process; workers/share_dir.py keeps shares in a directory.
"""

from __future__ import annotations

import asyncio
import enum
import re
import secrets
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from workers.limits import SIZE_BYTES_MAX
from workers.memory_store import MemoryStore
from workers.store import VolumeStore
from workers.sync_mark import SyncMark

UUID_BYTES = 16
NAME_CHARS_MAX = 64
PLACE_CHARS_MAX = 64
CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_MAX = 64 << 20
BLOCK_BYTES = (512, 4096)
SHARES_MAX = 16384
DELETED_MAX = 16384  # that are remembered: a creation is not on its way for longer (rule 4)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

T = TypeVar("T")
Wrap = Callable[[str, VolumeStore], VolumeStore]  # a filter in front of a volume's store, for tests


class ShareFault(enum.Enum):
    """Why a request about shares cannot be met, whatever the disk does."""

    INVALID = "invalid"
    EXISTS = "exists"
    MISSING = "missing"
    UNUSABLE = "unusable"  # rule 3, being deleted, or one too many


class ShareError(Exception):
    """A request about shares that cannot be met; the text says why, in one line."""

    def __init__(self, fault: ShareFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class ShareInfo:
    """What a volume is; the same on each of its workers."""

    name: str
    uuid: bytes  # UUID_BYTES of them
    size: int  # bytes of the whole volume
    chunk_bytes: int
    block_bytes: int
    place: str = ""  # which part of the chunks this is, in the node's words

    def check(self) -> None:
        """Raise ShareError if it is not within bounds.  The name becomes a file name."""
        if len(self.name) > NAME_CHARS_MAX or not _NAME.fullmatch(self.name):
            raise _invalid(f"bad volume name {self.name[:80]!r}")
        if len(self.uuid) != UUID_BYTES:
            raise _invalid(
                f"volume {self.name}: a UUID has {UUID_BYTES} bytes, not {len(self.uuid)}"
            )
        if self.block_bytes not in BLOCK_BYTES:
            raise _invalid(f"volume {self.name}: blocks of {self.block_bytes} bytes")
        chunk = self.chunk_bytes
        if chunk & (chunk - 1) or not CHUNK_BYTES_MIN <= chunk <= CHUNK_BYTES_MAX:
            raise _invalid(f"volume {self.name}: chunks of {chunk} bytes")
        if len(self.place) > PLACE_CHARS_MAX or not self.place.isprintable():
            raise _invalid(f"volume {self.name}: bad place {self.place[:80]!r}")
        if not self.block_bytes <= self.size <= SIZE_BYTES_MAX or self.size % self.block_bytes:
            raise _invalid(f"volume {self.name}: a size of {self.size} bytes")


@dataclass(slots=True, eq=False)
class Share:
    """A share, and its store once it is open (rule 2)."""

    info: ShareInfo
    store: VolumeStore | None = None
    deleting: bool = False
    users: int = 0  # I/Os that run or wait
    mark: SyncMark | None = None  # where the end of the process is not the end of the data
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """An I/O that needs the store has come."""
        self.users += 1
        self._unused.clear()

    def ended(self) -> None:
        """It has ended."""
        self.users -= 1
        if not self.users:
            self._unused.set()

    def sync_lost(self) -> bool:
        """A flush has failed, and that is about to be said.  False: nobody will know later."""
        return self.mark is None or self.mark.lose()

    async def unused(self) -> None:
        """Wait until no I/O needs the store."""
        while self.users:
            await self._unused.wait()


class Shares(ABC):
    """The shares of one worker."""

    kind: str  # what GetStatus says
    shared: bool = False  # any worker can serve any chunk
    store_id: str = ""  # of a shared store: the same for all workers that have its chunks
    instance: str = ""  # of a shared store: this process, as its engine knows it
    volatile_id: str = ""  # another one: what was answered and not flushed may be lost
    slots: int = 0  # I/Os that its stores take at once; 0: what the worker's threads can do

    def __init__(self, wrap: Wrap = lambda name, store: store) -> None:
        self._by_uuid: dict[bytes, Share] = {}
        self._by_name: dict[str, Share] = {}
        self._deleted: OrderedDict[tuple[bytes, str], None] = OrderedDict()  # UUIDs and places
        self._wrap = wrap
        self._lock = asyncio.Lock()  # rule 1
        self._next_look: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Any] | None = None  # the last change that has begun
        self.gone: Callable[[Share], None] = lambda share: None  # deleted by another worker
        self.evicted: Callable[[], None] = lambda: None  # the engine has shut this process out

    # --- what a kind of store has to do; raises OSError or ShareError -----------------------------

    @abstractmethod
    async def _create(self, info: ShareInfo) -> None: ...

    @abstractmethod
    async def _resize(self, old: ShareInfo, new: ShareInfo, store: VolumeStore | None) -> None: ...

    @abstractmethod
    async def _delete(self, info: ShareInfo) -> None: ...

    @abstractmethod
    async def _open(self, share: Share) -> VolumeStore: ...

    async def load(self) -> list[str]:
        """Find the shares that there are; returns what deserves a warning."""
        return []

    async def _refresh(self) -> None:
        """See what other workers have done to a shared store; the lock is held."""
        return

    async def load_fences(self) -> bytes | None:
        """What :meth:`save_fences` was given last."""
        return None

    @abstractmethod
    async def save_fences(self, data: bytes) -> None:
        """Keep ``data``; it is on stable storage when this returns, where there is any."""

    async def evict(self, instance: str) -> None:
        """Shut another worker's process out at the engine of a shared store.

        When this returns, nothing of it lands after what is done from here from now on.
        """
        raise ShareError(ShareFault.INVALID, f"a {self.kind} store is not shared: nobody to evict")

    def abandon(self) -> None:
        """After ``evicted``: end with an error all that runs, forget the shares, begin nothing."""
        raise NotImplementedError(f"a {self.kind} store is not shared: nobody evicts it")

    async def rejoin(self) -> None:
        """Begin anew at the engine, as another ``instance``; raises OSError."""
        raise NotImplementedError(f"a {self.kind} store is not shared: nobody evicts it")

    # --- for the control service ------------------------------------------------------------------

    async def refresh(self) -> None:
        """See what other workers have done; raises OSError and ShareError.

        A look is for all who have come before it begins: it costs as much as there are volumes.
        """
        if self._next_look is None:
            self._next_look = asyncio.ensure_future(self._look())
            self._next_look.add_done_callback(_heard)
        await asyncio.shield(self._next_look)

    async def _look(self) -> None:
        async with self._lock:
            self._next_look = None
            await self._refresh()

    def list_after(self, name: str, limit: int) -> list[ShareInfo]:
        """Up to ``limit`` shares whose names come after ``name``, in order."""
        names = sorted(other for other in self._by_name if other > name)[:limit]
        return [self._by_name[other].info for other in names]

    def volatile_id_of(self, share: Share) -> str:
        """Of an open share: another one when what was answered and not flushed may be lost."""
        return self.volatile_id

    @property
    def count(self) -> int:
        """How many shares there are."""
        return len(self._by_uuid)

    def get(self, uuid: bytes) -> Share:
        """The share, or ShareError."""
        share = self._by_uuid.get(uuid)
        if share is None:
            raise ShareError(ShareFault.MISSING, f"no volume {uuid.hex()} here")
        return share

    async def _alone(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Rules 1 and 5: who waits for his turn may give up, what has begun goes on without him."""
        await self._lock.acquire()
        running = self._running = asyncio.ensure_future(self._to_its_end(change))
        running.add_done_callback(_heard)
        return await asyncio.shield(running)

    async def _to_its_end(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await change()
        finally:
            self._lock.release()

    async def settle(self, seconds: float) -> None:
        """Wait for the change that runs, for that long."""
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=seconds)

    async def create(self, info: ShareInfo) -> None:
        """Make an empty share.  Its twin, made before, is as good."""
        info.check()
        await self._alone(partial(self._create_new, info))

    async def _create_new(self, info: ShareInfo) -> None:
        await self._refresh()
        there = self._by_uuid.get(info.uuid) or self._by_name.get(info.name)
        if there is not None:
            if there.info != info or there.deleting:
                raise ShareError(
                    ShareFault.EXISTS,
                    f"volume {there.info.name} ({there.info.uuid.hex()}) is there, and not "
                    "as asked for",
                )
            return
        if (info.uuid, "") in self._deleted or (info.uuid, info.place) in self._deleted:
            raise ShareError(ShareFault.MISSING, f"volume {info.name} has been deleted")
        if len(self._by_uuid) >= SHARES_MAX:
            raise ShareError(ShareFault.UNUSABLE, f"there are {SHARES_MAX} volumes already")
        await self._create(info)
        self._add(Share(info))

    async def open(self, uuid: bytes) -> Share:
        """The share with its store open."""
        await self.refresh()
        return await self._alone(partial(self._open_one, uuid))

    async def _open_one(self, uuid: bytes) -> Share:
        share = self.get(uuid)
        if share.deleting:
            raise ShareError(ShareFault.UNUSABLE, f"volume {share.info.name} is being deleted")
        if share.store is None:
            share.store = self._wrap(share.info.name, await self._open(share))
        return share

    async def resize(self, uuid: bytes, size: int) -> None:
        """Grow a share; what is added reads as zeros."""
        await self._alone(partial(self._grow, uuid, size))

    async def _grow(self, uuid: bytes, size: int) -> None:
        await self._refresh()
        share = self.get(uuid)
        info = replace(share.info, size=size)
        info.check()
        if size < share.info.size:
            raise _invalid(f"volume {info.name} has {share.info.size} bytes: it cannot shrink")
        if size != share.info.size:
            await self._resize(share.info, info, share.store)
            share.info = info
            if share.store is not None:
                share.store.size = size

    def bury(self, uuid: bytes, place: str) -> None:
        """Nothing of a volume is to be made here any more, or for one of its places (rule 4)."""
        self._deleted[uuid, place] = None
        if len(self._deleted) > DELETED_MAX:
            self._deleted.popitem(last=False)

    async def delete(self, uuid: bytes) -> None:
        """Remove a share and its data.  One that is gone already is as good.

        The caller sees to it that nothing runs there: ``deleting`` is set first, to refuse more.
        """
        await self._alone(partial(self._delete_one, uuid))

    async def _delete_one(self, uuid: bytes) -> None:
        share = self._by_uuid.get(uuid)
        if share is None:
            return
        assert share.users == 0, "share deleted with I/O in flight"
        if share.store is not None:
            share.store.close()
            share.store = None
        await self._delete(share.info)
        self._by_uuid.pop(uuid, None)
        self._by_name.pop(share.info.name, None)

    def close(self) -> None:
        """Close the stores.  Nothing may be in flight."""
        for share in self._by_uuid.values():
            if share.store is not None:
                share.store.close()
                share.store = None

    def _add(self, share: Share) -> None:
        self._by_uuid[share.info.uuid] = share
        self._by_name[share.info.name] = share


def _heard(task: asyncio.Task[Any]) -> None:
    """Perhaps nobody waits for its outcome any more."""
    if not task.cancelled():
        task.exception()


def _invalid(detail: str) -> ShareError:
    return ShareError(ShareFault.INVALID, detail)


class MemoryShares(Shares):
    """``--store memory:``"""

    kind = "memory"

    def __init__(self, wrap: Wrap = lambda name, store: store) -> None:
        super().__init__(wrap)
        self.volatile_id = secrets.token_hex(8)  # it ends with the process
        self._fences: bytes | None = None

    async def _create(self, info: ShareInfo) -> None:
        """There is nothing to make before the store is opened."""

    async def _resize(self, old: ShareInfo, new: ShareInfo, store: VolumeStore | None) -> None:
        """The store's size is all there is."""

    async def _delete(self, info: ShareInfo) -> None:
        """The store was closed, and its memory with it."""

    async def _open(self, share: Share) -> VolumeStore:
        return MemoryStore(share.info.size)

    async def load_fences(self) -> bytes | None:
        return self._fences

    async def save_fences(self, data: bytes) -> None:
        self._fences = data
