"""What all nodes have, volumes, access list, CHAP users: one catalog, whoever changes it.

It is a document of the registry, of a unit of its own: a change is in it first, and counts as done
when every node has followed it (the events of ``target/cluster/lun.py``).  What a node keeps in its
data directory is a copy.

Rules:

1. A catalog has an identity from its first version on, and a copy says of which it is.  What has
   gone from the catalog that a node has followed was deleted, and goes there too.
2. A registry that has lost its memory has a new catalog: each node puts in what it has.
"""

from __future__ import annotations

import asyncio
import copy
import uuid as uuids
from collections.abc import Awaitable, Callable, Container
from functools import partial
from typing import Final, TypeVar, get_args

import msgspec

from target.chap_users import Users
from target.cluster.lun import LunTracker
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir, DataDirError, PartName, VolumeRecord, WorkerPlace
from target.logs import Log
from target.scsi.access_list import AccessEntry
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import DocumentChanged, UnitEvent
from target.target_records import Targets

UNIT: Final = "catalog"
KEY: Final = "volumes"
TRIES_MAX: Final = 100
RETRY_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 5.0
PARTS: Final[tuple[PartName, ...]] = get_args(PartName)

Records = dict[str, VolumeRecord]
T = TypeVar("T")
Fact = tuple[bool, str, str]  # of a place: created, store_id, instance
Load = Callable[[], Awaitable["Catalog | None"]]
"""The catalog as it is now; None: it is another one than the one that this node follows.  Who
follows it asks when nothing else of that kind is being changed here, or would undo that.
"""


class Catalog(msgspec.Struct, kw_only=True):
    """The document."""

    id: str = ""  # rule 1
    volumes: Records = {}
    # None: nobody has said so yet.
    targets: Targets | None = None
    access: tuple[AccessEntry, ...] | None = None  # who may use what
    users: Users | None = None  # of CHAP


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
        # What others have changed.
        self.follow: Callable[[Load], Awaitable[None]] | None = None
        self.follow_part: dict[PartName, Callable[[Load], Awaitable[None]]] = {}
        data.on_place = self._places_changed

    async def open(self) -> None:
        """Begin to follow it."""
        self._tracker = self._node.track(UNIT, self, _nothing_to_fence)
        await self._tracker.wait_open()

    async def join(self, configured: Container[str]) -> None:
        """Have here what the others have, and let them have what is here.

        What is ``configured`` is settled one by one, by who knows its configuration.
        Raises RegistryAway, StaleNode, DataDirError or OSError.
        """
        await self.open()
        await self.change(lambda records: False)
        _, catalog = await self._load()
        for name, record in catalog.volumes.items():
            self.adopt(name, record)
        known = catalog.id == self._data.followed
        for name, record in self._data.volumes.items():
            if name in catalog.volumes or name in configured:
                continue
            if record.deleting:
                continue  # its data may be there still: they are deleted from here
            if record.shared and known:
                self._data.drop(name)
            elif record.workers is not None:
                await self.settle(name, partial(_itself, record))
        for part in PARTS:
            await self._join_part(part)
        if not known:
            self._data.follow(catalog.id)

    async def _join_part(self, part: PartName) -> None:
        """What the others have, or where nobody has said anything yet what is here (rule 2)."""
        mine = self._data.part(part)

        def edit(catalog: Catalog) -> bool:
            if getattr(catalog, part) is not None or not mine:
                return False
            setattr(catalog, part, mine)
            return True

        theirs = getattr(await self._edit(edit), part) or ()
        if theirs != mine:
            self._data.keep_part(part, theirs)

    async def _load(self) -> tuple[int, Catalog]:
        version, document = await self._node.registry.load(UNIT, KEY)
        if not version:
            return 0, Catalog()
        try:
            return version, msgspec.json.decode(document, type=Catalog)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise DataDirError(f"the catalog in Redis cannot be read: {exc}") from exc

    async def change(self, edit: Callable[[Records], bool]) -> Records:
        """What is in it when ``edit`` has changed it; it returns whether it has, and may raise.

        Raises RegistryAway, StaleNode or DataDirError.
        """
        return (await self._edit(lambda catalog: edit(catalog.volumes))).volumes

    async def change_part(
        self, part: PartName, edit: Callable[[tuple[T, ...]], tuple[T, ...]]
    ) -> tuple[T, ...]:
        """What is kept beside the volumes, as ``edit`` makes it of what there is; it may raise.

        Raises RegistryAway, StaleNode or DataDirError.
        """

        def change(catalog: Catalog) -> bool:
            setattr(catalog, part, edit(getattr(catalog, part) or ()))
            return True

        return getattr(await self._edit(change), part) or ()

    async def _edit(self, edit: Callable[[Catalog], bool]) -> Catalog:
        node = self._node
        for _ in range(TRIES_MAX):
            version, catalog = await self._load()
            if not edit(catalog) and version:
                return catalog
            catalog.id = catalog.id or uuids.uuid4().hex
            document = msgspec.json.encode(catalog)
            if await node.registry.replace(UNIT, node.id, node.epoch, KEY, version, document):
                return catalog
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

    async def withdraw(self, name: str, uuid: str) -> None:
        """A volume is to go: nobody is to have it.

        Raises RegistryAway, StaleNode or DataDirError.
        """

        def edit(records: Records) -> bool:
            theirs = records.get(name)
            if theirs is None or theirs.uuid != uuid or theirs.deleting:
                return False
            theirs.deleting = True
            return True

        theirs = (await self.change(edit)).get(name)
        if theirs is not None and theirs.uuid == uuid:
            await self.announce()

    async def forget(self, name: str, uuid: str) -> None:
        """Its data are gone.  Raises RegistryAway, StaleNode or DataDirError."""
        gone = False

        def edit(records: Records) -> bool:
            nonlocal gone
            theirs = records.get(name)
            gone = theirs is not None and theirs.uuid == uuid
            if gone:
                del records[name]
            return gone

        await self.change(edit)
        if gone:
            await self.announce()

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
                for follow in (*self.follow_part.values(), self.follow):
                    await follow(self._load_followed)
                break
            except (DataDirError, OSError) as exc:
                self._log.error("cannot follow the catalog", reason=str(exc))
                break
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        done()

    async def _load_followed(self) -> Catalog | None:
        _, catalog = await self._load()
        return catalog if catalog.id == self._data.followed else None  # that life is over: rule 2

    def admit(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    def turn_away(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    async def close(self) -> None:
        """Follow it no more: what has begun is ended, if that does not take too long."""
        self.follow = None
        tasks = {*self._followed, *([self._publishing] if self._publishing is not None else [])}
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _itself(record: VolumeRecord) -> VolumeRecord:
    return record


def _fact(place: WorkerPlace) -> Fact:
    return place.created, place.store_id, place.instance


async def _nothing_to_fence(node: str, epoch: int) -> None:
    """What is in the registry alone is fenced there."""
