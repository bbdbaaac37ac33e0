"""The processes of a chaos run: nodes, their workers, Redis, what lies between and under them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer, ServerError, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.small_disk import CannotMount, SmallDisk

FILE_WORKERS = 3
RADOS_WORKERS = 2
VOLUME_BYTES = 192 << 20
CHUNK_BYTES = 64 << 10  # so that many commands cross workers
DISK_BYTES = 96 << 20  # room for a worker's share
# --worker-timeout: over files so short that commands end in doubt, over RADOS so long that they go
# to another worker.
FILE_WORKER_SECONDS = 1.5
RADOS_WORKER_SECONDS = 15.0
LEASE_SECONDS = 1.0  # --lease; client.py wants it shorter than its pings
WAIT_SECONDS = 3.0  # --cluster-wait
START_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, the connections of all nodes to it, and its disk, where one could be mounted."""

    worker: LunmeshWorker
    relay: Relay
    disk: SmallDisk | None
    metrics: str  # HOST:PORT


@dataclass(frozen=True, slots=True)
class Node:
    """A node that serves the volume as LUN 0; one of several has its own way to Redis."""

    name: str
    server: LunmeshServer
    to_redis: Relay | None

    def start(self) -> None:
        """As a service manager does: it is started again if Redis was away."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.server.start()
                return
            except ServerError as exc:
                if "Redis" not in str(exc).splitlines()[-1] or time.monotonic() > deadline:
                    raise

    def end(self) -> None:
        """SIGTERM, after which it has to end well."""
        if status := self.server.stop():
            said = self.server.stderr()[-3000:]
            raise AssertionError(f"{self.name}: exit status {status} after SIGTERM:\n{said}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """All of it runs; there is no Redis for one node."""

    nodes: list[Node]
    members: list[Member]
    redis: RedisServer | None
    worker_seconds: float  # that a command waits for a worker
    no_disks: str  # why there are no disks to fill
    ceph: CephCluster | None  # where the chunks are; None: in files of the workers


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    nodes: int = 1,
    ceph: CephCluster | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Everything runs; at the end everything has ended and is unmounted.

    ``arguments`` are further flags of the nodes.
    """
    with contextlib.ExitStack() as stack:
        members: list[Member] = []
        if ceph is not None:
            seconds, no_disks = RADOS_WORKER_SECONDS, "the chunks are in RADOS"
            store = f"rados:{ceph.create_pool()}@{ceph.conf}"
            for number in range(RADOS_WORKERS):
                members.append(_member(stack, folder / f"worker{number}", store, None))
        else:
            seconds, no_disks = FILE_WORKER_SECONDS, ""
            for number in range(FILE_WORKERS):
                disk: SmallDisk | None = None
                try:
                    disk = stack.enter_context(SmallDisk(folder / f"disk{number}", DISK_BYTES))
                except CannotMount as exc:
                    no_disks = str(exc)
                place = disk.folder if disk is not None else folder / f"store{number}"
                store = f"file:{place}/worker"
                members.append(_member(stack, folder / f"worker{number}", store, disk))
        flags = ["--worker-timeout", str(seconds), *arguments]
        for member in members:
            flags += ["--worker", f"{member.relay.host}:{member.relay.port}"]
        redis = None
        if nodes > 1:
            redis = stack.enter_context(RedisServer(folder / "redis", port=free_port()))
        running = [_node(stack, folder, number, flags, redis) for number in range(nodes)]
        yield Cluster(running, members, redis, seconds, no_disks, ceph)


def _member(
    stack: contextlib.ExitStack, folder: Path, store: str, disk: SmallDisk | None
) -> Member:
    port, metrics = free_port(), f"127.0.0.1:{free_port()}"
    worker = LunmeshWorker(
        folder,
        listen=f"127.0.0.1:{port}",
        store=store,
        arguments=["--buffer-memory", "32M", "--metrics", metrics],
    )
    stack.enter_context(worker)
    relay = stack.enter_context(Relay("127.0.0.1", port, keep=False))
    return Member(worker, relay, disk, metrics)


def _node(
    stack: contextlib.ExitStack,
    folder: Path,
    number: int,
    flags: list[str],
    redis: RedisServer | None,
) -> Node:
    name, to_redis = f"node{number}", None
    if redis is not None:
        to_redis = stack.enter_context(Relay("127.0.0.1", redis.port, keep=False))
        flags = [
            *flags,
            *("--redis", f"redis://127.0.0.1:{to_redis.port}", "--node-id", name),
            *("--lease", str(LEASE_SECONDS), "--cluster-wait", str(WAIT_SECONDS)),
        ]
    server = LunmeshServer(
        folder / name,
        [f"disk0={VOLUME_BYTES},chunk={CHUNK_BYTES}"],
        arguments=flags,
    )
    return Node(name, stack.enter_context(server), to_redis)
