"""A chaos run: clients write and read while a nemesis does harm; then every block is checked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import blocks
from tests.chaos.checker import check
from tests.chaos.client import Address, Client
from tests.chaos.cluster import VOLUME_BYTES, Cluster, running_cluster
from tests.chaos.history import End, History, Op
from tests.chaos.nemesis import Nemesis
from tests.chaos.workload import Layout
from tests.chaos.zones import Violation
from tests.support import cdb
from tests.support.ceph_cluster import CephCluster
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected, NoAnswer

CLIENTS = 4
# Through several nodes everybody is to be in everybody's way; through one, to need space.
_HOT_BLOCKS, _HOT_BLOCKS_OF_SEVERAL = 2048, 512
# After the last fault everything has to go on by itself.
HEAL_SECONDS = 40.0
PACE_SECONDS = 0.1
_BUSY = 0x08
_SYNC_LOST = (0x3, 0x0C, 0x02)
HEALED_OPERATIONS = 50  # of each client
READ_BLOCKS = 256
NO_SPACE = (0x7, 0x27, 0x07)  # DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT


@dataclass(frozen=True, slots=True)
class Report:
    """What was done and seen."""

    seed: int
    nodes: int
    injected: Counter[str]
    overlapped: Counter[str]
    operations: Counter[tuple[Op, End]]
    senses: Counter[tuple[int, int, int]]
    moves: int
    overdue: int
    blocks_checked: int
    no_disks: str
    stand_ins: int
    hand_overs: int
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        def listed(items: list[tuple[str, int]]) -> str:
            return ", ".join(f"{name} {count}" for name, count in items)

        operations = sorted(
            (f"{op.value} {end.value}", n) for (op, end), n in self.operations.items()
        )
        senses = sorted((f"{k:x}/{c:02x}/{q:02x}", n) for (k, c, q), n in self.senses.items())
        lines = [
            f"seed {self.seed}, nodes {self.nodes}",
            f"faults: {listed(sorted(self.injected.items()))}",
            f"operations: {listed(operations)}",
            f"sense data (0/00/00 is BUSY): {listed(senses)}",
            f"clients went to another node: {self.moves} times",
            f"commands that were not answered in time: {self.overdue}",
            f"blocks read back at the end: {self.blocks_checked}",
        ]
        if self.overlapped:
            lines.append(f"two at once: {listed(sorted(self.overlapped.items()))}")
        if self.no_disks:
            lines.append(f"no disk was filled: {self.no_disks}")
        if self.stand_ins:
            lines.append(f"others stood in for a worker: {self.stand_ins} times")
        if self.hand_overs:
            lines.append(f"a node came to one that was alone: {self.hand_overs} times")
        lines.append(f"violations: {len(self.violations)}")
        lines += [f"  at {each.at}: {each.what}" for each in self.violations[:20]]
        return "\n".join(lines)


def run(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    nodes: int = 1,
    ceph: CephCluster | None = None,
    faults: Collection[str] = (),
) -> Report:
    """The workers have files of their own, or a new pool of ``ceph``.  ``faults`` are the names of
    those to inject; none stands for all.

    Raises what a client ended with, if one did; TimeoutError where nothing goes on.
    """
    with running_cluster(folder, nodes, ceph) as cluster:
        return harm(cluster, cluster, seconds=seconds, seed=seed, faults=faults)


def harm(
    cluster: Cluster,
    victims: Cluster,
    *,
    seconds: float,
    seed: int,
    faults: Collection[str] = (),
    restart_workers: bool = True,
) -> Report:
    """The same on a cluster that runs, and whose disk reads as zeros; ``victims`` is the part of it
    that is harmed.
    """
    history = History()
    nodes = len(cluster.nodes)
    hot = _HOT_BLOCKS if nodes == 1 else _HOT_BLOCKS_OF_SEVERAL
    layout = Layout(hot=hot, total=VOLUME_BYTES // blocks.BLOCK_BYTES)
    addresses = _addresses(cluster)
    clients = [Client(n, addresses, history, layout, seed) for n in range(CLIENTS)]
    nemesis = Nemesis(victims, history, seed, faults, whole=victims is cluster)
    for client in clients:
        client.start()
    try:
        nemesis.run(seconds)
        _wait_until_healed(clients)
    finally:
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
    _raise_errors(clients)
    for member in cluster.members if restart_workers else ():  # a page cache outlives its process
        member.worker.kill()
        member.worker.start()
    checked = _read_back(addresses[seed % nodes], history)
    stand_ins = nemesis.stand_ins
    ends = [event for event in history.events if event.end is not End.INVOKE]
    return Report(
        seed,
        nodes,
        nemesis.injected,
        nemesis.overlapped,
        Counter((event.op, event.end) for event in ends if event.op is not Op.FAULT),
        sum((client.senses for client in clients), Counter()),
        sum(client.moves for client in clients),
        sum(client.overdue for client in clients),
        checked,
        cluster.no_disks,
        stand_ins,
        nemesis.hand_overs,
        check(history.events),
    )


def _addresses(cluster: Cluster) -> list[Address]:
    servers = [node.server for node in cluster.nodes]
    return [(server.host, server.port, server.iqn) for server in servers]


def _raise_errors(clients: list[Client]) -> None:
    for client in clients:
        if client.error is not None:
            raise client.error


def _wait_until_healed(clients: list[Client]) -> None:
    wanted = {client: client.acknowledged + HEALED_OPERATIONS for client in clients}
    deadline = time.monotonic() + HEAL_SECONDS
    while any(client.acknowledged < count for client, count in wanted.items()):
        _raise_errors(clients)
        if time.monotonic() > deadline:
            raise TimeoutError("after the last fault, operations do not go on")
        time.sleep(0.05)


def logged_in(address: Address) -> Initiator:
    """A session, as soon as there can be one: a node that was shut out has to begin anew first."""
    host, port, target = address
    deadline = time.monotonic() + HEAL_SECONDS
    while True:
        try:
            iscsi = Initiator(host, port, target=target, timeout=HEAL_SECONDS)
            try:
                iscsi.login()
            except BaseException:
                iscsi.close()
                raise
            return iscsi
        except (Disconnected, NoAnswer, LoginRefused, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(PACE_SECONDS)


def _read_back(address: Address, history: History) -> int:
    """Reads, as a client of its own, every block that was ever written; how many those are."""
    written = {
        block
        for event in history.events
        if event.op in (Op.WRITE, Op.SWAP)
        for block in event.versions
    }
    name, read = "reader", 0
    with logged_in(address) as iscsi:
        deadline = time.monotonic() + HEAL_SECONDS
        for first in sorted({block // READ_BLOCKS * READ_BLOCKS for block in written}):
            operation = history.invoke(name, Op.READ)
            length = READ_BLOCKS * blocks.BLOCK_BYTES
            command = cdb.read16(first, READ_BLOCKS)
            while (task := iscsi.command(command, read_length=length)).status:
                if time.monotonic() > deadline:
                    said = f"status {task.status:#x}, sense {task.sense_triple}"
                    raise TimeoutError(f"cannot read block {first}: {said}")
            found = blocks.versions_of(first, bytes(task.data_in))
            found = {block: version for block, version in found.items() if block in written}
            history.end(End.OK, operation, name, Op.READ, found)
            read += len(found)
        for _ in range(2):  # one may have to tell of an earlier one that was lost
            flush = history.invoke(name, Op.FLUSH)
            while (task := iscsi.command(cdb.synchronize_cache10())).status == _BUSY:
                if time.monotonic() > deadline:
                    break
            end = End.FAIL if task.status else End.OK
            history.end(end, flush, name, Op.FLUSH, detail=f"sense {task.sense_triple}")
            if task.sense_triple != _SYNC_LOST:
                break
        if task.status:
            raise AssertionError(f"the last flush failed: sense {task.sense_triple}")
        iscsi.logout()
    return read
