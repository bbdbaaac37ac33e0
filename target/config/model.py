"""The result: what a node is told, parsed and checked, frozen."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import msgspec

from target.block.worker_address import WorkerAddress, WorkerTls
from target.scsi.access_list import AccessEntry

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
WorkerAway = Literal["busy", "not-ready"]

PORT_DEFAULT = 3260
ADMIN_PORT_DEFAULT = 3280
IQN_DEFAULT = "iqn.2026-11.io.lunmesh:target"


class Portal(msgspec.Struct, frozen=True):
    """An address to listen on; port 0 takes any free one."""

    host: str
    port: int
    group: str = ""  # the label of the portal group that it belongs to

    @property
    def wildcard(self) -> bool:
        """Whether it stands for all addresses of the machine."""
        return self.host in ("0.0.0.0", "::")

    def bound(self, sock: socket.socket) -> Portal:
        """With the address that a socket of it has, where any port was asked for."""
        host, port = sock.getsockname()[:2]
        return Portal(host, port, self.group)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ChapUser(msgspec.Struct, frozen=True):
    """One side's CHAP name and secret.  The secret never shows in a repr, and so in no log."""

    user: str
    secret: bytes

    def __repr__(self) -> str:
        return f"ChapUser(user={self.user!r}, secret=***)"


class VolumeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A volume: ``size_bytes`` (kept in the data directory) or ``path`` (an image as it is)."""

    name: str
    size_bytes: int | None = None
    path: Path | None = None
    block_bytes: int = 512
    chunk_bytes: int = 4 << 20
    readonly: bool = False
    target: str = ""  # that has it; empty: the one of ``iqn``


class TargetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A target beside the one of ``iqn``, or that one where it is limited."""

    name: str
    portal_groups: tuple[str, ...] = ()  # labels of the portals that lead to it; none: all


class ProcessPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the processes behind the same portals a node is."""

    group: str  # of the processes of one supervisor, told apart from those of others
    number: int  # from 1
    count: int  # of the processes of the group

    @property
    def name(self) -> str:
        """Of the process, and of the node that it is."""
        return f"{self.group}-{self.number}"


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a node shares its volumes with others."""

    url: str  # of Redis; has a password in it, perhaps
    node_id: str | None  # None: the one that the data directory keeps
    lease_seconds: float
    wait_seconds: float  # of a command, for Redis and for commands of other nodes
    place: ProcessPlace | None = None  # None: its portals are its own

    def __repr__(self) -> str:
        return f"ClusterConfig(node_id={self.node_id!r}, lease_seconds={self.lease_seconds})"


class RadosPlace(msgspec.Struct, frozen=True, kw_only=True):
    """``rados:POOL[@CONF][?id=NAME][&cache=SIZE]``"""

    pool: str
    conf: Path
    user: str  # cephx: client.NAME; empty: the one that Ceph takes by itself, client.admin
    cache_bytes: int = 0  # of each volume, that are written behind; 0: none


class AdminTls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of the admin API."""

    certificate: Path
    key: Path
    client_ca: Path | None  # who signs the certificates of callers; None: they need none


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``lunmesh serve`` may be told."""

    data_dir: Path
    portals: tuple[Portal, ...]
    advertise: tuple[Portal, ...]  # what SendTargets says instead of them; empty: what they are
    iqn: str
    targets: tuple[TargetConfig, ...]  # others, or this one where it is limited to portal groups
    volumes: tuple[VolumeConfig, ...]  # LUN 0, 1, 2 … of their target, in order
    store: RadosPlace | None  # where new volumes of a size are kept; None: in the data directory
    workers: tuple[WorkerAddress, ...]  # or there, where there are any
    worker_tls: WorkerTls | None  # None: in the clear
    worker_checksum: bool  # CRC32C of what goes to workers and comes from them
    worker_timeout_seconds: float  # of one I/O, retries and all
    worker_wait_seconds: float  # at start, for workers to come
    worker_away: WorkerAway  # what a command is told when that time is over
    migration_rate: int  # bytes a second that a migration copies; 0: as fast as it can
    cluster: ClusterConfig | None  # None: alone
    processes: int  # that serve behind the portals, each a node
    admin: Portal | None  # where the admin API listens; None: nowhere
    admin_token: str | None  # what every caller must have; None: no token
    admin_tls: AdminTls | None  # None: in the clear
    audit_log: Path | None  # where its calls are written down, beside the log
    metrics: Portal | None  # where it tells what it does, beside the admin API; None: nowhere
    buffer_memory_bytes: int
    acls: tuple[AccessEntry, ...]  # who may use what, beside those of the catalog
    chap: tuple[ChapUser, ...]  # who may log in; empty: everybody
    mutual_chap: ChapUser | None  # who we are to an initiator that asks
    chap_discovery: bool  # discovery sessions need CHAP as well
    write_cache: bool
    strict: bool  # one command at a time in each session, no data unasked
    queue_depth: int  # commands per session
    io_threads: int
    busy_poll_seconds: float  # an initiator with one command at a time is waited for; 0: not at all
    log_level: LogLevel
    log_format: LogFormat
    trace: str | None  # URL of an OpenTelemetry collector; None: no traces
    trace_ratio: float  # of commands that are traced
    login_timeout_seconds: float
    nop_interval_seconds: float  # 0: an idle session is never pinged
    nop_timeout_seconds: float
    shutdown_timeout_seconds: float
    notes: tuple[str, ...] = ()  # what deserves a warning, not a refusal
