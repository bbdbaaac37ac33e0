"""Changes of a node's volumes while it runs: made, grown, moved and deleted.

Rules:

1. One change at a time.
2. A change is kept in the catalog so that a crash between any two steps leaves the old state, or
   the new one, or one that the next start completes: a volume that is made has its file or its
   shares before initiators see it; one that grows has its new size everywhere before they hear of
   it; one that is deleted is gone for them before its data go.
"""

from __future__ import annotations

import asyncio
import copy
import os
import uuid as uuids
from collections.abc import Callable, Iterable, Sequence

import msgspec

from target.block.layout import MovingLayout
from target.block.volume import Volume
from target.block.worker_errors import ShareRefused, WorkerGone
from target.cluster.registry import RegistryAway, StaleNode
from target.config import VolumeConfig, format_size
from target.datadir import DataDirError, MigrationRecord, VolumeRecord, WorkerPlace
from target.logs import Log
from target.migration_log import MigrationLog
from target.scsi.limits import LUNS_MAX
from target.scsi.lun import LunAddress
from target.volume_errors import NotEverywhere, VolumeError, VolumeFault
from target.volume_following import TITLE, VolumeFollowing, titled
from target.volume_info import VolumeInfo
from target.volumes import Volumes


class VolumeChanges:
    """Changes of ``volumes``; ``sessions`` says how many initiators are logged in to a target."""

    def __init__(self, volumes: Volumes, sessions: Callable[[str], int], log: Log) -> None:
        self._volumes = volumes
        self._data = volumes.data
        self._sessions = sessions
        self._log = log
        self._lock = asyncio.Lock()
        self.following = VolumeFollowing(volumes, self._lock, log)

    async def create(
        self, wanted: VolumeConfig, *, workers: Sequence[str], lun: int | None = None
    ) -> VolumeInfo:
        """Make a volume of a size and show it to initiators.

        Raises VolumeError, OSError or NotEverywhere.
        """
        async with self._lock:
            info = await self._create(wanted, workers, lun)
        await self._tell_others(wanted.name)
        return info

    async def _create(
        self, wanted: VolumeConfig, workers: Sequence[str], lun: int | None
    ) -> VolumeInfo:
        if self._data.record(wanted.name) is not None:
            what = "is being deleted" if self._data.is_deleting(wanted.name) else "is there already"
            raise VolumeError(VolumeFault.CONFLICT, f"volume {wanted.name!r} {what}")
        address = self._address(self._key_of(wanted.target), lun)
        wanted = msgspec.structs.replace(wanted, target=address.target)
        size = wanted.size_bytes
        assert size is not None, "images are configured"
        try:
            record = self._data.create(wanted, size, workers, address.number, self._volumes.pool_id)
        except DataDirError as exc:
            raise VolumeError(VolumeFault.CONFLICT, str(exc)) from exc
        try:
            volume = await self._volumes.open(wanted.name, record, wanted.readonly)
        except (DataDirError, OSError) as exc:
            self._discard(wanted.name)
            if record.pool is None:
                raise
            raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
        if record.workers is not None:
            reason = await self._volumes.workers().wait_open(volume)
            if reason:
                volume.close()
                self._discard(wanted.name)
                raise VolumeError(VolumeFault.AWAY, reason)
        try:
            await self._share_new(wanted.name, record)
        except (VolumeError, RegistryAway, DataDirError):
            volume.close()
            self._discard(wanted.name)
            raise
        self._volumes.add(address, volume)
        self._log.info("volume created", volume=wanted.name, lun=address, size=format_size(size))
        return self._volumes.one(wanted.name)

    def _key_of(self, target: str) -> str:
        """What volumes are kept by of a target with that name; empty for the one that is there
        anyway.  Raises VolumeError.
        """
        if not target:
            return ""
        served = self._volumes.targets().find(target)
        if served is None:
            raise VolumeError(VolumeFault.MISSING, f"no target {target[:80]!r}")
        return served.key

    def _address(self, target: str, lun: int | None) -> LunAddress:
        """One that is free: that of ``lun``, if it is given.  Raises VolumeError."""
        if lun is None:
            return self._volumes.free_address(target)
        taken = self._volumes.by_address
        if not 0 <= lun < LUNS_MAX:
            raise VolumeError(VolumeFault.CONFLICT, f"LUN {lun}: must be 0 to {LUNS_MAX - 1}")
        address = LunAddress(target, lun)
        if address in taken:
            raise VolumeError(VolumeFault.CONFLICT, f"LUN {lun} is volume {taken[address].name!r}")
        return address

    async def remap(self, name: str, target: str, lun: int | None, *, force: bool) -> VolumeInfo:
        """Show a volume at another LUN, perhaps of another target; the initiators are told.

        Raises VolumeError, OSError or NotEverywhere.
        """
        async with self._lock:
            old, key = self._made(name), self._key_of(target)
            if key != old.target or lun not in (None, old.number):
                self._check_unused(name, old, force)
                new = self._address(key, lun)
                await self._share(name, lambda shared: _set_address(shared, new), new)
                self._data.remap(name, new.number, new.target)
                await self._volumes.move(old, new)
                self._log.info("volume mapped", volume=name, lun=new)
        await self._tell_others(name)
        return self._volumes.one(name)

    def _made(self, name: str) -> LunAddress:
        """Where a volume is seen that was made by command.  Raises VolumeError."""
        address = self._volumes.address_of(name)
        if address is None:
            raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
        if name in self._volumes.configured:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is named by the command line or the configuration: say there"
                " where it is to be",
            )
        return address

    def _check_unused(self, name: str, address: LunAddress, force: bool) -> None:
        sessions = self._sessions(address.target)
        if sessions and not force:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"{sessions} initiator{'s are' if sessions > 1 else ' is'} logged in and may be"
                f" using volume {name!r}: log out, or force it",
            )

    async def resize(self, name: str, size_bytes: int) -> VolumeInfo:
        """Grow a volume under its initiators, who are told.

        Raises VolumeError, OSError or NotEverywhere.
        """
        async with self._lock:
            info = await self._resize(name, size_bytes)
        await self._tell_others(name)
        return info

    async def _resize(self, name: str, size_bytes: int) -> VolumeInfo:
        address = self._volumes.address_of(name)
        if address is None:
            raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
        volume, record = self._volumes.by_address[address], self._data.record(name)
        assert record is not None, "the catalog has all of them"
        self._check_size(name, record, size_bytes)
        if size_bytes == record.size_bytes:
            return self._volumes.one(name)
        try:
            if record.workers is not None:
                await self._volumes.workers().grow(volume, size_bytes)
            elif record.pool is not None:
                await self._volumes.pool(name, record).grow(record, size_bytes)
            else:
                await asyncio.to_thread(_lengthen, self._data.file_of(name), size_bytes)
        except (WorkerGone, ShareRefused, DataDirError) as exc:
            raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
        await self._share(name, lambda shared: _set_size(shared, size_bytes))
        self._data.resize(name, size_bytes)
        self._volumes.grown(address, size_bytes)
        self._log.info("volume grown", volume=name, size=format_size(size_bytes))
        return self._volumes.one(name)

    @staticmethod
    def _check_size(name: str, record: VolumeRecord, size_bytes: int) -> None:
        if record.path is not None:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is the image {record.path}: enlarge that, and start anew",
            )
        if size_bytes < record.size_bytes:
            now, then = format_size(record.size_bytes), format_size(size_bytes)
            raise VolumeError(
                VolumeFault.CONFLICT, f"volume {name!r} is {now} and cannot shrink to {then}"
            )
        if size_bytes % record.block_bytes:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"{size_bytes} bytes is no multiple of blocks of {record.block_bytes}",
            )

    async def delete(self, name: str, *, force: bool) -> None:
        """Take a volume away from initiators, then its data.

        Raises VolumeError, OSError or NotEverywhere.
        """
        async with self._lock:
            await self._delete(name, force)
        try:
            await self._tell_others(name)  # nobody may have it open when its data go
        finally:
            self._volumes.cleanup.begin()

    async def _delete(self, name: str, force: bool) -> None:
        address = self._volumes.address_of(name)
        if address is None:
            if self._data.is_deleting(name):
                return
            raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
        if name in self._volumes.configured:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is named by the command line or the configuration, and would "
                "come back empty: take it out there first",
            )
        self._check_unused(name, address, force)
        await self._share(name, _set_deleting)
        self._data.begin_delete(name)
        await self._volumes.migrations.stop(name)
        await self._volumes.remove(address)
        self._log.info("volume deleted", volume=name, lun=address)

    async def migrate(self, name: str, addresses: Sequence[str]) -> VolumeInfo:
        """Have a volume on workers move to the workers ``addresses``; returns when that has begun.

        The same again while it runs changes nothing.  Raises VolumeError or OSError.
        """
        async with self._lock:
            address = self._volumes.address_of(name)
            record = self._data.record(name)
            if address is None or record is None:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
            if not self._is_there(name, record, addresses):
                cleanup = self._volumes.cleanup
                try:
                    async with cleanup.held:
                        self._check_deleted(
                            name, (p for p in record.retired if p.address in addresses)
                        )
                        volume = self._volumes.by_address[address]
                        await self._begin_migration(volume, record, addresses)
                except DataDirError as exc:
                    raise VolumeError(VolumeFault.CONFLICT, str(exc)) from exc
                finally:
                    cleanup.begin()
            return self._volumes.one(name)

    @staticmethod
    def _is_there(name: str, record: VolumeRecord, addresses: Sequence[str]) -> bool:
        """Whether a volume is at ``addresses``, or on its way.  Raises VolumeError."""
        if record.shared:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is served by several nodes, and moves while one alone serves it:"
                " stop them, and start one without redis",
            )
        if record.workers is None:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is kept by this node itself: only volumes on workers can move",
            )
        places = record.workers if record.migration is None else record.migration.workers
        if {place.address for place in places} == set(addresses):
            return True
        if record.migration is not None:
            there = ", ".join(place.address for place in places)
            raise VolumeError(
                VolumeFault.CONFLICT, f"volume {name!r} is moving to {there}: that ends first"
            )
        return False

    @staticmethod
    def _check_deleted(name: str, retired: Iterable[WorkerPlace]) -> None:
        """Raise VolumeError: a deletion there could still come to what is to be moved to."""
        for place in retired:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"worker {place.address} has not deleted its old share of volume {name!r} yet",
            )

    async def _begin_migration(
        self, volume: Volume, record: VolumeRecord, addresses: Sequence[str]
    ) -> None:
        workers, old = self._volumes.workers(), volume.layout
        retired = list(record.retired)
        places = self._data.plan_places(volume.name, addresses)
        layout = workers.layout_to(volume, record, places)
        begun = False
        try:
            reason = await workers.wait_open(layout)
            if reason:
                raise VolumeError(VolumeFault.AWAY, reason)
            # Who deletes what is left has to know it, perhaps after a restart.
            workers.know_stores(layout, places)
            workers.know_stores(old, record.workers or [])
            there = {place.store_id for place in record.workers or []}
            entered = {place.store_id for place in places} - there - {""}
            doomed = (p for p in retired if p.doomed and p.store_id in entered)
            self._check_deleted(volume.name, doomed)
            identity = uuids.uuid4()
            journal = MigrationLog.create(self._data.journal_of(volume.name), identity)
            try:
                self._data.begin_migration(
                    volume.name, MigrationRecord(id=str(identity), workers=places)
                )
            except OSError:
                journal.remove()
                raise
            begun = True
        finally:
            if not begun:
                for store in set(layout.stores) - set(old.stores):
                    store.close()
        volume.relayout(MovingLayout(old, layout))
        self._volumes.migrations.start(volume, journal)

    # --- several nodes: volume_following.py is the other side ------------------------------------

    async def _share(
        self,
        name: str,
        edit: Callable[[VolumeRecord], None],
        address: LunAddress | None = None,
    ) -> None:
        """Change a record for all nodes, if no other volume is at ``address``.

        Raises VolumeError.
        """
        shared = self._volumes.shared
        if shared is None:
            return

        def change(records: dict[str, VolumeRecord]) -> bool:
            if name not in records:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
            if address is not None:
                _check_free(records, name, address)
            edit(records[name])
            return True

        try:
            await shared.change(change)
        except (RegistryAway, StaleNode) as exc:
            raise VolumeError(VolumeFault.AWAY, str(exc)) from exc

    async def _share_new(self, name: str, record: VolumeRecord) -> None:
        """Have all nodes know a new volume.  Raises VolumeError."""
        shared = self._volumes.shared
        if shared is None:
            return
        # Here only once it is there: who is cut short in between has made a volume of its own, of
        # which the others hear when this node joins again, and not one that they have deleted.
        theirs = copy.deepcopy(record)
        theirs.shared = True

        def change(records: dict[str, VolumeRecord]) -> bool:
            if name in records:
                raise VolumeError(VolumeFault.CONFLICT, f"volume {name!r} is there already")
            if record.lun is not None:
                _check_free(records, name, LunAddress(record.target, record.lun))
            records[name] = copy.deepcopy(theirs)
            return True

        try:
            await shared.change(change)
        except (RegistryAway, StaleNode) as exc:
            raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
        shared.adopt(name, theirs)

    async def _tell_others(self, name: str) -> None:
        """Raises NotEverywhere."""
        shared = self._volumes.shared
        if shared is not None and (late := await shared.announce(titled(name), TITLE)):
            raise NotEverywhere(late)

    def _discard(self, name: str) -> None:
        """What could not be made is nobody's yet."""
        self._data.begin_delete(name)
        self._volumes.cleanup.begin()


def _lengthen(file: os.PathLike[str], size_bytes: int) -> None:
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_free(records: dict[str, VolumeRecord], name: str, address: LunAddress) -> None:
    """Raise VolumeError: another volume is there, of which this node may not have heard yet."""
    for other, its in records.items():
        # One that is being deleted is gone from every node before anything newer is there.
        if other != name and not its.deleting and (its.target, its.lun) == tuple(address):
            raise VolumeError(VolumeFault.CONFLICT, f"LUN {its.lun} is volume {other!r}")


def _set_size(record: VolumeRecord, size_bytes: int) -> None:
    record.size_bytes = size_bytes


def _set_address(record: VolumeRecord, address: LunAddress) -> None:
    record.target, record.lun = address.target, address.number


def _set_deleting(record: VolumeRecord) -> None:
    record.deleting = True
