"""The volumes that all nodes of a cluster have: one catalog, whichever node changes it.

It is a document of the registry, of a unit of its own: a change is in it first, and counts as done
when every node has followed it (the events of ``target/cluster/lun.py``).  What a node keeps in its
data directory is a copy.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from target.cluster.lun import LunTracker
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir, DataDirError, VolumeRecord, WorkerPlace
from target.logs import Log
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import DocumentChanged, UnitEvent

UNIT: Final = "catalog"
KEY: Final = "volumes"
TRIES_MAX: Final = 100
RETRY_SECONDS: Final = 0.5

Records = dict[str, VolumeRecord]
Fact = tuple[bool, str, str]  # of a place: created, store_id, instance


class SharedCatalog:
    """The catalog as ``node`` sees it; ``data`` has the copy."""

    def __init__(self, node: ClusterNode, data: DataDir, log: Log) -> None:
        self._node = node
        self._data = data
        self._log = log
        self._tracker: LunTracker | None = None
        self._known: dict[str, Fact] = {}  # of places, as the others know them
        self._publishing: asyncio.Task[None] | None = None
        self._followed: set[asyncio.Task[None]] = set()
        self.follow: Callable[[Records], Awaitable[None]] | None = None  # what others have changed
        data.on_place = self._places_changed

    async def open(self) -> None:
        """Begin to follow it."""
        self._tracker = self._node.track(UNIT, self, _nothing_to_fence)
        await self._tracker.wait_open()

    async def load(self) -> Records:
        """What is in it.  Raises RegistryAway or DataDirError."""
        _, records = await self._load()
        return records

    async def _load(self) -> tuple[int, Records]:
        version, document = await self._node.registry.load(UNIT, KEY)
        if not version:
            return 0, {}
        try:
            return version, msgspec.json.decode(document, type=Records)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise DataDirError(f"the catalog in Redis cannot be read: {exc}") from exc

    async def change(self, edit: Callable[[Records], bool]) -> Records:
        """What is in it when ``edit`` has changed it; it returns whether it has, and may raise.

        Raises RegistryAway, StaleNode or DataDirError.
        """
        node = self._node
        for _ in range(TRIES_MAX):
            version, records = await self._load()
            if not edit(records):
                return records
            document = msgspec.json.encode(records)
            if await node.registry.replace(UNIT, node.id, node.epoch, KEY, version, document):
                return records
        raise RegistryAway("the catalog is being changed all the time")

    async def announce(self) -> bool:
        """Whether all other nodes have followed what was changed."""
        assert self._tracker is not None, "opened"
        return await self._tracker.announce(DocumentChanged(key=KEY, version=0))

    # --- configured volumes -----------------------------------------------------------------------

    async def settle(self, name: str, make: Callable[[], VolumeRecord]) -> VolumeRecord:
        """The record of a configured volume: that of the others, or the one that ``make`` makes.

        Raises RegistryAway, StaleNode or DataDirError.
        """
        mine: VolumeRecord | None = None

        def edit(records: Records) -> bool:
            nonlocal mine
            if name in records:
                return False
            mine = mine or make()
            mine.shared = True
            records[name] = copy.deepcopy(mine)
            return True

        record = (await self.change(edit))[name]
        if record.deleting:
            raise DataDirError(f"volume {name} is being deleted")
        return self.adopt(name, record)

    async def forget(self, name: str) -> None:
        """Its data are gone."""

        def edit(records: Records) -> bool:
            return records.pop(name, None) is not None

        await self.change(edit)

    def adopt(self, name: str, record: VolumeRecord) -> VolumeRecord:
        """Keep in ``data`` what the others know.  Raises DataDirError."""
        try:
            mine = self._data.adopt(name, record)
        except OSError as exc:
            raise DataDirError(f"volume {name}: {exc.strerror}") from exc
        for place in record.workers or ():
            self._known[place.key] = _fact(place)
        return mine

    # --- what happens to places -------------------------------------------------------------------

    def _places_changed(self) -> None:
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.ensure_future(self._publish())

    async def _publish(self) -> None:
        """Tell what this node has found out of places: who comes later depends on it."""
        try:
            while news := self._news():
                try:
                    await self._publish_once(news)
                except RegistryAway:
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    self._known.update(news)
        except StaleNode:
            self._node.fenced()

    def _news(self) -> dict[str, Fact]:
        places = [
            place
            for record in self._data.volumes.values()
            for place in record.workers or ()
            if _fact(place) != self._known.get(place.key)
        ]
        return {place.key: _fact(place) for place in places}

    async def _publish_once(self, news: dict[str, Fact]) -> None:
        def edit(records: Records) -> bool:
            changed = False
            for record in records.values():
                for place in record.workers or ():
                    fact = news.get(place.key)
                    if fact is not None and fact != _fact(place):
                        created, store_id, instance = fact
                        place.created = place.created or created
                        place.store_id, place.instance = store_id, instance
                        changed = True
            return changed

        await self.change(edit)

    # --- as the unit of a tracker -----------------------------------------------------------------

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        """Others have changed the catalog."""
        task = asyncio.ensure_future(self._follow(done))
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    async def _follow(self, done: Callable[[], None]) -> None:
        while self.follow is not None:
            try:
                await self.follow(await self.load())
                break
            except (DataDirError, OSError) as exc:
                self._log.error("cannot follow the catalog", reason=str(exc))
                break
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        done()

    def admit(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    def turn_away(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    async def close(self) -> None:
        """Follow it no more."""
        tasks = [*self._followed, *([self._publishing] if self._publishing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fact(place: WorkerPlace) -> Fact:
    return place.created, place.store_id, place.instance


async def _nothing_to_fence(node: str, epoch: int) -> None:
    """What is in the registry alone is fenced there."""
