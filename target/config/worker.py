"""What ``lunmesh worker`` is told, parsed and checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from target.config.errors import ConfigError, did_you_mean
from target.config.load import IO_THREADS_MAX, SECONDS_MAX
from target.config.model import LogFormat, LogLevel
from target.config.sizes import format_size, parse_size
from target.config.values import is_loopback, parse_portal, resolve, unix_path
from workers.buffers import BUFFER_BYTES_MIN
from workers.fault_store import Faults, parse_faults

STORES = ("file:DIR", "memory:", "rados:POOL[@CONF]")
CEPH_CONF = Path("/etc/ceph/ceph.conf")
T = TypeVar("T")


class WorkerFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags as they come; None: not given."""

    listen: str | None = None
    store: str | None = None
    buffer_memory: str | None = None
    io_threads: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    insecure: bool = False
    checksum: str | None = None
    fault: str | None = None
    shutdown_timeout: str | None = None
    log_level: str | None = None
    log_format: str | None = None


class RadosPool(msgspec.Struct, frozen=True, kw_only=True):
    """``rados:POOL[@CONF][?id=NAME]``"""

    pool: str
    conf: Path
    user: str  # cephx: client.NAME; empty: the one that Ceph takes by itself, client.admin


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker may be told."""

    address: str  # as gRPC writes them: HOST:PORT, [IPv6]:PORT, unix:PATH
    store: Path | RadosPool | None  # a directory of files, a pool of Ceph's, or memory
    buffer_memory_bytes: int
    io_threads: int
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None  # clients must show a certificate that it has signed
    checksum: bool  # CRC32C of payload
    faults: Faults | None
    shutdown_timeout_seconds: float
    log_level: LogLevel
    log_format: LogFormat
    notes: tuple[str, ...] = ()


def load_worker_config(flags: WorkerFlags) -> WorkerConfig:
    """The configuration that a worker starts with, or :class:`ConfigError`."""
    if flags.listen is None:
        raise ConfigError("--listen: say where, HOST:PORT or unix:PATH")
    if flags.store is None:
        raise ConfigError(f"--store: say what keeps the volumes, {_either(STORES)}")
    address, local = _at("listen", _address, flags.listen)
    certificate = _at("tls-cert", _path, flags.tls_cert)
    key = _at("tls-key", _path, flags.tls_key)
    ca = _at("tls-ca", _path, flags.tls_ca)
    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key: give both or neither")
    if ca is not None and certificate is None:
        raise ConfigError("--tls-ca: needs --tls-cert and --tls-key")
    if not local and certificate is None and not flags.insecure:
        raise ConfigError(
            f"--listen: {flags.listen} is reached from other machines: give --tls-cert, --tls-key "
            "and --tls-ca, or --insecure if everybody there may read and write the volumes"
        )
    notes = []
    if not local and ca is None:
        notes.append(f"everybody who reaches {flags.listen} may read and write the volumes")
    faults = None if flags.fault is None else _at("fault", parse_faults, flags.fault)
    if faults is not None:
        notes.append(f"faults are injected: {flags.fault}")
    return WorkerConfig(
        address=address,
        store=_at("store", _store, flags.store),
        buffer_memory_bytes=_at("buffer-memory", _buffer_memory, flags.buffer_memory or "256M"),
        io_threads=int(_at("io-threads", _number(1, IO_THREADS_MAX, int), flags.io_threads or "4")),
        tls_cert=certificate,
        tls_key=key,
        tls_ca=ca,
        checksum=_at("checksum", _choice(("on", "off")), flags.checksum or "on") == "on",
        faults=faults,
        shutdown_timeout_seconds=_at(
            "shutdown-timeout", _number(0, SECONDS_MAX, float), flags.shutdown_timeout or "10"
        ),
        log_level=_at("log-level", _choice(get_args(LogLevel)), flags.log_level or "info"),
        log_format=_at("log-format", _choice(get_args(LogFormat)), flags.log_format or "text"),
        notes=tuple(notes),
    )


def _at(name: str, parse: Callable[[Any], T], given: Any) -> T:
    try:
        return parse(given)
    except ValueError as exc:
        raise ConfigError(f"--{name}: {exc}") from exc


def _address(text: str) -> tuple[str, bool]:
    """(as gRPC writes it, whether only this machine reaches it)."""
    if text.startswith("unix:"):
        return f"unix:{unix_path(text.removeprefix('unix:'))}", True
    if not re.search(r":\d+$", text):
        raise ValueError(f"bad address {text!r}: write HOST:PORT, [IPv6]:PORT or unix:PATH")
    portal = parse_portal(text)
    return str(portal), is_loopback(portal)


def _store(text: str) -> Path | RadosPool | None:
    kind, colon, rest = text.partition(":")
    if kind == "memory" and colon and not rest:
        return None
    if kind == "file" and rest:
        return resolve(rest, Path())
    if kind == "rados" and rest:
        return _rados(rest)
    kinds = ("file", "memory", "rados")
    raise ValueError(f"bad store {text!r}: write {_either(STORES)}{did_you_mean(kind, kinds)}")


def _rados(text: str) -> RadosPool:
    place, mark, option = text.partition("?")
    pool, at, conf = place.partition("@")
    key, _, user = option.partition("=")
    if not pool or (at and not conf) or (mark and (key != "id" or not user)):
        raise ValueError(f"bad pool 'rados:{text}': write rados:POOL[@CONF][?id=NAME]")
    return RadosPool(pool=pool, conf=resolve(conf, Path()) if at else CEPH_CONF, user=user)


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _path(text: str | None) -> Path | None:
    return None if text is None else resolve(text, Path())


def _buffer_memory(text: str) -> int:
    nbytes = parse_size(text)
    if nbytes < BUFFER_BYTES_MIN:
        least = format_size(BUFFER_BYTES_MIN)
        raise ValueError(f"{format_size(nbytes)} is below the least, {least}")
    return nbytes


def _number(least: float, most: float, kind: type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f"must be {least:g} to {most:g}, not {text!r}")
        return value

    return parse


def _choice(words: tuple[str, ...]) -> Callable[[str], Any]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(
                f"must be one of {', '.join(words)}, not {text!r}{did_you_mean(text, words)}"
            )
        return text

    return parse
