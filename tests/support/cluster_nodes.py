"""A node of a cluster, in the event loop that runs: its clock, long leases, nobody listening."""

from __future__ import annotations

import asyncio

from target.cluster.ending import ended
from target.cluster.node import ClusterNode
from target.cluster.registry import Registry
from tests.simulation.world import SILENT

SECONDS = 5.0  # of a lease, and that a command waits


def cluster_node(registry: Registry, name: str) -> ClusterNode:
    """One that has not joined."""
    loop = asyncio.get_running_loop()
    return ClusterNode(
        lambda notices: registry,
        name,
        lease_seconds=SECONDS,
        wait_seconds=SECONDS,
        clock=loop.time,
        wall=loop.time,
        log=SILENT,
        on_fenced=lambda: None,
        on_stalled=lambda: None,
    )


async def end_silently(node: ClusterNode) -> None:
    """Without a word, as a process that is killed."""
    node.over = True
    for tracker in node.trackers.values():
        await tracker.abandon()
    await ended(*node._tasks)
