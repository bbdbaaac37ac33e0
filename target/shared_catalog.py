"""What all nodes have, volumes, access list, CHAP users: one catalog, whoever changes it.

It is a document of the registry, of a unit of its own: a change is in it first, and counts as done
when every node has followed it (the events of ``target/cluster/lun.py``).  What a node keeps in its
data directory is a copy.

Rules:

1. A catalog has an identity from its first version on, and a copy says of which it is.  What has
   gone from the catalog that a node has followed was deleted, and goes there too.
2. A registry that has lost its memory has a new catalog: each node puts in what it has.  So it is
   with one that has an older version than a node has followed: whoever finds that out first gives
   it another identity, and what was made since is not taken for deleted.
3. Who changes it is told which nodes have not followed yet (``catalog_following.py``).  What could
   not be announced, or was perhaps changed although the registry has not answered, is announced
   when it can be; and by whoever shuts a node out, since that one may have had no time to.
"""

from __future__ import annotations

import asyncio
import copy
import uuid as uuids
from collections.abc import Awaitable, Callable, Container
from functools import partial
from typing import Final, TypeVar, get_args

import msgspec

from target.catalog_following import CatalogFollowing, Trouble
from target.chap_users import Mutual, Users
from target.cluster.ending import ended
from target.cluster.lun import LunTracker
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir, DataDirError, PartName, VolumeRecord, WorkerPlace
from target.logs import Log
from target.scsi.access_list import AccessEntry
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import DocumentChanged, EndNexus, UnitEvent
from target.target_records import Targets
from target.volume_errors import Late

UNIT: Final = "catalog"
KEY: Final = "volumes"
TRIES_MAX: Final = 100
RETRY_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 5.0
CHANGED: Final = DocumentChanged(key=KEY, version=0)
PARTS: Final[tuple[PartName, ...]] = get_args(PartName)

Records = dict[str, VolumeRecord]
T = TypeVar("T")
Fact = tuple[bool, str, str]  # of a place: created, store_id, instance
Load = Callable[[], Awaitable["Catalog | None"]]
"""The catalog as it is now; None: it is another one than the one that this node follows.  Who
follows it asks when nothing else of that kind is being changed here, or would undo that.
"""


class Catalog(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The document, without what is as it is by default: older nodes refuse what they do not know.

    ``mutual`` and the ids of users are written from format 2 on (docs/decisions/0031).
    """

    id: str = ""  # rule 1
    volumes: Records = {}
    # None: nobody has said so yet.
    targets: Targets | None = None
    access: tuple[AccessEntry, ...] | None = None  # who may use what
    users: Users | None = None  # of CHAP
    mutual: Mutual | None = None  # CHAP: who we are


class SharedCatalog:
    """The catalog as ``node`` sees it; ``data`` has the copy."""

    def __init__(self, node: ClusterNode, data: DataDir, log: Log) -> None:
        self._node = node
        self._data = data
        self._log = log
        self._tracker: LunTracker | None = None
        self._known: dict[str, Fact] = {}  # of places, as the others know them
        self.on_end_nexus: Callable[[EndNexus], None] = lambda _: None
        self._version = 0  # of the catalog, as this node has seen it last
        self._joined = False
        self._publishing: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self.following = CatalogFollowing(
            node, UNIT, log, version=self._version_now, followed=self._keep_version
        )
        data.on_place = self._places_changed

    async def open(self) -> None:
        """Begin to follow it."""
        self._tracker = self._node.track(UNIT, self, _nothing_to_fence, gone=self._gone)
        await self._tracker.wait_open()

    def add_follower(self, what: str, follow: Callable[[Load], Awaitable[Trouble]]) -> None:
        """Have ``follow`` do here what others change; it says what it could not.

        It may raise RegistryAway, DataDirError or OSError.
        """
        self.following.add(what, partial(follow, self._load_followed))

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
        self._data.follow(catalog.id, self._version)
        self._joined = True

    @property
    def at_format_2(self) -> bool:
        """Whether all nodes understood what that has when this one joined: mutual CHAP, the ids of
        users, and what an operator wants of one node.
        """
        return self._node.format >= 2

    async def _join_part(self, part: PartName) -> None:
        """What the others have, or where nobody has said anything yet what is here (rule 2)."""
        mine = self._data.part(part)
        if part == "mutual" and not self.at_format_2:
            return  # older nodes would refuse the catalog
        if part == "users" and not self.at_format_2:
            mine = tuple(msgspec.structs.replace(user, id="") for user in mine)

        def edit(catalog: Catalog) -> bool:
            if getattr(catalog, part) is not None or not mine:
                return False
            setattr(catalog, part, mine)
            return True

        theirs = getattr(await self._edit(edit), part) or ()
        if theirs != self._data.part(part):
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
            if catalog.id == self._data.followed and version < self._data.followed_version:
                catalog.id = ""
            if not edit(catalog) and version and catalog.id:
                self._version = version
                return catalog
            catalog.id = catalog.id or uuids.uuid4().hex
            document = msgspec.json.encode(catalog)
            try:
                if await node.registry.replace(UNIT, node.id, node.epoch, KEY, version, document):
                    self._version = version + 1
                    return catalog
            except RegistryAway:
                self._perhaps_changed()
                raise
        raise RegistryAway("the catalog is being changed all the time")

    async def announce(self, *changed: str) -> tuple[Late, ...]:
        """The nodes that have not followed what was ``changed`` (``CatalogFollowing.add``).

        They follow as soon as they can.
        """
        tracker, node, version = self._tracker, self._node, self._version
        assert tracker is not None, "opened"
        try:
            async with asyncio.timeout(node.tell_seconds):
                number = await tracker.post(CHANGED)
            late = dict.fromkeys(await tracker.late(number), "it has not answered")
            for name, trouble in (await self.following.behind()).items():
                for reason in filter(None, map(trouble.get, changed)):
                    late.setdefault(name, reason)
        except (RegistryAway, TimeoutError):
            self._tell_later()
            late = dict.fromkeys(self._others(), "it cannot be told: no Redis")
        except StaleNode:  # whoever has shut this node out tells the others
            node.fenced()
            late = dict.fromkeys(self._others(), "this node has been shut out")
        self._keep_version(version)
        if late:
            who = ", ".join(sorted(late))
            self._log.warning("not every node has followed a change of the catalog", nodes=who)
        return tuple(Late(node=name, reason=reason) for name, reason in sorted(late.items()))

    def _others(self) -> set[str]:
        """As far as they are known."""
        assert self._tracker is not None, "opened"
        known = {*self._node.members, *self._tracker.attached} - {self._node.id}
        return known or {"any other"}

    def _perhaps_changed(self) -> None:
        self._tell_later()
        self.following.look()

    def _tell_later(self) -> None:
        idle = self._telling is None or self._telling.done()
        if idle and not self.following.closing:
            self._telling = asyncio.ensure_future(self._tell_until_heard())

    async def _tell_until_heard(self) -> None:
        assert self._tracker is not None, "opened"
        while True:
            try:
                await self._tracker.post(CHANGED)
                return
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
            except StaleNode:
                self._node.fenced()
                return

    async def _gone(self, node: str, fenced: bool) -> None:
        if fenced:
            self._perhaps_changed()

    async def _version_now(self) -> int:
        version, _ = await self._node.registry.load(UNIT, KEY)
        return version

    def _keep_version(self, version: int) -> None:
        """This node has followed it so far."""
        if self._joined and version > self._data.followed_version:
            try:
                self._data.follow(self._data.followed, version)
            except OSError as exc:
                self._log.error("cannot keep what was followed", reason=exc.strerror)

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
        await self._node.registry.drop_unit(uuids.UUID(uuid).hex)
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
        """Others have changed the catalog; or an operator wants something of one of all nodes."""
        if isinstance(event, EndNexus):
            self.on_end_nexus(event)
            done()
        else:
            self.following.happened(done)

    async def tell(self, event: EndNexus) -> bool:
        """Whether all other nodes have heard it."""
        assert self._tracker is not None, "opened"
        return await self._tracker.announce(event)

    async def _load_followed(self) -> Catalog | None:
        _, catalog = await self._load()
        if catalog.id == self._data.followed:
            return catalog
        if self._joined:
            self._node.fenced()  # that life is over: rule 2
        return None

    def admit(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    def turn_away(self, req: SCSIRequest) -> None:
        """There are no commands."""
        raise AssertionError("a command for the catalog")

    async def close(self) -> None:
        """Follow it no more: what has begun is ended, if that does not take too long."""
        await self.following.close(CLOSE_SECONDS)
        tasks = [task for task in (self._publishing, self._telling) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        await ended(*tasks)


def _itself(record: VolumeRecord) -> VolumeRecord:
    return record


def _fact(place: WorkerPlace) -> Fact:
    return place.created, place.store_id, place.instance


async def _nothing_to_fence(node: str, epoch: int) -> None:
    """What is in the registry alone is fenced there."""
