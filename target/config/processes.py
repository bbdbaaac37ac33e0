"""How many processes serve behind the portals, and what that asks of the other options."""

from __future__ import annotations

from collections.abc import Sequence

from target.config.merge import Merged
from target.config.model import ClusterConfig, Portal
from target.config.scalars import count

PROCESSES_MAX = 64
NODE_ID_CHARS_MAX = 60  # "-64" comes behind it
PORT_MAX = 65535


def processes(
    merged: Merged, cluster: ClusterConfig | None, admin: Portal | None, portals: Sequence[Portal]
) -> int:
    """1: this one alone.  Raises ConfigError."""
    number = merged.one("processes", count(PROCESSES_MAX), 1)
    if number == 1:
        return 1
    if cluster is None:
        raise merged.fail(
            "processes", "several of them are nodes of a cluster: give redis and worker"
        )
    if cluster.node_id is not None and len(cluster.node_id) > NODE_ID_CHARS_MAX:
        raise merged.fail("node-id", f"at most {NODE_ID_CHARS_MAX} characters with processes")
    if admin is not None and admin.port:
        last = admin.port + number - 1
        if last > PORT_MAX:
            raise merged.fail("processes", f"no port for each of their admin APIs: {admin}")
        for portal in portals:
            if admin.port <= portal.port <= last and (portal.wildcard or portal.host == admin.host):
                raise merged.fail(
                    "processes", f"portal {portal} is in the way of admin ports up to {last}"
                )
    return number
