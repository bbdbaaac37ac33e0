"""The volumes of a node: what there is, what initiators see of it, and what is told of it.

A volume is in the LUN map of one target.  One that flags or configuration name has the LUN of its
place there; the others (made by ``volume_changes.py``) keep the one that they were given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.block.wait import PENDING
from target.config import ServeConfig, VolumeConfig, image_bytes
from target.datadir import DataDir, DataDirError, VolumeRecord
from target.identity import ID_BYTES as NODE_ID_BYTES
from target.identity import NodeIdentity, begin_epoch
from target.iscsi.targets import TargetList
from target.logs import Log
from target.migration_log import MigrationLog
from target.migrations import Migrations
from target.reservation_file import ReservationCopy, ReservationFile
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.limits import LUNS_MAX
from target.scsi.logical_unit import LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.sense import UA_CAPACITY_CHANGED
from target.target_records import served_targets
from target.volume_cleanup import Cleanup
from target.volume_errors import VolumeError, VolumeFault
from target.volume_info import MigrationInfo, VolumeInfo, WorkerInfo
from workers.executor import BlockingExecutor
from workers.file_store import FileStore
from workers.grpc_environment import prepare_grpc
from workers.store import StoreError

if TYPE_CHECKING:
    from target.clustering import Clustering
    from target.pool_volumes import PoolVolumes
    from target.shared_catalog import SharedCatalog
    from target.worker_volumes import WorkerVolumes

STAT_BLOCK_BYTES: Final = 512
DELETE_RETRY_SECONDS: Final = 5.0
VOLUMES_AT_A_STRETCH: Final = 50  # about 1 ms


class Volumes:
    """The volumes, and the bus that shows them to initiators.

    ``port_designators`` are of a target's port, by its name (VPD page 83h).  ``on_lost`` is told
    why, when the volumes cannot be served any more; ``on_fenced``, when a worker refuses this life
    of the node; both before any command ends for it.
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
        port_designators: Callable[[str], Sequence[bytes]],
        clustering: Clustering | None = None,
        on_lost: Callable[[str], None] = lambda reason: None,
        on_fenced: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._config = config
        self.configured: Final = {it.name for it in config.volumes}  # not made by command
        self.data = data
        self._executor = executor
        self._bus = bus
        self._log = log
        self._port_designators = port_designators
        self.clustering = clustering
        self.identity: NodeIdentity | None = None  # of a node among others, which has joined
        self._on_lost = on_lost
        self._on_fenced = on_fenced
        self._pool: PoolVolumes | None = None
        self._workers: WorkerVolumes | None = None
        self._started = False
        self._journals: dict[str, MigrationLog] = {}  # of migrations that are to be resumed
        self._by_address: dict[LunAddress, Volume] = {}
        self.shared: SharedCatalog | None = None  # of a node among others
        self.cleanup = Cleanup(data, self.workers, log, self._withdraw, self._forgotten, self.pool)
        self.migrations = Migrations(data, pool, log, self.cleanup.begin, config.migration_rate)

    # --- their life -------------------------------------------------------------------------------

    async def start(self, *, all_volumes: bool) -> None:
        """Open what is configured, and with ``all_volumes`` what was made by command as well.

        Raises ConfigError, DataDirError or OSError.
        """
        if self._config.store is not None:
            from target.pool_volumes import PoolVolumes  # librados: not without need

            self._pool = await PoolVolumes.connect(
                self._config.store, self.data, self._log, self._on_lost
            )
        if self.shared is not None:
            await self.shared.join(self.configured)
        for address, wanted in _in_order(self._config.volumes):
            size = wanted.size_bytes if wanted.path is None else image_bytes(wanted)
            assert size is not None, "a volume has a size or a path"
            addresses = [str(address) for address in self._config.workers]
            if self.shared is not None:
                make = partial(self.data.prepare, wanted, size, addresses)
                record = await self.shared.settle(wanted.name, make)
                _check_shared(wanted, record)
            else:
                record = self.data.prepare(wanted, size, addresses, self.pool_id)
            self.add(address, await self.open(wanted.name, record, wanted.readonly))
        if all_volumes:
            await self._open_created()
        self._started = True
        if self._workers is not None:
            await self._workers.start()
        if all_volumes:
            for volume in self._by_address.values():
                if volume.name in self._journals:
                    self.migrations.start(volume, self._journals.pop(volume.name))
            self.cleanup.begin()

    async def _open_created(self) -> None:
        for name, record in self.data.volumes.items():
            if record.lun is None or record.deleting or name in self.configured:
                continue
            address = LunAddress(record.target, record.lun)
            if address in self._by_address:
                other = self._by_address[address].name
                raise DataDirError(
                    f"volume {name} is LUN {address}, where volume {other} comes by its place in"
                    " the configuration: put it at the end, or delete one of them"
                )
            self.add(address, await self.open(name, record, record.read_only))

    async def open(self, name: str, record: VolumeRecord, read_only: bool) -> Volume:
        """The volume of a record; on workers, which need not be there yet.

        Raises DataDirError or OSError.
        """
        if record.workers is not None:
            moved = None
            if record.migration is not None:
                journal = self._journals[name] = MigrationLog(
                    self.data.journal_of(name), uuids.UUID(record.migration.id)
                )
                moved = journal.moved
            return self.workers().open(name, record, read_only=read_only, moved=moved)
        if record.pool is not None:
            return await self.pool(name, record).open(
                name, record, read_only=read_only, write_cache=self._config.write_cache
            )
        store = FileStore(
            self.data.file_of(name), self._executor, size=record.size_bytes, read_only=read_only
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

    @property
    def pool_id(self) -> str:
        """The pool where new volumes are kept; empty: in none."""
        return self._pool.store_id if self._pool is not None else ""

    def pool(self, name: str, record: VolumeRecord) -> PoolVolumes:
        """The pool that keeps a volume.  Raises DataDirError."""
        assert record.pool is not None, "a volume in a pool"
        if self._pool is None or self._pool.store_id != record.pool.store_id:
            raise DataDirError(
                f"volume {name} is kept in a pool of Ceph's ({record.pool.store_id}), which is not"
                " the store that was given: --store rados:POOL"
            )
        return self._pool

    def workers(self) -> WorkerVolumes:
        """The ways to workers; from the first time on there is a way to them."""
        if self._workers is None:
            prepare_grpc()
            from target.worker_volumes import WorkerVolumes  # gRPC: not without need

            identity = self.identity or begin_epoch(self.data.path, os.urandom(NODE_ID_BYTES).hex())
            strangers = self.clustering.strangers if self.clustering is not None else None
            self._workers = WorkerVolumes(
                self._config, self.data, identity, self._log, strangers, self._on_fenced
            )
            if self._started:
                self._workers.begin()
        return self._workers

    @property
    def remote(self) -> WorkerVolumes | None:
        """The ways to workers, if any has been needed."""
        return self._workers

    async def _withdraw(self, name: str, record: VolumeRecord) -> None:
        if self.shared is not None:
            await self.shared.withdraw(name, record.uuid)

    async def _forgotten(self, name: str, record: VolumeRecord) -> None:
        if self.shared is not None:
            await self.shared.forget(name, record.uuid)

    def targets(self) -> TargetList:
        """Those that are configured, and those that the catalog has."""
        return served_targets(self._config.iqn, self._config.targets, self.data.part("targets"))

    @property
    def configured_targets(self) -> frozenset[str]:
        """Names that the catalog cannot change anything about here."""
        return frozenset(it.name for it in self._config.targets)

    def target_name(self, key: str) -> str:
        """What initiators know a target by (``LunAddress.target``)."""
        return key or self._config.iqn

    def target_of(self, name: str) -> str:
        """The name of the target that a volume is in; of one that is not there, of ours."""
        address = self.address_of(name)
        return self.target_name(address.target if address is not None else "")

    def add(self, address: LunAddress, volume: Volume) -> None:
        """Show a volume to initiators.  Raises DataDirError."""
        disk = DiskDevice(
            volume,
            port_designators=self._port_designators(self.target_name(address.target)),
            defer=asyncio.get_running_loop().call_soon,
        )
        unit = self._bus.add(address.number, disk, address.target)
        if self.clustering is not None:
            copy = ReservationCopy(self._reservations_of(volume), self._executor)
            self.clustering.gate(volume, unit, self.workers(), copy)
        else:
            self.reserve(volume, unit)
        self._by_address[address] = volume

    def free_address(self, target: str) -> LunAddress:
        """The first of a target where no volume is."""
        every = (LunAddress(target, number) for number in range(LUNS_MAX))
        return next(address for address in every if address not in self._by_address)

    async def move(self, old: LunAddress, new: LunAddress) -> None:
        """Show a volume at another LUN; nothing runs of whoever does not see it any more."""
        unit = self._bus.units[old]
        assert isinstance(unit.device, DiskDevice), "made by add"
        moved = asyncio.Event()
        self._bus.move(unit, new, moved.set)
        self._by_address[new] = self._by_address.pop(old)
        unit.device.port_designators = list(self._port_designators(self.target_name(new.target)))
        await moved.wait()

    def reserve(self, volume: Volume, unit: LogicalUnit) -> None:
        """Have ``unit`` know who has reserved the volume.  Raises DataDirError."""
        store = ReservationFile(self._reservations_of(volume), self._executor)
        unit.reservations.keep_in(store, store.kept)

    def _reservations_of(self, volume: Volume) -> Path:
        record = self.data.record(volume.name)
        assert record is not None, "the catalog has all of them"
        return self.data.reservations_of(record)

    def grown(self, address: LunAddress, size_bytes: int) -> None:
        """All stores of a volume have ``size_bytes`` now: use them, and tell the initiators."""
        self._by_address[address].grow(size_bytes)
        unit = self._bus.units[address]
        assert isinstance(unit.device, DiskDevice), "made by add"
        unit.device.grown()
        unit.attend_all(UA_CAPACITY_CHANGED)

    async def remove(self, address: LunAddress) -> None:
        """Take a volume away from initiators, and close it when its last command has ended."""
        volume = self._by_address.pop(address)
        gone = asyncio.Event()
        self._bus.remove(address, gone.set)
        await gone.wait()  # a store answers, or its I/O reaches its deadline
        record = self.data.record(volume.name)
        if record is not None and record.pool is not None:
            await self._flush(volume)  # what is kept of it must not land when it is deleted
        if self.clustering is not None:
            await self.clustering.ungate(volume)
        volume.close()

    async def flush(self) -> None:
        """All of them to stable storage, side by side; what fails is said in the log."""
        await asyncio.gather(*map(self._flush, self._by_address.values()))

    async def _flush(self, volume: Volume) -> None:
        flushed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        outcome: object = volume.flush().begin(flushed.set_result)
        if outcome is PENDING:
            outcome = await flushed
        if isinstance(outcome, StoreError):
            self._log.error("flush failed", volume=volume.name, reason=str(outcome))

    async def drain(self, seconds: float) -> None:
        """Put what is kept of volumes in a pool where it belongs, within that time."""
        if self._pool is not None:
            await self._pool.drain(seconds)

    @property
    def kept_bytes(self) -> int:
        """What was answered and not flushed, and is in this process alone."""
        return self._pool.kept_bytes if self._pool is not None else 0

    def give_up(self) -> None:
        """End I/O that a pool has not answered: the node is to end, and has waited."""
        if self._pool is not None:
            self._pool.give_up()

    async def stop(self) -> None:
        """Begin no more changes, and none that wait; a migration is resumed by the next start."""
        await self.migrations.stop()
        await self.cleanup.stop()

    async def close(self) -> None:
        """Close them.  Nothing may be in flight."""
        for journal in self._journals.values():
            journal.close()
        for volume in self._by_address.values():
            volume.close()
        if self._workers is not None:
            await self._workers.close()
        if self._pool is not None:
            self._pool.close()

    # --- what there is ----------------------------------------------------------------------------

    @property
    def by_address(self) -> dict[LunAddress, Volume]:
        """The volumes that initiators see."""
        return dict(sorted(self._by_address.items()))

    async def all(self) -> list[VolumeInfo]:
        """By target and LUN; those that are being deleted come last.

        Those that there are at the end; where there are many, commands go on in between.
        """
        found: dict[LunAddress, tuple[Volume, VolumeInfo]] = {}
        for count, (address, volume) in enumerate(self.by_address.items(), 1):
            if self._by_address.get(address) is volume:
                found[address] = volume, self._info(address, volume.name)
            if count % VOLUMES_AT_A_STRETCH == 0:
                await asyncio.sleep(0)
        shown = []
        for address, volume in self.by_address.items():
            of, info = found.get(address, (None, None))
            if info is None or of is not volume:  # it has come meanwhile
                info = self._info(address, volume.name)
            shown.append(info)
        return shown + [
            self._info(None, name) for name, record in self.data.volumes.items() if record.deleting
        ]

    def one(self, name: str) -> VolumeInfo:
        """Raises VolumeError."""
        address = self.address_of(name)
        if address is None and not self.data.is_deleting(name):
            raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")
        return self._info(address, name)

    def address_of(self, name: str) -> LunAddress | None:
        """Where initiators see a volume, if they do."""
        return next((it for it, volume in self._by_address.items() if volume.name == name), None)

    def _info(self, address: LunAddress | None, name: str) -> VolumeInfo:
        record = self.data.record(name)
        assert record is not None, "the catalog has all of them"
        path = self.data.file_of(name) if record.local else None
        return VolumeInfo(
            name=name,
            uuid=record.uuid,
            lun=address.number if address is not None else None,
            target=self.target_name(address.target) if address is not None else "",
            size_bytes=record.size_bytes,
            block_bytes=record.block_bytes,
            chunk_bytes=record.chunk_bytes,
            read_only=address is not None and self._by_address[address].read_only,
            configured=name in self.configured,
            path=str(path) if path is not None else None,
            allocated_bytes=self.allocated_bytes(name),
            pool=self._pool_name(record),
            workers=self._worker_infos(address, record),
            migration=self._migration_info(name, record),
            deletion=self.cleanup.info(name, record),
            retired=[place.address for place in record.retired],
        )

    def allocated_bytes(self, name: str) -> int | None:
        """What the file of a volume takes; None where it has none on this machine."""
        record = self.data.record(name)
        if record is not None and record.local:
            with contextlib.suppress(OSError):
                return self.data.file_of(name).stat().st_blocks * STAT_BLOCK_BYTES
        return None

    def _pool_name(self, record: VolumeRecord) -> str | None:
        if record.pool is None:
            return None
        here = self._pool is not None and self._pool.store_id == record.pool.store_id
        return self._pool.name if self._pool is not None and here else record.pool.store_id

    def _migration_info(self, name: str, record: VolumeRecord) -> MigrationInfo | None:
        if record.migration is None:
            return None
        return self.migrations.info(name, [place.address for place in record.migration.workers])

    def _worker_infos(self, address: LunAddress | None, record: VolumeRecord) -> list[WorkerInfo]:
        if record.workers is None:
            return []
        if address is None or self._workers is None:
            gone = "the volume is being deleted"
            return [
                WorkerInfo(address=p.address, served=False, reason=gone) for p in record.workers
            ]
        return self._workers.infos(self._by_address[address])


def _in_order(wanted: Iterable[VolumeConfig]) -> Iterator[tuple[LunAddress, VolumeConfig]]:
    """Where configured volumes come: LUN 0, 1, 2 … of their target."""
    counts: Counter[str] = Counter()
    for volume in wanted:
        yield LunAddress(volume.target, counts[volume.target]), volume
        counts[volume.target] += 1


def _check_shared(wanted: VolumeConfig, record: VolumeRecord) -> None:
    """What is configured here against what the nodes have in common.  Raises DataDirError."""
    if record.block_bytes != wanted.block_bytes:
        raise DataDirError(
            f"volume {wanted.name} has blocks of {record.block_bytes} bytes,"
            f" not {wanted.block_bytes}"
        )
