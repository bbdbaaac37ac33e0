"""What keeps volumes, as ``--store`` names it."""

from __future__ import annotations

from pathlib import Path

from target.config.model import RadosPlace
from target.config.sizes import format_size, parse_size
from target.config.values import resolve

CEPH_CONF = Path("/etc/ceph/ceph.conf")
CACHE_BYTES_MIN, CACHE_BYTES_MAX = 1 << 20, 1 << 30
RADOS = "rados:POOL[@CONF][?id=NAME]"
NODE_RADOS = "rados:POOL[@CONF][?id=NAME][&cache=SIZE]"


def parse_rados(text: str, base: Path, *, cached: bool = False) -> RadosPlace:
    """What stands behind ``rados:``; with ``cached`` there may be a cache.  Raises ValueError."""
    place, mark, options = text.partition("?")
    pool, at, conf = place.partition("@")
    said = {"id": "", **({"cache": "0"} if cached else {})}
    given = [option.partition("=") for option in options.split("&")] if mark else []
    good = all(key in said and value for key, _, value in given)
    good = good and len({key for key, _, _ in given}) == len(given)
    if not pool or (at and not conf) or not good:
        raise ValueError(f"bad pool 'rados:{text}': write {NODE_RADOS if cached else RADOS}")
    said |= {key: value for key, _, value in given}
    cache_bytes = parse_size(said["cache"]) if said.get("cache", "0") != "0" else 0
    if cache_bytes and not CACHE_BYTES_MIN <= cache_bytes <= CACHE_BYTES_MAX:
        least, most = format_size(CACHE_BYTES_MIN), format_size(CACHE_BYTES_MAX)
        raise ValueError(f"cache must be 0, or {least} to {most}")
    return RadosPlace(
        pool=pool,
        conf=resolve(conf, base) if at else CEPH_CONF,
        user=said["id"],
        cache_bytes=cache_bytes,
    )


def parse_node_store(text: str, base: Path) -> RadosPlace | None:
    """Where a node itself keeps new volumes; None: in its data directory.  Raises ValueError."""
    if text == "file":
        return None
    kind, colon, rest = text.partition(":")
    if kind != "rados" or not colon:
        raise ValueError(f"bad store {text!r}: write file or {NODE_RADOS}")
    return parse_rados(rest, base, cached=True)
