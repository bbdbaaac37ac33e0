"""Values as people write them: portals, iSCSI names, volumes.

Each parser takes what was written and returns what is meant, or raises ``ValueError`` with half a
sentence; the caller puts the place in front of it.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from target.block.worker_address import WORKER_PORT_DEFAULT, WorkerAddress
from target.config.errors import did_you_mean
from target.config.model import PORT_DEFAULT, Portal, TargetConfig, VolumeConfig
from target.config.options import TargetTable, VolumeTable
from target.config.sizes import format_size, parse_size

NAME_CHARS_MAX = 64
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VOLUME_OPTIONS = ("block", "chunk", "readonly", "target")
GROUP_CHARS_MAX = 32
TARGET_GROUPS_MAX = 64
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BLOCK_BYTES = (512, 4096)
CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_MAX = 64 << 20

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_IQN = re.compile(r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?")
_EUI = re.compile(r"eui\.[0-9A-Fa-f]{16}")
_NAA = re.compile(r"naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32})")
UNIX_PATH_BYTES_MAX = 107  # sockaddr_un
ISCSI_NAME_BYTES_MAX = 223  # RFC 7143, 4.2.7.1


def parse_portal(text: str, port_default: int = PORT_DEFAULT) -> Portal:
    """``HOST:PORT``, ``[v6]:PORT``; without a port, iSCSI's own."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_ipv6(host) or not (rest == "" or rest.startswith(":")):
            raise ValueError(f"bad portal {text!r}: write an IPv6 one as [::1]:{port_default}")
        return Portal(host, _port(text, rest[1:]) if rest else port_default)
    if text.count(":") > 1:
        raise ValueError(
            f"bad portal {text!r}: put an IPv6 address in brackets, [::1]:{port_default}"
        )
    host, colon, port = text.partition(":")
    if not _HOST.fullmatch(host) or (_looks_numeric(host) and not _is_ipv4(host)):
        raise ValueError(f"bad portal {text!r}: write HOST:PORT or [IPv6]:PORT")
    return Portal(host, _port(text, port) if colon else port_default)


def parse_metrics(given: str | int) -> Portal:
    """``HOST:PORT``; a port alone is one of this machine only."""
    text = str(given)
    if text.isdigit():
        text = f"127.0.0.1:{text}"
    if not re.search(r":\d+$", text):
        raise ValueError(f"bad address {text!r}: write PORT, HOST:PORT or [IPv6]:PORT")
    return parse_portal(text)


def metrics_note(address: Portal | None) -> list[str]:
    """What deserves a warning of it."""
    if address is None or is_loopback(address):
        return []
    return [f"everybody who reaches {address} may read what this process does, not its data"]


def parse_target_portal(text: str, base: Path = Path()) -> Portal:
    """``HOST:PORT[,group=NAME]``: one that initiators use."""
    address, *extras = text.split(",")
    portal = parse_portal(address)
    for extra in extras:
        key, equals, value = extra.partition("=")
        if key != "group" or not equals or portal.group:
            raise ValueError(f"bad portal {text!r}: write HOST:PORT or HOST:PORT,group=NAME")
        portal = Portal(portal.host, portal.port, parse_group(value))
    return portal


def parse_group(text: str) -> str:
    """The label of a portal group."""
    if len(text) > GROUP_CHARS_MAX or not _GROUP.fullmatch(text):
        raise ValueError(
            f"bad portal group {text[:80]!r}: use up to {GROUP_CHARS_MAX} letters, digits, '.',"
            " '_' and '-', beginning with a letter or digit"
        )
    return text


def parse_target(text: str) -> TargetConfig:
    """``IQN[,portal-group=NAME]…``"""
    name, *extras = text.split(",")
    groups = []
    for extra in extras:
        key, equals, value = extra.partition("=")
        if key != "portal-group" or not equals:
            raise ValueError(f"target {name!r}: unknown option {extra!r}: write portal-group=NAME")
        groups.append(value)
    return check_target(TargetTable(name=name, portal_group=groups))


def check_target(table: TargetTable) -> TargetConfig:
    """What the string form and the table form of a target have in common."""
    groups = table.portal_group
    groups = [groups] if isinstance(groups, str) else groups
    if len(groups) > TARGET_GROUPS_MAX:
        raise ValueError(f"target {table.name!r}: at most {TARGET_GROUPS_MAX} portal groups")
    return TargetConfig(
        name=parse_iscsi_name(table.name),
        portal_groups=tuple(dict.fromkeys(map(parse_group, groups))),
    )


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"bad portal {text!r}: the port must be 0 to 65535")
    return int(port)


def _looks_numeric(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)  # a scope (fe80::1%eth0) belongs to it
    except ValueError:
        return False
    return True


def is_loopback(portal: Portal) -> bool:
    """Whether only this machine reaches it, as far as the name tells."""
    if portal.host == "localhost":
        return True
    return (_is_ipv4(portal.host) or _is_ipv6(portal.host)) and ipaddress.ip_address(
        portal.host
    ).is_loopback


def unix_path(text: str, base: Path = Path()) -> str:
    """The absolute path of a Unix socket that gRPC can be told."""
    path = str(resolve(text, base).absolute())
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise ValueError(f"{path} is too long for a socket: {UNIX_PATH_BYTES_MAX} bytes at most")
    if set(path) & set(",%"):  # several addresses, and an escape, to gRPC
        raise ValueError(f"{path}: a socket's path must be without , and %")
    return path


def parse_worker(text: str, base: Path = Path()) -> WorkerAddress:
    """``HOST:PORT``, ``[v6]:PORT``, without a port the workers' own; ``unix:PATH``."""
    if text.startswith("unix:"):
        try:
            return WorkerAddress(unix_path=unix_path(text.removeprefix("unix:"), base))
        except ValueError as exc:
            raise ValueError(f"bad worker {text!r}: {exc}") from exc
    try:
        portal = parse_portal(text, WORKER_PORT_DEFAULT)
    except ValueError as exc:
        raise ValueError(str(exc).replace("bad portal", "bad worker")) from exc
    if not portal.port:
        raise ValueError(f"bad worker {text!r}: the port must be 1 to 65535")
    return WorkerAddress(portal.host, portal.port)


def parse_iscsi_name(text: str) -> str:
    """An ``iqn.``, ``eui.`` or ``naa.`` name, as RFC 7143 chapter 4.2.7 has them."""
    if len(text.encode()) > ISCSI_NAME_BYTES_MAX:
        raise ValueError(f"bad iSCSI name: longer than {ISCSI_NAME_BYTES_MAX} bytes")
    if _IQN.fullmatch(text) or _EUI.fullmatch(text) or _NAA.fullmatch(text):
        return text
    if _IQN.fullmatch(text.lower()):
        raise ValueError(f"bad iSCSI name {text!r}: write it in lower case")
    raise ValueError(
        f"bad iSCSI name {text!r}: write iqn.YYYY-MM.reversed.domain:name, eui.… or naa.…"
    )


def parse_volume(text: str, base: Path) -> VolumeConfig:
    """``NAME=SIZE[,block=…][,chunk=SIZE][,readonly][,target=IQN]``, ``NAME=/path/to/image…``."""
    name, equals, rest = text.partition("=")
    if not equals:
        raise ValueError(f"bad volume {text!r}: write NAME=SIZE or NAME=/path/to/image")
    what, *extras = rest.split(",")
    block, chunk, readonly, target = 512, "4M", False, ""
    for extra in extras:
        key, equals, value = extra.partition("=")
        if key == "readonly" and not equals:
            readonly = True
        elif key == "block" and equals:
            if not (value.isascii() and value.isdigit()):
                raise ValueError(f"volume {name!r}: block must be 512 or 4096, not {value!r}")
            block = int(value)
        elif key == "chunk" and equals:
            chunk = value
        elif key == "target" and equals:
            target = value
        elif key in VOLUME_OPTIONS:
            raise ValueError(
                f"volume {name!r}: write "
                + ("readonly alone" if key == "readonly" else f"{key}=VALUE")
            )
        else:
            raise ValueError(
                f"volume {name!r}: unknown option {extra!r}{did_you_mean(key, VOLUME_OPTIONS)}"
            )
    is_path = "/" in what
    table = VolumeTable(
        name=name,
        size=None if is_path else what,
        path=what if is_path else None,
        block=block,
        chunk=chunk,
        readonly=readonly,
        target=target,
    )
    return check_volume(table, base)


def check_volume(table: VolumeTable, base: Path) -> VolumeConfig:
    """What the string form and the table form of a volume have in common."""
    name = table.name
    if len(name) > NAME_CHARS_MAX or not _VOLUME_NAME.fullmatch(name):
        raise ValueError(
            f"bad volume name {name[:80]!r}: use up to {NAME_CHARS_MAX} letters, digits, '.', '_' "
            "and '-', beginning with a letter or digit"
        )
    if table.target:
        parse_iscsi_name(table.target)
    if table.block not in BLOCK_BYTES:
        raise ValueError(f"volume {name!r}: block must be 512 or 4096, not {table.block}")
    try:
        chunk_bytes = parse_size(table.chunk)
        size_bytes = None if table.size is None else parse_size(table.size)
        path = None if table.path is None else resolve(table.path, base)
    except ValueError as exc:
        raise ValueError(f"volume {name!r}: {exc}") from exc
    if chunk_bytes & (chunk_bytes - 1) or not CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX:
        raise ValueError(f"volume {name!r}: chunk must be a power of two from 64K to 64M")
    if (size_bytes is None) == (path is None):
        raise ValueError(f"volume {name!r}: give either a size or the path of an image")
    if size_bytes is not None and size_bytes < table.block:
        raise ValueError(
            f"volume {name!r}: {format_size(size_bytes)} is smaller than one block of {table.block}"
        )
    if size_bytes is not None and size_bytes % table.block:
        raise ValueError(
            f"volume {name!r}: {size_bytes} bytes is no multiple of its {table.block}-byte blocks"
        )
    return VolumeConfig(
        name=name,
        size_bytes=size_bytes,
        path=path,
        block_bytes=table.block,
        chunk_bytes=chunk_bytes,
        readonly=table.readonly,
        target=table.target,
    )


def resolve(text: str, base: Path) -> Path:
    """A path as written, seen from ``base``."""
    if not text or "\0" in text:
        raise ValueError("bad path: empty" if not text else "bad path: it holds a NUL character")
    try:
        return base / Path(text).expanduser()
    except RuntimeError as exc:  # ~nobody
        raise ValueError(f"bad path {text!r}: {exc}") from exc
