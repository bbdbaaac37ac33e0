"""The processes of a chaos run: a target, its workers, what lies between and under them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.relay import Relay
from tests.support.small_disk import CannotMount, SmallDisk

WORKERS = 3
VOLUME_BYTES = 192 << 20
CHUNK_BYTES = 64 << 10  # so that many commands cross workers
DISK_BYTES = 96 << 20  # room for a worker's share
WORKER_SECONDS = 1.5  # --worker-timeout


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, its connection to the target, and its disk, where one could be mounted."""

    worker: LunmeshWorker
    relay: Relay
    disk: SmallDisk | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """``targets`` are the nodes that serve the volume as LUN 0."""

    targets: list[LunmeshServer]
    members: list[Member]
    no_disks: str  # why there are no disks to fill


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Everything runs; at the end everything has ended and is unmounted."""
    with contextlib.ExitStack() as stack:
        members, no_disks = [], ""
        for number in range(WORKERS):
            disk: SmallDisk | None = None
            try:
                disk = stack.enter_context(SmallDisk(folder / f"disk{number}", DISK_BYTES))
            except CannotMount as exc:
                no_disks = str(exc)
            store = disk.folder if disk is not None else folder / f"store{number}"
            port = free_port()
            worker = LunmeshWorker(
                folder / f"worker{number}",
                listen=f"127.0.0.1:{port}",
                store=f"file:{store}/worker",
                arguments=["--buffer-memory", "32M"],
            )
            stack.enter_context(worker)
            relay = stack.enter_context(Relay("127.0.0.1", port, keep=False))
            members.append(Member(worker, relay, disk))
        flags = ["--worker-timeout", str(WORKER_SECONDS)]
        for member in members:
            flags += ["--worker", f"{member.relay.host}:{member.relay.port}"]
        target = LunmeshServer(
            folder / "target", [f"disk0={VOLUME_BYTES},chunk={CHUNK_BYTES}"], arguments=flags
        )
        stack.enter_context(target)
        yield Cluster([target], members, no_disks)
