"""A part of the catalog, changed while a node runs: here, and with several nodes on all of them.

Rules:

1. A change is kept first, and counts as done when it is in force on every node: who may not be
   logged in any more is logged out, and nothing runs that may not.
2. A node that is away reads the catalog before it serves again.
3. Of several nodes, one whose disk does not take a change goes by it all the same, and says so: the
   copy is of use only to a registry that has lost its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from target.catalog_following import Trouble, reason_of
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir, PartName
from target.logs import Log
from target.shared_catalog import Load, SharedCatalog
from target.volume_errors import NotEverywhere, VolumeError, VolumeFault

T = TypeVar("T")


class CatalogPart(Generic[T]):
    """A tuple of ``T``, as ``data`` keeps it; with ``shared`` all nodes have the same."""

    name: ClassVar[PartName]
    title: ClassVar[str]  # for people, as is
    unit: ClassVar[str]  # what it has several of

    def __init__(self, data: DataDir, shared: SharedCatalog | None, log: Log) -> None:
        self._data = data
        self._shared = shared
        self._log = log
        self._lock = asyncio.Lock()
        self._unkept = ""  # why what is in force is not on this node's disk
        if shared is not None:
            shared.add_follower(self.title, self.follow)

    @property
    def kept(self) -> tuple[T, ...]:
        """As it is in force here."""
        return self._data.part(self.name)

    def apply(self, values: tuple[T, ...], done: Callable[[], None]) -> None:
        """Go by ``values``; ``done()`` when they are in force (rule 1)."""
        raise NotImplementedError

    async def change(self, edit: Callable[[tuple[T, ...]], tuple[T, ...]]) -> None:
        """Make of what there is what ``edit`` makes of it; it may raise.

        Raises VolumeError, OSError or NotEverywhere.
        """
        async with self._lock:
            if self._shared is None:
                values = edit(self.kept)
            else:
                try:
                    values = await self._shared.change_part(self.name, edit)
                except (RegistryAway, StaleNode) as exc:
                    raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
            await self._use(values)
        if self._shared is not None:
            if self._unkept:
                await self._shared.following.go()  # tells so, and tries again
            if late := await self._shared.announce(self.title):
                raise NotEverywhere(late)

    async def follow(self, load: Load) -> Trouble:
        """Do here what another node has done; what it could not.

        Raises RegistryAway or DataDirError.
        """
        async with self._lock:
            catalog = await load()
            if catalog is None:
                return {}
            values = getattr(catalog, self.name) or ()
            if values != self.kept:
                await self._use(values)
            elif self._unkept:
                self._keep(values)
        return {self.title: f"in force, but not kept: {self._unkept}"} if self._unkept else {}

    def _keep(self, values: tuple[T, ...]) -> None:
        """Rule 3.  A node alone raises OSError, and nothing has changed."""
        try:
            self._data.keep_part(self.name, values, anyway=self._shared is not None)
            self._unkept = ""
        except OSError as exc:
            if self._shared is None:
                raise
            self._unkept = reason_of(exc)

    async def _use(self, values: tuple[T, ...]) -> None:
        self._keep(values)
        in_force: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.apply(values, lambda: in_force.set_result(None))
        await in_force
        self._log.info(f"{self.title} changed", **{self.unit: len(values)})
