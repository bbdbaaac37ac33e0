"""What is told of a volume: by the admin API, by ``lunmesh volume``, by whoever asks a node."""

from __future__ import annotations

import msgspec


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that has chunks of a volume."""

    address: str
    served: bool
    reason: str = ""  # why it is not


class MigrationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far a volume is on its way to other workers."""

    workers: list[str]  # where it is to be
    chunks_total: int
    chunks_done: int  # that are where they are to be
    copied_bytes: int  # since the node began or resumed it, as is the rate
    bytes_per_second: float
    trouble: str = ""  # why it does not get on; it tries again


class DeletionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far the data of a volume that is gone are deleted."""

    workers_total: int  # that have a share of it; 0: the node itself has the data
    workers_done: int
    trouble: str = ""  # why one is not; it is asked again


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of a node."""

    name: str
    uuid: str
    lun: int | None  # None: it is being deleted
    target: str  # that has it; empty: as above
    size_bytes: int
    block_bytes: int
    chunk_bytes: int
    read_only: bool
    configured: bool  # flags or configuration name it
    path: str | None = None  # its file on this machine
    allocated_bytes: int | None = None  # of that file
    pool: str | None = None  # of Ceph's, that the node reaches itself
    workers: list[WorkerInfo] = []  # where its chunks are, if not here
    migration: MigrationInfo | None = None
    deletion: DeletionInfo | None = None
    retired: list[str] = []  # workers that it has left, and where its share is not deleted yet
