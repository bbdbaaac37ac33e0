"""Flags, environment and file, in this order, become one checked ``ServeConfig``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from target.block.pool import POOL_BYTES_MIN
from target.config.acl import acls
from target.config.admin import admin_address, admin_notes, admin_tls, admin_token, audit_log
from target.config.chap import chap_users, mutual_chap
from target.config.cluster import ENV_REDIS, check_volumes, cluster, redis_notes
from target.config.merge import Merged, Source, file_source, flag_source
from target.config.model import (
    IQN_DEFAULT,
    PORT_DEFAULT,
    ChapUser,
    LogFormat,
    LogLevel,
    Portal,
    RadosPlace,
    ServeConfig,
    TargetConfig,
    VolumeConfig,
    WorkerAway,
)
from target.config.options import Options, TargetTable, VolumeTable, field_of
from target.config.processes import processes
from target.config.scalars import (
    BUSY_POLL_MAX,
    IO_THREADS_MAX,
    choice,
    count,
    microseconds,
    on_off,
    seconds,
)
from target.config.sizes import format_size, parse_size
from target.config.stores import parse_node_store
from target.config.values import (
    check_target,
    check_volume,
    is_loopback,
    metrics_note,
    parse_iscsi_name,
    parse_metrics,
    parse_target,
    parse_target_portal,
    parse_volume,
    resolve,
)
from target.config.workers import worker_notes, worker_tls, workers

ENV_CHAP = "LUNMESH_CHAP"
ENV_MUTUAL_CHAP = "LUNMESH_MUTUAL_CHAP"

LUNS_MAX = 16384  # what flat LUN addressing can name
PORTALS_MAX = 64
TARGETS_MAX = 256  # and as many in the catalog
QUEUE_DEPTH_MAX = 1024


def load_serve_config(
    flags: Options, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> ServeConfig:
    """The configuration that a node starts with, or :class:`ConfigError`."""
    here = Path()
    sources = [flag_source(flags)]
    for variable, name in (
        (ENV_CHAP, "chap"),
        (ENV_MUTUAL_CHAP, "mutual-chap"),
        (ENV_REDIS, "redis"),
    ):
        text = (environ or {}).get(variable, "")
        if text.strip():
            value: Any = text.split() if name == "chap" else text.strip()
            options = Options(**{field_of(name): value})
            sources.append(Source(options, lambda *_, place=variable: place, here))
    if file is not None:
        sources.append(file_source(file, Options))
    return _build(Merged(sources))


def _build(merged: Merged) -> ServeConfig:
    chap = chap_users(merged)
    mutual = mutual_chap(merged, chap)
    chap_discovery = merged.one("chap-discovery", bool, False)
    if chap_discovery and not chap:
        raise merged.fail("chap-discovery", "needs a chap user")
    data_source = merged.source("data-dir")
    portals, iqn = _portals(merged), merged.one("iqn", parse_iscsi_name, IQN_DEFAULT)
    targets = _targets(merged, portals)
    of_cluster, admin = cluster(merged), admin_address(merged)
    metrics = merged.one("metrics", parse_metrics, None)
    return ServeConfig(
        data_dir=merged.one(
            "data-dir",
            lambda text: resolve(text, data_source.base if data_source else Path()),
            Path("lunmesh-data"),
        ),
        portals=portals,
        advertise=_advertise(merged),
        iqn=iqn,
        targets=targets,
        volumes=_volumes(merged, iqn, targets),
        store=_store(merged),
        workers=workers(merged),
        worker_tls=worker_tls(merged),
        worker_checksum=merged.one("worker-checksum", on_off, True),
        worker_timeout_seconds=merged.one("worker-timeout", seconds(1), 10.0),
        worker_wait_seconds=merged.one("worker-wait", seconds(0), 10.0),
        worker_away=merged.one("worker-away", choice(WorkerAway), "busy"),
        migration_rate=merged.one("migration-rate", _rate, 0),
        cluster=of_cluster,
        processes=processes(merged, of_cluster, portals, admin=admin, metrics=metrics),
        admin=admin,
        admin_token=admin_token(merged),
        admin_tls=admin_tls(merged),
        audit_log=audit_log(merged),
        metrics=metrics,
        buffer_memory_bytes=merged.one("buffer-memory", _buffer_memory, 256 << 20),
        acls=acls(merged, [iqn, *(target.name for target in targets)]),
        chap=chap,
        mutual_chap=mutual,
        chap_discovery=chap_discovery,
        write_cache=merged.one("write-cache", on_off, True),
        strict=merged.one("strict", bool, False),
        queue_depth=merged.one("queue-depth", count(QUEUE_DEPTH_MAX), 128),
        io_threads=merged.one("io-threads", count(IO_THREADS_MAX), 4),
        busy_poll_seconds=merged.one("busy-poll", microseconds(BUSY_POLL_MAX), 100e-6),
        log_level=merged.one("log-level", choice(LogLevel), "info"),
        log_format=merged.one("log-format", choice(LogFormat), "text"),
        trace=merged.one("trace", _trace, None),
        trace_ratio=merged.one("trace-ratio", _ratio, 0.001),
        login_timeout_seconds=merged.one("login-timeout", seconds(1), 15.0),
        nop_interval_seconds=merged.one("nop-interval", seconds(0), 30.0),
        nop_timeout_seconds=merged.one("nop-timeout", seconds(1), 15.0),
        shutdown_timeout_seconds=merged.one("shutdown-timeout", seconds(0), 10.0),
        notes=(*_notes(merged, portals, chap), *metrics_note(metrics)),
    )


def _trace(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be http://HOST:PORT/PATH or https://…, not {url!r}")
    if parts.username is not None or parts.password is not None:  # it would show everywhere
        raise ValueError("takes no user or password: see OTEL_EXPORTER_OTLP_HEADERS")
    try:
        good = parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("the port must be 1 to 65535")
    return url


def _ratio(given: float) -> float:
    if not 0 < given <= 1:
        raise ValueError(f"must be above 0 and at most 1, not {given:g}")
    return given


def _portals(merged: Merged) -> tuple[Portal, ...]:
    default = Portal("127.0.0.1", PORT_DEFAULT)
    portals = merged.many("portal", parse_target_portal, default)
    fixed = [portal for portal in portals if portal.port]
    merged.check_list("portal", portals, PORTALS_MAX)
    merged.check_unique("portal", [str(portal) for portal in fixed])
    return portals


def _advertise(merged: Merged) -> tuple[Portal, ...]:
    def parse(text: str, base: Path) -> Portal:
        portal = parse_target_portal(text, base)
        if portal.wildcard or not portal.port:
            raise ValueError(f"bad portal {text!r}: initiators need an address and a port")
        return portal

    if merged.source("advertise") is None:
        return ()
    portals = merged.many("advertise", parse, Portal("", 0))
    merged.check_list("advertise", portals, PORTALS_MAX)
    merged.check_unique("advertise", [str(portal) for portal in portals])
    return portals


def _targets(merged: Merged, portals: tuple[Portal, ...]) -> tuple[TargetConfig, ...]:
    def parse(item: str | TargetTable, base: Path) -> TargetConfig:
        return parse_target(item) if isinstance(item, str) else check_target(item)

    if merged.source("target") is None:
        return ()
    targets = merged.many("target", parse, TargetConfig(name=""))
    merged.check_list("target", targets, TARGETS_MAX)
    merged.check_unique("target", [target.name for target in targets])
    labels = {portal.group for portal in portals}
    for target in targets:
        if target.portal_groups and labels.isdisjoint(target.portal_groups):
            raise merged.fail("target", f"no portal leads to {target.name}: see group= of portal")
    return targets


def _volumes(
    merged: Merged, iqn: str, targets: tuple[TargetConfig, ...]
) -> tuple[VolumeConfig, ...]:
    names = {target.name for target in targets}

    def parse(item: str | VolumeTable, base: Path) -> VolumeConfig:
        volume = parse_volume(item, base) if isinstance(item, str) else check_volume(item, base)
        if volume.target == iqn:
            return msgspec.structs.replace(volume, target="")
        if volume.target and volume.target not in names:
            raise ValueError(f"volume {volume.name!r}: {volume.target} is no target: see target")
        return volume

    default = VolumeConfig(name="disk0", size_bytes=1 << 30)
    volumes = merged.many("volume", parse, default)
    merged.check_list("volume", volumes, LUNS_MAX)
    merged.check_unique("volume", [volume.name for volume in volumes])
    # The same image under two names would be two disks that corrupt one another.
    images = [os.path.realpath(volume.path) for volume in volumes if volume.path is not None]
    merged.check_unique("volume", images)
    check_volumes(merged, volumes)
    return volumes


def _store(merged: Merged) -> RadosPlace | None:
    source = merged.source("store")
    if source is None:
        return None
    store = merged.one("store", lambda text: parse_node_store(text, source.base), None)
    if store is not None and merged.source("worker") is not None:
        raise merged.fail("store", "new disks are kept there or on workers: give one of them")
    return store


def _rate(given: str | int) -> int:
    return 0 if given in (0, "0") else parse_size(given)


def _buffer_memory(given: str | int) -> int:
    nbytes = parse_size(given)
    if nbytes < POOL_BYTES_MIN:
        raise ValueError(f"{format_size(nbytes)} is below the least, {format_size(POOL_BYTES_MIN)}")
    return nbytes


def _notes(
    merged: Merged, portals: tuple[Portal, ...], chap: tuple[ChapUser, ...]
) -> tuple[str, ...]:
    notes = []
    for name in ("chap", "mutual-chap"):
        source = merged.source(name)
        if source is not None and source.place(name) == f"--{name}":
            notes.append(f"the secret behind --{name} shows in the process list: use {name}-file")
    if not chap:
        notes += [
            f"portal {portal} is open to everybody who reaches it: no chap user is configured"
            for portal in portals
            if not is_loopback(portal)
        ]
    return (*notes, *redis_notes(merged), *worker_notes(merged), *admin_notes(merged))
