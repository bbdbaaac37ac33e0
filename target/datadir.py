"""The data directory of a node: one owner, the volumes' files, and the catalog that names them.

    lunmesh-data/
      lock            held while a process uses the directory
      catalog.json    format version; per volume its UUID, size, block and chunk size, its workers
      node.json       who this node is to its workers (target/identity.py)
      volumes/NAME.raw
      reservations/UUID.json   what outlives a restart of them (target/reservation_file.py)
      volumes/NAME.migration   while a volume moves: which of its chunks have (migration_log.py)

The catalog is written to a new file, synced and renamed, so that a crash leaves the old or the new
one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import uuid as uuids
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from target.chap_users import Mutual, UserRecord
from target.config import VolumeConfig, format_size
from target.scsi.access_list import AccessEntry
from target.target_records import Targets
from workers.file_store import create_sparse
from workers.format import format_of

FORMAT: Final = 1
PLACE_KEY_CHARS: Final = 12  # random, told apart among the few workers of a volume
CATALOG_BYTES_MAX: Final = 64 << 20


PartName = Literal["targets", "access", "users", "mutual"]
"""What the catalog has beside the volumes (``target/catalog_part.py``)."""


class DataDirError(Exception):
    """The data directory cannot be used; the text says why, in one line."""


class WorkerPlace(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A worker of a volume.  Which chunks it has follows from ``key``, and only from that."""

    key: str
    address: str  # where it is now; may be edited when it moves
    created: bool = False  # its share was made: one that is missing now is lost, not new
    # Of a shared store: which, and the worker's process that may have I/O of this node, as the
    # store's engine knows it.  The next life of the node has to know whom to shut out.
    store_id: str = ""
    instance: str = ""
    # Its worker has been asked to delete its share, and may do so at any time until it answers.
    doomed: bool = False


class PoolPlace(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A pool of Ceph's that keeps a volume, reached by the node itself."""

    store_id: str  # the cluster and the pool (workers/rados_pool.py)
    created: bool = False  # it was made there: one that is missing now is lost, not new


class MigrationRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A migration that runs.  Its journal says how far it is (target/migration_log.py)."""

    id: str
    workers: list[WorkerPlace]  # where the volume is to be


class VolumeRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the catalog keeps of a volume: what initiators recognise it by must not change."""

    uuid: str
    block_bytes: int
    chunk_bytes: int
    size_bytes: int
    path: str | None = None  # an image outside the directory
    workers: list[WorkerPlace] | None = None  # where its chunks are
    pool: PoolPlace | None = None  # or there; neither: here
    # What flags or configuration asked for when they last asked for something else than there is: a
    # volume that has been grown since is no contradiction to them.
    configured_bytes: int | None = None
    # Of a volume that neither flags nor configuration name: its LUN, and the target that has it
    # (empty: the one that every node has anyway).
    lun: int | None = None
    target: str = ""
    read_only: bool = False  # of such a volume; the others are told each time
    shared: bool = False  # the nodes of a cluster have it in common: without it there, it is gone
    deleting: bool = False  # it is gone for everybody, and its data are to go
    migration: MigrationRecord | None = None
    # Where nothing of the volume is any more, or yet: a share that is there is to be deleted.
    retired: list[WorkerPlace] = []

    @property
    def local(self) -> bool:
        """Whether it is a file on this machine."""
        return self.workers is None and self.pool is None

    @property
    def in_use(self) -> list[WorkerPlace]:
        """The workers that the volume is on, and those that it is moving to."""
        moving_to = self.migration.workers if self.migration is not None else []
        return [*(self.workers or []), *moving_to]

    @property
    def places(self) -> list[WorkerPlace]:
        """All workers that may have a share of the volume."""
        return [*self.in_use, *self.retired]


class _Catalog(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Without what is as it is by default: an older version refuses what it does not know."""

    format: int
    volumes: dict[str, VolumeRecord] = {}
    # By pool: this node there, as Ceph knows it, until it has left with nothing in flight.
    pools: dict[str, str] = {}
    targets: Targets = ()  # beside the one of each node's configuration
    access: tuple[AccessEntry, ...] = ()  # who may use what (target/scsi/access_list.py)
    users: tuple[UserRecord, ...] = ()  # with their secrets (target/chap_users.py)
    mutual: Mutual = ()  # with its secret
    followed: str = ""  # the catalog of all nodes, if this is a copy of it
    followed_version: int = 0  # at least so far


def in_use(path: Path) -> bool:
    """Whether a process owns this data directory now."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(lock)
    return False


class DataDir:
    """An opened, locked data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_place: Callable[[], None] = lambda: None  # something is known of a place
        try:
            (path / "volumes").mkdir(parents=True, exist_ok=True)
            (path / "reservations").mkdir(exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise DataDirError(f"data directory {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise DataDirError(f"data directory {path}: {exc.strerror}") from exc
            owner = owner if re.fullmatch(r"\d+", owner) else "unknown"
            raise DataDirError(f"data directory {path} is in use by process {owner}") from exc
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            self._catalog = self._read()
        except OSError as exc:
            self.close()
            raise DataDirError(f"data directory {path}: {exc.strerror}") from exc
        except DataDirError:
            self.close()
            raise

    def _read(self) -> _Catalog:
        file = self.path / "catalog.json"
        raw = read_bounded(file, CATALOG_BYTES_MAX)
        if raw is None:
            return _Catalog(format=FORMAT)
        try:
            check_format(file, raw, FORMAT)
            return msgspec.json.decode(raw, type=_Catalog)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise DataDirError(f"{file} cannot be read: {exc}") from exc

    def _write(self) -> None:
        data = msgspec.json.format(msgspec.json.encode(self._catalog))
        write_atomically(self.path / "catalog.json", data)

    @property
    def volumes(self) -> dict[str, VolumeRecord]:
        """The volumes that the catalog knows, by name."""
        return dict(self._catalog.volumes)

    def part(self, name: PartName) -> tuple[Any, ...]:
        """What is kept beside the volumes."""
        values: tuple[Any, ...] = getattr(self._catalog, name)
        return values

    def keep_part(self, name: PartName, values: tuple[Any, ...], *, anyway: bool = False) -> None:
        """Keep that.  Raises OSError; with ``anyway`` it counts even then, for this process."""
        try:
            self._change(self._catalog, **{name: values})
        except OSError:
            if anyway:
                setattr(self._catalog, name, values)
            raise

    def record(self, name: str) -> VolumeRecord | None:
        """What the catalog keeps of a volume, if there is one."""
        return self._catalog.volumes.get(name)

    def is_deleting(self, name: str) -> bool:
        """Whether a volume is gone, and its data are to go."""
        record = self._catalog.volumes.get(name)
        return record is not None and record.deleting

    def file_of(self, name: str) -> Path:
        """Where the bytes of a volume are."""
        record = self._catalog.volumes[name]
        return Path(record.path) if record.path else self.path / "volumes" / f"{name}.raw"

    def prepare(
        self, wanted: VolumeConfig, size_bytes: int, workers: Sequence[str] = (), pool: str = ""
    ) -> VolumeRecord:
        """The record of a configured volume, which is created, or grown, if need be.

        A new volume of a size has its chunks on ``workers`` (addresses), if there are any, or in
        ``pool`` (a store id).
        Raises DataDirError where what is configured contradicts what is there.
        """
        record = self._catalog.volumes.get(wanted.name)
        path = str(wanted.path.resolve()) if wanted.path is not None else None
        try:
            if record is None:
                record = self._create(wanted, size_bytes, path, workers, pool)
            elif record.deleting:
                raise DataDirError(f"volume {wanted.name} is being deleted")
            else:
                self._reconcile(wanted, record, size_bytes, path)
        except OSError as exc:
            raise DataDirError(f"volume {wanted.name}: {exc.strerror}") from exc
        return record

    def create(
        self,
        wanted: VolumeConfig,
        size_bytes: int,
        workers: Sequence[str],
        lun: int,
        pool: str = "",
    ) -> VolumeRecord:
        """A new volume that is remembered with its LUN.  Raises DataDirError or OSError."""
        assert wanted.name not in self._catalog.volumes, "checked by the caller"
        return self._create(wanted, size_bytes, None, workers, pool, lun)

    def resize(self, name: str, size_bytes: int) -> None:
        """Keep a new size; the volume's bytes are the caller's.  Raises OSError."""
        record = self._catalog.volumes[name]
        old, record.size_bytes = record.size_bytes, size_bytes
        if record.configured_bytes is None:
            record.configured_bytes = old
        try:
            self._write()
        except OSError:
            record.size_bytes = old
            raise

    def remap(self, name: str, lun: int, target: str) -> None:
        """Keep where initiators find a volume from now on.  Raises OSError."""
        self._change(self._catalog.volumes[name], lun=lun, target=target)

    def adopt(self, name: str, record: VolumeRecord) -> VolumeRecord:
        """Keep what other nodes know of a volume; returns the record that is kept here.

        What is known here of its places stays where they know nothing, and what is being deleted
        here is being deleted.  Another volume of that name that is to go still goes, under a name
        that no volume can have.  Raises DataDirError, or OSError.
        """
        mine = self._catalog.volumes.get(name)
        if mine is None or mine.uuid != record.uuid:
            if mine is not None and mine.deleting:
                self._catalog.volumes[f"{name}~{mine.uuid[:8]}"] = mine
            elif mine is not None and not mine.shared:
                raise DataDirError(
                    f"volume {name} of this node is another one than volume {name} of the others:"
                    " start it by itself, without redis, and delete it there, or delete theirs"
                )
            mine = self._catalog.volumes[name] = record
            self._write()
            return mine
        mine.shared = True
        known = {place.key: place for place in mine.workers or ()}
        for theirs in record.workers or ():
            place = known.get(theirs.key)
            if place is not None:
                place.created = place.created or theirs.created
                place.store_id = place.store_id or theirs.store_id
                place.instance = place.instance or theirs.instance
        size_bytes = max(mine.size_bytes, record.size_bytes)
        self._change(
            mine,
            lun=record.lun,
            target=record.target,
            size_bytes=size_bytes,
            deleting=mine.deleting or record.deleting,
        )
        return mine

    def drop(self, name: str) -> None:
        """The volume is no concern of this node any more.  Raises OSError."""
        record = self._catalog.volumes.pop(name)
        try:
            self._write()
        except OSError:
            self._catalog.volumes[name] = record
            raise
        self.reservations_of(record).unlink(missing_ok=True)

    def begin_delete(self, name: str) -> None:
        """Keep that a volume is to go: whatever happens, it will.  Raises OSError."""
        self._change(self._catalog.volumes[name], deleting=True)

    def journal_of(self, name: str) -> Path:
        """The file of a migration's journal."""
        return self.path / "volumes" / f"{name}.migration"

    def reservations_of(self, record: VolumeRecord) -> Path:
        """The file of a volume's reservations."""
        return self.path / "reservations" / f"{record.uuid}.json"

    def plan_places(self, name: str, addresses: Sequence[str]) -> list[WorkerPlace]:
        """Places for a volume to move to; a worker that has it already keeps its place.

        The new ones are retired until the migration begins: what is made there is deleted if it
        never does.  Raises OSError.
        """
        record = self._catalog.volumes[name]
        there = {place.address: place for place in record.workers or ()}
        places = [
            there.get(address)
            or WorkerPlace(key=uuids.uuid4().hex[:PLACE_KEY_CHARS], address=address)
            for address in addresses
        ]
        new = [place for place in places if place.address not in there]
        self._change(record, retired=[*record.retired, *new])
        return places

    def begin_migration(self, name: str, migration: MigrationRecord) -> None:
        """Keep where a volume is to be from now on.  Raises OSError."""
        record = self._catalog.volumes[name]
        keys = {place.key for place in migration.workers}
        retired = [place for place in record.retired if place.key not in keys]
        self._change(record, migration=migration, retired=retired)

    def end_migration(self, name: str) -> None:
        """Keep that a volume is where it was to be.  Raises OSError."""
        record = self._catalog.volumes[name]
        assert record.migration is not None, "it runs"
        # A place that stays is the one that has been kept up to date (``worker_is``).
        kept = {place.key: place for place in record.workers or ()}
        workers = [kept.get(place.key, place) for place in record.migration.workers]
        keys = {place.key for place in workers}
        left = [place for place in record.workers or () if place.key not in keys]
        self._change(record, workers=workers, migration=None, retired=[*record.retired, *left])

    def doom_retired(self, place: WorkerPlace, store_id: str) -> None:
        """Keep, before its worker is asked, that a share in that store may go.  Raises OSError."""
        if (place.store_id, place.doomed) != (store_id, True):
            self._change(place, store_id=store_id, doomed=True)

    def forget_retired(self, name: str, place: WorkerPlace) -> None:
        """Nothing of the volume is at ``place``.  Raises OSError."""
        record = self._catalog.volumes[name]
        self._change(record, retired=[other for other in record.retired if other is not place])

    def _change(self, record: msgspec.Struct, **fields: object) -> None:
        """All of ``fields`` in one write, or none of them.  Raises OSError."""
        before = {field: getattr(record, field) for field in fields}
        for field, value in fields.items():
            setattr(record, field, value)
        try:
            self._write()
        except OSError:
            for field, value in before.items():
                setattr(record, field, value)
            raise

    def forget(self, name: str) -> None:
        """The data of a volume are gone, but for its file here.  Raises OSError."""
        record = self._catalog.volumes[name]
        assert record.deleting, "begin_delete comes first"
        if record.path is None and record.local:
            self.file_of(name).unlink(missing_ok=True)
        self.journal_of(name).unlink(missing_ok=True)
        self.reservations_of(record).unlink(missing_ok=True)
        del self._catalog.volumes[name]
        try:
            self._write()
        except OSError:
            self._catalog.volumes[name] = record
            raise

    def _create(
        self,
        wanted: VolumeConfig,
        size_bytes: int,
        path: str | None,
        workers: Sequence[str],
        pool: str,
        lun: int | None = None,
    ) -> VolumeRecord:
        record = VolumeRecord(
            uuid=str(uuids.uuid4()),
            block_bytes=wanted.block_bytes,
            chunk_bytes=wanted.chunk_bytes,
            size_bytes=size_bytes,
            path=path,
            configured_bytes=size_bytes if path is None and lun is None else None,
            lun=lun,
            target=wanted.target if lun is not None else "",
            read_only=wanted.readonly and lun is not None,
        )
        if workers and path is None:
            record.workers = [
                WorkerPlace(key=uuids.uuid4().hex[:PLACE_KEY_CHARS], address=address)
                for address in workers
            ]
        elif pool and path is None:
            record.pool = PoolPlace(store_id=pool)
        if path is None and record.local:
            file = self.path / "volumes" / f"{wanted.name}.raw"
            try:
                create_sparse(file, size_bytes)
            except FileExistsError:
                # A crash, or a full disk, came between the file and its entry: nothing has been
                # acknowledged, but nothing is thrown away either.
                if file.stat().st_size != size_bytes:
                    if not _is_hole(file):
                        raise DataDirError(
                            f"volume {wanted.name}: {file} is there but not in the catalog, and not"
                            f" {format_size(size_bytes)} long; move it away"
                        ) from None
                    file.unlink()
                    create_sparse(file, size_bytes)
        self._catalog.volumes[wanted.name] = record
        try:
            self._write()
        except OSError:
            del self._catalog.volumes[wanted.name]
            raise
        return record

    def _reconcile(
        self, wanted: VolumeConfig, record: VolumeRecord, size_bytes: int, path: str | None
    ) -> None:
        if record.path != path:
            raise DataDirError(
                f"volume {wanted.name} is {record.path or 'kept in the data directory'},"
                f" not {path or 'in the data directory'}"
            )
        if record.block_bytes != wanted.block_bytes:
            raise DataDirError(
                f"volume {wanted.name} has blocks of {record.block_bytes} bytes,"
                f" not {wanted.block_bytes}"
            )
        if size_bytes == record.configured_bytes and path is None:
            return
        if size_bytes < record.size_bytes and path is None:
            raise DataDirError(
                f"volume {wanted.name} is {format_size(record.size_bytes)} and cannot shrink"
                f" to {format_size(size_bytes)}"
            )
        if size_bytes != record.size_bytes:
            if path is None and record.local:
                os.truncate(self.file_of(wanted.name), size_bytes)
            record.size_bytes = record.configured_bytes = size_bytes
            self._write()

    def share_created(self, place: WorkerPlace) -> None:
        """Keep that the share of ``place`` was made.  Raises OSError."""
        self._change(place, created=True)
        self.on_place()

    def worker_is(self, places: Sequence[WorkerPlace], store_id: str, instance: str) -> None:
        """Keep which process of a shared store has I/O of ours from now on.  Raises OSError."""
        before = [(place.store_id, place.instance) for place in places]
        if all(known == (store_id, instance) for known in before):
            return
        for place in places:
            place.store_id, place.instance = store_id, instance
        try:
            self._write()
        except OSError:
            for place, (old_store, old_instance) in zip(places, before, strict=True):
                place.store_id, place.instance = old_store, old_instance
            raise
        self.on_place()

    def created_in_pool(self, place: PoolPlace) -> None:
        """Keep that a volume was made in its pool.  Raises OSError."""
        self._change(place, created=True)

    def instance_in(self, pool: str) -> str:
        """This node's last life in ``pool``, if something of it may be on its way there."""
        return self._catalog.pools.get(pool, "")

    def we_are(self, pool: str, instance: str) -> None:
        """Keep who we are in ``pool`` from now on, or that we are gone.  Raises OSError."""
        pools = {name: ours for name, ours in self._catalog.pools.items() if name != pool}
        self._change(self._catalog, pools=pools | ({pool: instance} if instance else {}))

    @property
    def followed(self) -> str:
        """Which catalog of all nodes this one has followed (``target/shared_catalog.py``)."""
        return self._catalog.followed

    @property
    def followed_version(self) -> int:
        """How far, at least."""
        return self._catalog.followed_version

    def follow(self, catalog: str, version: int) -> None:
        """Keep that.  Raises OSError."""
        if (catalog, version) != (self.followed, self.followed_version):
            self._change(self._catalog, followed=catalog, followed_version=version)

    def close(self) -> None:
        """Give up the directory."""
        os.close(self._lock)


def check_format(file: Path, raw: bytes, known: int) -> None:
    """Before the rest is looked at.  Raises DataDirError, or msgspec.DecodeError."""
    found = format_of(raw)
    if found != known:
        raise DataDirError(f"{file} has format {found}, this version knows {known}")


def read_bounded(file: Path, bytes_max: int) -> bytes | None:
    """The first ``bytes_max`` of a file, or None if there is none.  Raises OSError."""
    try:
        with file.open("rb") as stream:
            return stream.read(bytes_max)
    except FileNotFoundError:
        return None


def _is_hole(file: Path) -> bool:
    """Whether there is nothing in it.  Raises OSError."""
    with file.open("rb") as stream:
        try:
            os.lseek(stream.fileno(), 0, os.SEEK_DATA)
        except OSError as exc:
            return exc.errno == errno.ENXIO
    return False


def write_atomically(file: Path, data: bytes) -> None:
    """A crash leaves the old file or the new one; on return the new one.  Raises OSError."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)  # of a crash, and perhaps with another mode
    # The catalog has secrets: nobody else reads what a node keeps.
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    new.rename(file)
    sync_directory(file.parent)


def sync_directory(path: Path) -> None:
    """Make what was created, renamed or removed in ``path`` survive a crash.  Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
