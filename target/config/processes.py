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
    merged: Merged,
    cluster: ClusterConfig | None,
    portals: Sequence[Portal],
    **told: Portal | None,
) -> int:
    """1: this one alone.  ``told`` are addresses from which each takes the next port, by name.

    Raises ConfigError.
    """
    number = merged.one("processes", count(PROCESSES_MAX), 1)
    if number == 1:
        return 1
    if cluster is None:
        raise merged.fail(
            "processes", "several of them are nodes of a cluster: give redis and worker"
        )
    if cluster.node_id is not None and len(cluster.node_id) > NODE_ID_CHARS_MAX:
        raise merged.fail("node-id", f"at most {NODE_ID_CHARS_MAX} characters with processes")
    for name, first in told.items():
        if first is not None and first.port:
            _check_ports(merged, name, first, number, portals)
    return number


def _check_ports(
    merged: Merged, name: str, first: Portal, number: int, portals: Sequence[Portal]
) -> None:
    """Whether each process has one of its own from ``first`` on."""
    last = first.port + number - 1
    if last > PORT_MAX:
        raise merged.fail("processes", f"no {name} port for each of them: {first}")
    for portal in portals:
        if first.port <= portal.port <= last and (portal.wildcard or portal.host == first.host):
            raise merged.fail(
                "processes", f"portal {portal} is in the way of {name} ports up to {last}"
            )
