"""The options by name, as they come: from flags or from the file, not yet understood.

One struct for both, so that they cannot drift apart.  ``UNSET`` means "not given here".
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

Size = str | int


class VolumeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[volume]]`` in the file; on the command line the same in one string."""

    name: str
    size: Size | None = None
    path: str | None = None
    block: int = 512
    chunk: Size = "4M"
    readonly: bool = False
    target: str = ""


class TargetTable(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """``[[target]]`` in the file; on the command line the same in one string."""

    name: str
    portal_group: str | list[str] = []


class AclTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[acl]]`` in the file; on the command line the same in one string."""

    initiator: str
    user: str = ""
    target: str = ""
    volume: str | list[str] = []


class Options(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """Every option of ``lunmesh serve`` but ``--config`` itself."""

    data_dir: str | UnsetType = UNSET
    portal: str | list[str] | UnsetType = UNSET
    advertise: str | list[str] | UnsetType = UNSET
    iqn: str | UnsetType = UNSET
    target: str | list[str | TargetTable] | UnsetType = UNSET
    volume: str | list[str | VolumeTable] | UnsetType = UNSET
    store: str | UnsetType = UNSET
    worker: str | list[str] | UnsetType = UNSET
    worker_ca: str | UnsetType = UNSET
    worker_cert: str | UnsetType = UNSET
    worker_key: str | UnsetType = UNSET
    worker_checksum: bool | str | UnsetType = UNSET
    worker_timeout: float | UnsetType = UNSET
    worker_wait: float | UnsetType = UNSET
    worker_away: str | UnsetType = UNSET
    migration_rate: Size | UnsetType = UNSET
    redis: str | UnsetType = UNSET
    node_id: str | UnsetType = UNSET
    lease: float | UnsetType = UNSET
    cluster_wait: float | UnsetType = UNSET
    processes: int | UnsetType = UNSET
    admin: str | UnsetType = UNSET
    admin_token_file: str | UnsetType = UNSET
    admin_cert: str | UnsetType = UNSET
    admin_key: str | UnsetType = UNSET
    admin_client_ca: str | UnsetType = UNSET
    audit_log: str | UnsetType = UNSET
    metrics: str | int | UnsetType = UNSET
    buffer_memory: Size | UnsetType = UNSET
    acl: str | list[str | AclTable] | UnsetType = UNSET
    chap: str | list[str] | UnsetType = UNSET
    chap_file: str | UnsetType = UNSET
    mutual_chap: str | UnsetType = UNSET
    mutual_chap_file: str | UnsetType = UNSET
    chap_discovery: bool | UnsetType = UNSET
    write_cache: bool | str | UnsetType = UNSET
    strict: bool | UnsetType = UNSET
    queue_depth: int | UnsetType = UNSET
    io_threads: int | UnsetType = UNSET
    busy_poll: int | UnsetType = UNSET
    log_level: str | UnsetType = UNSET
    log_format: str | UnsetType = UNSET
    trace: str | UnsetType = UNSET
    trace_ratio: float | UnsetType = UNSET
    login_timeout: float | UnsetType = UNSET
    nop_interval: float | UnsetType = UNSET
    nop_timeout: float | UnsetType = UNSET
    shutdown_timeout: float | UnsetType = UNSET


class WorkerOptions(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """Every option of ``lunmesh worker`` but ``--config`` itself."""

    listen: str | UnsetType = UNSET
    store: str | UnsetType = UNSET
    buffer_memory: Size | UnsetType = UNSET
    io_threads: int | UnsetType = UNSET
    tls_cert: str | UnsetType = UNSET
    tls_key: str | UnsetType = UNSET
    tls_ca: str | UnsetType = UNSET
    tls_client_name: str | UnsetType = UNSET
    insecure: bool | UnsetType = UNSET
    checksum: bool | str | UnsetType = UNSET
    direct_reads: bool | str | UnsetType = UNSET
    busy_poll: int | UnsetType = UNSET
    redis: str | UnsetType = UNSET
    metrics: str | int | UnsetType = UNSET
    fault: str | UnsetType = UNSET
    shutdown_timeout: float | UnsetType = UNSET
    log_level: str | UnsetType = UNSET
    log_format: str | UnsetType = UNSET


def option_names(kind: type[Options] | type[WorkerOptions] = Options) -> tuple[str, ...]:
    """The names as the file and, behind ``--``, the flags have them."""
    return kind.__struct_encode_fields__


def field_of(name: str) -> str:
    """``buffer_memory`` for ``buffer-memory``."""
    return name.replace("-", "_")
