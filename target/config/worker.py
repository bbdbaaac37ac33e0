"""What ``lunmesh worker`` is told, parsed and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from target.config.cluster import ENV_REDIS, redis_notes, redis_url
from target.config.errors import ConfigError, did_you_mean
from target.config.merge import Merged, Source, file_source, flag_source
from target.config.model import LogFormat, LogLevel, Portal, RadosPlace
from target.config.options import WorkerOptions
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
from target.config.stores import parse_rados
from target.config.values import (
    is_loopback,
    metrics_note,
    parse_metrics,
    parse_portal,
    resolve,
    unix_path,
)
from workers.buffers import BUFFER_BYTES_MIN
from workers.client_names import parse_client_name
from workers.fault_store import Faults, parse_faults

STORES = ("file:DIR", "memory:", "rados:POOL[@CONF]")


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker may be told."""

    address: str  # as gRPC writes them: HOST:PORT, [IPv6]:PORT, unix:PATH
    store: Path | RadosPlace | None  # a directory of files, a pool of Ceph's, or memory
    buffer_memory_bytes: int
    io_threads: int
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None  # clients must show a certificate that it has signed
    tls_client_name: str | None  # for that name
    checksum: bool  # CRC32C of payload
    direct_reads: bool  # nodes on this machine may read files of the store themselves
    busy_poll_seconds: float  # a node with one I/O at a time is waited for; 0: not at all
    redis: str | None  # of the nodes: which epochs of theirs are over; None: as it was told itself
    metrics: Portal | None  # where it tells what it does; None: nowhere
    faults: Faults | None
    shutdown_timeout_seconds: float
    log_level: LogLevel
    log_format: LogFormat
    notes: tuple[str, ...] = ()


def load_worker_config(
    flags: WorkerOptions, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> WorkerConfig:
    """The configuration that a worker starts with, or :class:`ConfigError`."""
    sources = [flag_source(flags)]
    if url := (environ or {}).get(ENV_REDIS, "").strip():
        sources.append(Source(WorkerOptions(redis=url), lambda *_: ENV_REDIS, Path()))
    if file is not None:
        sources.append(file_source(file, WorkerOptions))
    return _build(Merged(sources))


def _build(merged: Merged) -> WorkerConfig:
    given = merged.source("listen")
    if given is None:
        raise ConfigError("--listen: say where, HOST:PORT or unix:PATH")
    if merged.source("store") is None:
        raise ConfigError(f"--store: say what keeps the volumes, {_either(STORES)}")
    address, local = merged.one("listen", lambda text: _address(text, given.base), ("", True))
    certificate, key, ca = (_path(merged, f"tls-{name}") for name in ("cert", "key", "ca"))
    if (certificate is None) != (key is None):
        lacks = "tls-cert" if key is None else "tls-key"
        raise merged.fail(lacks, "give tls-cert and tls-key, or neither")
    if ca is not None and certificate is None:
        raise merged.fail("tls-ca", "needs tls-cert and tls-key")
    name = merged.one("tls-client-name", parse_client_name, None)
    if name is not None and ca is None:
        raise merged.fail("tls-client-name", "needs tls-ca")
    if certificate is not None and address.startswith("unix:"):
        raise merged.fail("tls-cert", "a Unix socket is without TLS: nodes use none there")
    if not local and certificate is None and not merged.one("insecure", bool, False):
        raise merged.fail(
            "listen",
            f"{address} is reached from other machines: give --tls-cert, --tls-key and --tls-ca, "
            "or --insecure if everybody there may read and write the volumes",
        )
    notes = []
    if not local and ca is None:
        notes.append(f"everybody who reaches {address} may read and write the volumes")
    redis = merged.one("redis", redis_url, None)
    metrics = merged.one("metrics", parse_metrics, None)
    notes += [*redis_notes(merged), *metrics_note(metrics)]
    faults = merged.one("fault", _faults, None)
    if faults is not None:
        notes.append(f"faults are injected: {faults[0]}")
    store = merged.source("store")
    return WorkerConfig(
        address=address,
        store=merged.one("store", lambda text: _store(text, store.base if store else Path()), None),
        buffer_memory_bytes=merged.one("buffer-memory", _buffer_memory, 256 << 20),
        io_threads=merged.one("io-threads", count(IO_THREADS_MAX), 8),
        tls_cert=certificate,
        tls_key=key,
        tls_ca=ca,
        tls_client_name=name,
        checksum=merged.one("checksum", on_off, True),
        direct_reads=merged.one("direct-reads", on_off, True),
        busy_poll_seconds=merged.one("busy-poll", microseconds(BUSY_POLL_MAX), 300e-6),
        redis=redis,
        metrics=metrics,
        faults=faults[1] if faults is not None else None,
        shutdown_timeout_seconds=merged.one("shutdown-timeout", seconds(0), 10.0),
        log_level=merged.one("log-level", choice(LogLevel), "info"),
        log_format=merged.one("log-format", choice(LogFormat), "text"),
        notes=tuple(notes),
    )


def _address(text: str, base: Path) -> tuple[str, bool]:
    """(as gRPC writes it, whether only this machine reaches it)."""
    if text.startswith("unix:"):
        return f"unix:{unix_path(text.removeprefix('unix:'), base)}", True
    if not re.search(r":\d+$", text):
        raise ValueError(f"bad address {text!r}: write HOST:PORT, [IPv6]:PORT or unix:PATH")
    portal = parse_portal(text)
    return str(portal), is_loopback(portal)


def _store(text: str, base: Path) -> Path | RadosPlace | None:
    kind, colon, rest = text.partition(":")
    if kind == "memory" and colon and not rest:
        return None
    if kind == "file" and rest:
        return resolve(rest, base)
    if kind == "rados" and rest:
        return parse_rados(rest, base)
    kinds = ("file", "memory", "rados")
    raise ValueError(f"bad store {text!r}: write {_either(STORES)}{did_you_mean(kind, kinds)}")


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _path(merged: Merged, name: str) -> Path | None:
    source = merged.source(name)
    base = source.base if source is not None else Path()
    return merged.one(name, lambda text: resolve(text, base), None)


def _faults(text: str) -> tuple[str, Faults]:
    return text, parse_faults(text)


def _buffer_memory(given: str | int) -> int:
    nbytes = parse_size(given)
    if nbytes < BUFFER_BYTES_MIN:
        least = format_size(BUFFER_BYTES_MIN)
        raise ValueError(f"{format_size(nbytes)} is below the least, {least}")
    return nbytes
