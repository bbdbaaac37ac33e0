"""A node follows what others have changed in the catalog, and all know of what it could not.

Rules:

1. Each part is followed by itself: one that fails keeps nothing from the others.
2. What has failed is told to all (the document ``KEY``) before the change counts as heard, so that
   whoever has made it knows, and is tried again until it succeeds.
3. A node that begins is told of changes and follows none: it serves nothing before ``begin``, which
   makes up for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from target.cluster.ending import ended
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDirError
from target.logs import Log

KEY: Final = "behind"
RETRY_SECONDS: Final = 0.5  # while the registry is away
AGAIN_SECONDS: Final = 2.0  # after a failure
REASON_CHARS_MAX: Final = 200

Trouble = dict[str, str]
"""By what has not been followed (``volume db``, ``access list``), why."""
Follow = Callable[[], Awaitable[Trouble]]
"""Go by the catalog as it is now.  May raise RegistryAway, DataDirError or OSError."""


class _Behind(msgspec.Struct, frozen=True):
    """What a node says of itself; it counts for that life of the node."""

    epoch: int
    trouble: Trouble


_Document = dict[str, _Behind]


class CatalogFollowing:
    """How ``node`` follows the catalog that is kept in ``unit``."""

    def __init__(
        self,
        node: ClusterNode,
        unit: str,
        log: Log,
        *,
        version: Callable[[], Awaitable[int]],
        followed: Callable[[int], None],
    ) -> None:
        """``version()`` is the catalog's now; ``followed`` is told of one that was, as a whole."""
        self._node = node
        self._unit = unit
        self._log = log
        self._version = version
        self._followed = followed
        self._follows: dict[str, Follow] = {}
        self._serving = False
        self._pass = asyncio.Lock()
        self._trouble: Trouble = {}
        self._told: Trouble = {}  # what all know of it
        self._closing = asyncio.Event()
        self._again: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def closing(self) -> bool:
        """Whether it is not followed any more."""
        return self._closing.is_set()

    def add(self, what: str, follow: Follow) -> None:
        """A part, followed after those that are there."""
        self._follows[what] = follow

    async def begin(self) -> None:
        """Rule 3; the node serves from now on."""
        self._serving = True
        await self.go()

    def happened(self, done: Callable[[], None]) -> None:
        """Others have changed it; ``done()`` when that has been followed, or all know what not."""
        self._spawn(self._hear(done))

    def look(self) -> None:
        """Perhaps it has been changed."""
        self._spawn(self.go())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, done: Callable[[], None]) -> None:
        await self.go()
        done()

    async def go(self) -> None:
        """Follow it as it is now."""
        if not self._serving:
            return
        async with self._pass:
            while not self._closing.is_set():
                try:
                    version = await self._version()
                    self._trouble = await self._follow_all()
                    if not self._trouble:
                        self._followed(version)
                    await self._tell()
                    break
                except RegistryAway:
                    await asyncio.sleep(RETRY_SECONDS)
                except StaleNode:
                    self._node.fenced()
                    return
        if self._trouble and self._again is None:
            self._again = asyncio.ensure_future(self._try_again())

    async def _follow_all(self) -> Trouble:
        """Rule 1."""
        trouble: Trouble = {}
        for what, follow in self._follows.items():
            try:
                trouble |= await follow()
            except (RegistryAway, StaleNode):
                raise
            except (DataDirError, OSError) as exc:
                trouble[what] = reason_of(exc)
            except Exception as exc:  # a bug of ours keeps nothing from the others either
                self._log.error("internal error", following=what, reason=repr(exc))
                trouble[what] = f"internal error: {type(exc).__name__}"
        for what, reason in trouble.items():
            if self._trouble.get(what) != reason:
                self._log.error("cannot follow the catalog", what=what, reason=reason)
        return trouble

    async def _try_again(self) -> None:
        while self._trouble and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._closing.wait()
            await self.go()
        self._again = None

    # --- what all know of it ----------------------------------------------------------------------

    async def _tell(self) -> None:
        """Rule 2.  Raises RegistryAway or StaleNode."""
        node, trouble = self._node, self._trouble
        while trouble != self._told:
            version, document = await self._load()
            known = await self._of_those_there(document)
            known.pop(node.id, None)
            if trouble:
                known[node.id] = _Behind(node.epoch, trouble)
            encoded = msgspec.json.encode(known)
            if await node.registry.replace(self._unit, node.id, node.epoch, KEY, version, encoded):
                self._told = trouble

    async def _load(self) -> tuple[int, _Document]:
        version, document = await self._node.registry.load(self._unit, KEY)
        with contextlib.suppress(msgspec.MsgspecError):  # of another version: it is made anew
            return version, msgspec.json.decode(document or b"{}", type=_Document)
        return version, {}

    async def _of_those_there(self, document: _Document) -> _Document:
        there = await self._node.registry.attached(self._unit)
        return {
            name: it
            for name, it in document.items()
            if name in there and there[name].epoch == it.epoch
        }

    async def behind(self) -> dict[str, Trouble]:
        """By node, what it has not followed.  Raises RegistryAway."""
        _, document = await self._load()
        return {name: it.trouble for name, it in (await self._of_those_there(document)).items()}

    async def close(self, seconds: float) -> None:
        """Follow it no more: what has begun is ended, if that does not take longer than so."""
        self._closing.set()
        tasks = {*self._tasks, *([self._again] if self._again is not None else [])}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        await ended(*tasks)


def reason_of(exc: Exception) -> str:
    """In one line."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return " ".join(text.split())[:REASON_CHARS_MAX]
