"""What a cluster holds at a moment when nobody asks it for anything."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.procstat import memory_bytes
from tests.chaos.cluster import Cluster, Member, Node
from tests.support.scrape import Samples, scrape

MIB = 1 << 20
CHURNED = "churned"  # the volume that comes and goes
QUIET_SECONDS = 40.0  # by then all that was in doubt is settled
_PACE_SECONDS = 0.1

Held = dict[str, float]


def wait_until_quiet(cluster: Cluster) -> None:
    """Until no node has a session, a command, a buffer or an I/O of its own left.

    Raises TimeoutError with what is left.
    """
    deadline = time.monotonic() + QUIET_SECONDS
    for node in cluster.nodes:
        while left := {name: count for name, count in _in_use(node).items() if count}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{node.server.stderr_path.parent.name} still has {left}")
            time.sleep(_PACE_SECONDS)


def _in_use(node: Node) -> Held:
    try:
        found: Samples = scrape(node.server.admin)
    except OSError:  # it begins a new life: the others had shut it out
        return {"no answer": 1}
    return {
        "sessions": sum(found.values("iscsi_sessions")),
        "commands": sum(found.values("scsi_tasks")),
        "buffer bytes": found.gauge("buffer_bytes", what="used"),
        "I/Os at workers": sum(found.values("worker_unanswered")),
        "I/Os for workers": sum(found.values("worker_waiting")),
    }


def take(cluster: Cluster) -> Held:
    """Memory, descriptors and threads of every process, what Redis has, and files."""
    held: Held = {}
    for number, node in enumerate(cluster.nodes):
        held[f"node {number} tasks"] = scrape(node.server.admin).gauge("asyncio_tasks")
    for number, member in enumerate(cluster.members):
        held[f"worker {number} tasks"] = scrape(member.metrics).gauge("asyncio_tasks")
    for name, pid, folder in _processes(cluster):
        held[f"{name} MiB"] = memory_bytes((pid,)) / MIB
        held[f"{name} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        held[f"{name} threads"] = len(os.listdir(f"/proc/{pid}/task"))
        held[f"{name} files"] = sum(
            path.is_file() and CHURNED not in path.parts for path in folder.rglob("*")
        )
    assert cluster.redis is not None, "several nodes have one"
    redis = cluster.redis.client()
    held["redis keys"] = sum(not key.startswith(_OF_NODES) for key in redis.scan_iter())
    held["redis MiB"] = redis.info("memory")["used_memory"] / MIB
    redis.close()
    return held


def _processes(cluster: Cluster) -> Iterator[tuple[str, int, Path]]:
    for number, node in enumerate(cluster.nodes):
        yield f"node {number}", node.server.pid, node.server.data_dir
    for number, member in enumerate(cluster.members):
        yield f"worker {number}", member.worker.pid, _folder_of(member)


def left_on_workers(cluster: Cluster) -> int:
    """Shares of volumes that no node has any more."""
    return sum(
        path.name == CHURNED
        for member in cluster.members
        for path in (_folder_of(member) / "volumes").iterdir()
    )


def _folder_of(member: Member) -> Path:
    return Path(member.worker.store.removeprefix("file:"))


# What nodes write down of themselves: as much as there are nodes, from the first time on that they
# had something to tell.
_OF_NODES = (b"lunmesh:{counters.", b"lunmesh:{sessions.")
_ALLOWED: dict[str, Callable[[float], float]] = {
    "MiB": lambda before: before + 32,  # a node's pool may not all have been in use yet
    "descriptors": lambda before: before + 8,  # connections that are just being made
    "tasks": lambda before: before + 8,  # calls that are just being answered
    "threads": lambda before: before + 8,  # pools that are not at their bound yet
    "files": lambda before: before + 1,  # of the volume's reservations, once there have been any
    "keys": lambda before: before + 4,
}


def grown(before: Held, after: Held) -> list[str]:
    """What is more than it may be; a line each."""
    return [
        f"{name}: {before[name]:.0f} before, {count:.0f} after"
        for name, count in after.items()
        if count > _ALLOWED[name.split()[-1]](before[name])
    ]
