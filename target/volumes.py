"""The volumes of a node: opened at its start, made, grown and deleted while it runs.

Rules:

1. One change at a time.
2. A change is kept in the catalog so that a crash between any two steps leaves the old state, or
   the new one, or one that the next start completes: a volume that is made has its file or its
   shares before initiators see it; one that grows has its new size everywhere before they hear of
   it; one that is deleted is gone for them before its data go.
3. A volume that flags or configuration name keeps the LUN of its place there; the others keep the
   one that they were given.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import uuid as uuids
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from target.block.layout import MovingLayout
from target.block.pool import BufferPool
from target.block.volume import Volume
from target.block.wait import PENDING
from target.block.worker_errors import ShareRefused, WorkerGone
from target.config import ServeConfig, VolumeConfig, format_size, image_bytes
from target.datadir import DataDir, DataDirError, MigrationRecord, VolumeRecord
from target.identity import ID_BYTES as NODE_ID_BYTES
from target.identity import begin_epoch
from target.logs import Log
from target.migration_log import MigrationLog
from target.migrations import Migrations
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.limits import LUNS_MAX
from target.scsi.sense import UA_CAPACITY_CHANGED
from target.volume_info import MigrationInfo, VolumeInfo, WorkerInfo
from workers.executor import BlockingExecutor
from workers.file_store import FileStore
from workers.grpc_environment import prepare_grpc
from workers.store import StoreError

if TYPE_CHECKING:
    from target.worker_volumes import WorkerVolumes

STAT_BLOCK_BYTES: Final = 512
DELETE_RETRY_SECONDS: Final = 5.0


class VolumeFault(enum.Enum):
    """Why a change cannot be made."""

    MISSING = "missing"
    CONFLICT = "conflict"  # with what there is
    AWAY = "away"  # somebody who is needed; it may go later


class VolumeError(Exception):
    """A change that cannot be made; the text says why, in one line."""

    def __init__(self, fault: VolumeFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Volumes:
    """The volumes, and the bus that shows them to initiators.

    ``sessions`` says how many initiators are logged in; ``port_designators`` are of the target's
    port (VPD page 83h).
    """

    def __init__(
        self,
        config: ServeConfig,
        data: DataDir,
        executor: BlockingExecutor,
        bus: SCSIBus,
        pool: BufferPool,
        log: Log,
        *,
        port_designators: Sequence[bytes],
        sessions: Callable[[], int] = lambda: 0,
    ) -> None:
        self._config = config
        self._data = data
        self._executor = executor
        self._bus = bus
        self._log = log
        self._port_designators = port_designators
        self._sessions = sessions
        self._workers: WorkerVolumes | None = None
        self._journals: dict[str, MigrationLog] = {}  # of migrations that are to be resumed
        self._by_lun: dict[int, Volume] = {}
        self._lock = asyncio.Lock()
        self._deleter: asyncio.Task[None] | None = None
        self._migrations = Migrations(data, pool, log, self._delete_later)
        self._planning: set[str] = set()  # volumes whose new places are retired for the moment

    # --- their life -------------------------------------------------------------------------------

    async def start(self, *, all_volumes: bool) -> None:
        """Open what is configured, and with ``all_volumes`` what was made by command as well.

        Raises ConfigError, DataDirError or OSError.
        """
        for lun, wanted in enumerate(self._config.volumes):
            size = wanted.size_bytes if wanted.path is None else image_bytes(wanted)
            assert size is not None, "a volume has a size or a path"
            addresses = [str(address) for address in self._config.workers]
            record = self._data.prepare(wanted, size, addresses)
            self._add(lun, self._open(wanted.name, record, wanted.readonly))
        if all_volumes:
            self._open_created()
        if self._workers is not None:
            await self._workers.start()
        if all_volumes:
            for volume in self._by_lun.values():
                if volume.name in self._journals:
                    self._migrations.start(volume, self._journals.pop(volume.name))
            self._delete_later()

    def _open_created(self) -> None:
        for name, record in self._data.volumes.items():
            if record.lun is None or record.deleting or name in self._configured:
                continue
            if record.lun in self._by_lun:
                other = self._by_lun[record.lun].name
                raise DataDirError(
                    f"volume {name} is LUN {record.lun}, where volume {other} comes by its place in"
                    " the configuration: put it at the end, or delete one of them"
                )
            self._add(record.lun, self._open(name, record, record.read_only))

    @property
    def _configured(self) -> set[str]:
        return {wanted.name for wanted in self._config.volumes}

    def _open(self, name: str, record: VolumeRecord, read_only: bool) -> Volume:
        if record.workers is not None:
            moved = None
            if record.migration is not None:
                journal = self._journals[name] = MigrationLog(
                    self._data.journal_of(name), uuids.UUID(record.migration.id)
                )
                moved = journal.moved
            return self._worker_volumes().open(name, record, read_only=read_only, moved=moved)
        store = FileStore(
            self._data.file_of(name), self._executor, size=record.size_bytes, read_only=read_only
        )
        return Volume(
            name,
            uuids.UUID(record.uuid),
            [store],
            block_bytes=record.block_bytes,
            chunk_bytes=record.chunk_bytes,
            read_only=read_only,
            write_cache=self._config.write_cache,
        )

    def _worker_volumes(self) -> WorkerVolumes:
        if self._workers is None:
            prepare_grpc()
            from target.worker_volumes import WorkerVolumes  # gRPC: not without need

            identity = begin_epoch(self._data.path, os.urandom(NODE_ID_BYTES).hex())
            self._workers = WorkerVolumes(self._config, self._data, identity, self._log)
        return self._workers

    def _add(self, lun: int, volume: Volume) -> None:
        disk = DiskDevice(
            volume,
            port_designators=self._port_designators,
            defer=asyncio.get_running_loop().call_soon,
        )
        self._bus.add(lun, disk)
        self._by_lun[lun] = volume

    async def flush(self) -> None:
        """All of them to stable storage; what fails is said in the log."""
        for volume in self._by_lun.values():
            await self._flush(volume)

    async def _flush(self, volume: Volume) -> None:
        flushed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        outcome: object = volume.flush().begin(flushed.set_result)
        if outcome is PENDING:
            outcome = await flushed
        if isinstance(outcome, StoreError):
            self._log.error("flush failed", volume=volume.name, reason=str(outcome))

    async def stop(self) -> None:
        """Begin no more changes, and none that wait; a migration is resumed by the next start."""
        await self._migrations.stop()
        if self._deleter is not None:
            self._deleter.cancel()
            await asyncio.gather(self._deleter, return_exceptions=True)

    async def close(self) -> None:
        """Close them.  Nothing may be in flight."""
        for journal in self._journals.values():
            journal.close()
        for volume in self._by_lun.values():
            volume.close()
        if self._workers is not None:
            await self._workers.close()

    # --- what there is ----------------------------------------------------------------------------

    @property
    def by_lun(self) -> dict[int, Volume]:
        """The volumes that initiators see."""
        return dict(sorted(self._by_lun.items()))

    def all(self) -> list[VolumeInfo]:
        """By LUN; those that are being deleted come last."""
        found = [self._info(lun, volume.name) for lun, volume in self.by_lun.items()]
        return found + [
            self._info(None, name) for name, record in self._data.volumes.items() if record.deleting
        ]

    def one(self, name: str) -> VolumeInfo:
        """Raises VolumeError."""
        lun = self._lun_of(name)
        if lun is None and not self._is_deleting(name):
            raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
        return self._info(lun, name)

    def _lun_of(self, name: str) -> int | None:
        return next((lun for lun, v in self._by_lun.items() if v.name == name), None)

    def _is_deleting(self, name: str) -> bool:
        record = self._data.record(name)
        return record is not None and record.deleting

    def _info(self, lun: int | None, name: str) -> VolumeInfo:
        record = self._data.record(name)
        assert record is not None, "the catalog has all of them"
        local = record.workers is None
        path = self._data.file_of(name) if local else None
        allocated = None
        if path is not None:
            with contextlib.suppress(OSError):
                allocated = path.stat().st_blocks * STAT_BLOCK_BYTES
        return VolumeInfo(
            name=name,
            uuid=record.uuid,
            lun=lun,
            size_bytes=record.size_bytes,
            block_bytes=record.block_bytes,
            chunk_bytes=record.chunk_bytes,
            read_only=lun is not None and self._by_lun[lun].read_only,
            configured=name in self._configured,
            path=str(path) if path is not None else None,
            allocated_bytes=allocated,
            workers=self._worker_infos(lun, record),
            migration=self._migration_info(name, record),
            retired=[place.address for place in record.retired],
        )

    def _migration_info(self, name: str, record: VolumeRecord) -> MigrationInfo | None:
        if record.migration is None:
            return None
        return self._migrations.info(name, [place.address for place in record.migration.workers])

    def _worker_infos(self, lun: int | None, record: VolumeRecord) -> list[WorkerInfo]:
        if record.workers is None:
            return []
        if lun is None or self._workers is None:
            gone = "the volume is being deleted"
            return [
                WorkerInfo(address=p.address, served=False, reason=gone) for p in record.workers
            ]
        return self._workers.infos(self._by_lun[lun])

    # --- changes ----------------------------------------------------------------------------------

    async def create(
        self, wanted: VolumeConfig, *, workers: Sequence[str], lun: int | None = None
    ) -> VolumeInfo:
        """Make a volume of a size and show it to initiators.  Raises VolumeError or OSError."""
        async with self._lock:
            if self._data.record(wanted.name) is not None:
                what = "is being deleted" if self._is_deleting(wanted.name) else "is there already"
                raise VolumeError(VolumeFault.CONFLICT, f"volume {wanted.name!r} {what}")
            lun = self._free_lun(lun)
            size = wanted.size_bytes
            assert size is not None, "images are configured"
            try:
                record = self._data.create(wanted, size, workers, lun)
                volume = self._open(wanted.name, record, wanted.readonly)
            except DataDirError as exc:
                raise VolumeError(VolumeFault.CONFLICT, str(exc)) from exc
            if self._workers is not None and record.workers is not None:
                reason = await self._workers.wait_open(volume)
                if reason:
                    await self._discard(wanted.name, volume)
                    raise VolumeError(VolumeFault.AWAY, reason)
            self._add(lun, volume)
            self._log.info("volume created", volume=wanted.name, lun=lun, size=format_size(size))
            return self.one(wanted.name)

    def _free_lun(self, wanted: int | None) -> int:
        taken = set(self._by_lun)
        if wanted is None:
            return next(lun for lun in range(LUNS_MAX) if lun not in taken)
        if not 0 <= wanted < LUNS_MAX:
            raise VolumeError(VolumeFault.CONFLICT, f"LUN {wanted}: must be 0 to {LUNS_MAX - 1}")
        if wanted in taken:
            name = self._by_lun[wanted].name
            raise VolumeError(VolumeFault.CONFLICT, f"LUN {wanted} is volume {name!r}")
        return wanted

    async def resize(self, name: str, size_bytes: int) -> VolumeInfo:
        """Grow a volume under its initiators, who are told.  Raises VolumeError or OSError."""
        async with self._lock:
            lun = self._lun_of(name)
            if lun is None:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
            volume, record = self._by_lun[lun], self._data.record(name)
            assert record is not None, "the catalog has all of them"
            self._check_size(name, record, size_bytes)
            if size_bytes == record.size_bytes:
                return self.one(name)
            if record.workers is None:
                await asyncio.to_thread(_lengthen, self._data.file_of(name), size_bytes)
            else:
                assert self._workers is not None, "it is open"
                try:
                    await self._workers.grow(volume, size_bytes)
                except (WorkerGone, ShareRefused) as exc:
                    raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
            self._data.resize(name, size_bytes)
            volume.grow(size_bytes)
            unit = self._bus.units[lun]
            assert isinstance(unit.device, DiskDevice), "made by _add"
            unit.device.grown()
            unit.attend_all(UA_CAPACITY_CHANGED)
            self._log.info("volume grown", volume=name, size=format_size(size_bytes))
            return self.one(name)

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
        """Take a volume away from initiators, then its data.  Raises VolumeError or OSError."""
        async with self._lock:
            lun = self._lun_of(name)
            if lun is None:
                if self._is_deleting(name):
                    return
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
            if name in self._configured:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    f"volume {name!r} is named by the command line or the configuration, and would "
                    "come back empty: take it out there first",
                )
            sessions = self._sessions()
            if sessions and not force:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    f"{sessions} initiator{'s are' if sessions > 1 else ' is'} logged in and may be"
                    f" using volume {name!r}: log out, or force it",
                )
            self._data.begin_delete(name)
            await self._migrations.stop(name)
            volume = self._by_lun.pop(lun)
            gone = asyncio.Event()
            self._bus.remove(lun, gone.set)
            await gone.wait()  # a store answers, or its I/O reaches its deadline
            volume.close()
            self._log.info("volume deleted", volume=name, lun=lun)
            self._delete_later()

    async def migrate(self, name: str, addresses: Sequence[str]) -> VolumeInfo:
        """Have a volume on workers move to the workers ``addresses``; returns when that has begun.

        The same again while it runs changes nothing.  Raises VolumeError or OSError.
        """
        async with self._lock:
            lun = self._lun_of(name)
            record = self._data.record(name)
            if lun is None or record is None:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
            if not self._is_there(name, record, addresses):
                self._planning.add(name)
                try:
                    await self._begin_migration(self._by_lun[lun], record, addresses)
                except DataDirError as exc:
                    raise VolumeError(VolumeFault.CONFLICT, str(exc)) from exc
                finally:
                    self._planning.discard(name)
                    self._delete_later()
            return self.one(name)

    @staticmethod
    def _is_there(name: str, record: VolumeRecord, addresses: Sequence[str]) -> bool:
        """Whether a volume is at ``addresses``, or on its way.  Raises VolumeError."""
        if record.workers is None:
            raise VolumeError(
                VolumeFault.CONFLICT,
                f"volume {name!r} is a file on this machine: only volumes on workers can move",
            )
        places = record.workers if record.migration is None else record.migration.workers
        if {place.address for place in places} == set(addresses):
            return True
        if record.migration is not None:
            there = ", ".join(place.address for place in places)
            raise VolumeError(
                VolumeFault.CONFLICT, f"volume {name!r} is moving to {there}: that ends first"
            )
        for place in record.retired:
            if place.address in addresses:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    f"worker {place.address} has not deleted its old share of volume {name!r} yet",
                )
        return False

    async def _begin_migration(
        self, volume: Volume, record: VolumeRecord, addresses: Sequence[str]
    ) -> None:
        workers, old = self._worker_volumes(), volume.layout
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
        self._migrations.start(volume, journal)

    async def _discard(self, name: str, volume: Volume) -> None:
        """What could not be made is nobody's yet."""
        volume.close()
        self._data.begin_delete(name)
        self._delete_later()

    def _delete_later(self) -> None:
        """The data of volumes that are gone go in the background."""
        if any(record.deleting or record.retired for record in self._data.volumes.values()):
            if self._deleter is None or self._deleter.done():
                self._deleter = asyncio.ensure_future(self._delete_data())

    async def _delete_data(self) -> None:
        said: dict[str, str] = {}
        while names := self._to_delete():
            for name in names:
                if self._is_deleting(name):
                    reason = await self._delete_data_of(name)
                else:
                    reason = await self._delete_retired(name)
                if reason and reason != said.get(name, ""):
                    self._log.warning("data are not deleted yet", volume=name, reason=reason)
                said[name] = reason
            if any(name in names for name in self._to_delete()):
                await asyncio.sleep(DELETE_RETRY_SECONDS)

    def _to_delete(self) -> list[str]:
        return [
            name
            for name, record in self._data.volumes.items()
            if record.deleting or (record.retired and name not in self._planning)
        ]

    async def _delete_retired(self, name: str) -> str:
        """Delete the shares that a migration has left; returns why one is there still."""
        record = self._data.record(name)
        assert record is not None, "nobody else forgets it"
        problem = ""
        for place in list(record.retired):
            # A shared store has its data once, whoever serves them.
            in_use = record.workers or []
            if record.migration is not None:
                in_use = in_use + record.migration.workers
            common = place.store_id and any(p.store_id == place.store_id for p in in_use)
            try:
                if not common:
                    await self._worker_volumes().delete_share(record, place)
                self._data.forget_retired(name, place)
                self._log.info("share deleted", volume=name, worker=place.address)
            except (WorkerGone, ShareRefused, OSError) as exc:
                problem = str(exc)
        return problem

    async def _delete_data_of(self, name: str) -> str:
        record = self._data.record(name)
        assert record is not None, "nobody else forgets it"
        try:
            if record.workers is not None:
                await self._worker_volumes().delete(record)
            self._data.forget(name)
        except (WorkerGone, ShareRefused, OSError) as exc:
            return str(exc)
        return ""


def _lengthen(file: os.PathLike[str], size_bytes: int) -> None:
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)
