"""What keeps volumes, as ``--store`` names it."""

from __future__ import annotations

from pathlib import Path

from target.config.model import RadosPlace
from target.config.values import resolve

CEPH_CONF = Path("/etc/ceph/ceph.conf")


def parse_rados(text: str, base: Path) -> RadosPlace:
    """What stands behind ``rados:``.  Raises ValueError."""
    place, mark, option = text.partition("?")
    pool, at, conf = place.partition("@")
    key, _, user = option.partition("=")
    if not pool or (at and not conf) or (mark and (key != "id" or not user)):
        raise ValueError(f"bad pool 'rados:{text}': write rados:POOL[@CONF][?id=NAME]")
    return RadosPlace(pool=pool, conf=resolve(conf, base) if at else CEPH_CONF, user=user)


def parse_node_store(text: str, base: Path) -> RadosPlace | None:
    """Where a node itself keeps new volumes; None: in its data directory.  Raises ValueError."""
    if text == "file":
        return None
    kind, colon, rest = text.partition(":")
    if kind != "rados" or not colon:
        raise ValueError(f"bad store {text!r}: write file or rados:POOL[@CONF][?id=NAME]")
    return parse_rados(rest, base)
