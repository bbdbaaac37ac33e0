"""Two nodes and a Redis that goes away, comes back, is slow or forgets everything.

All the time an initiator on each node counts up one counter; not one round may be lost.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from target.cluster.lun import EXPIRY_SECONDS
from tests.support import cdb
from tests.support.incrementers import BUSY, GOOD, Incrementers, connect, until_good
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.numbered_blocks import check_numbers, keep_numbers
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.timed_writes import TimedWrites
from tests.support.volume_command import VolumeCommand
from tests.support.worker_client import refused_by

LEASE_SECONDS = 2
AWAY_SECONDS = 30  # longer than a lease and what commands wait
LATENCY_SECONDS = 0.05
WAIT_SECONDS = 30
ROUNDS = 3  # of volumes that come and go
PASSING = (b":writes", b":reads", b":blocked", b":events")  # keys of what is under way
OF_NODES = b"lunmesh:{counters."  # there are as many as nodes, once there was something to tell
SERVICE_UNAVAILABLE = (3, 1)
CLUSTER_WAIT_SECONDS = 1
# What a command may take: --cluster-wait and what its end may be late (EXPIRY_SECONDS), and twice
# as much again for a busy machine.
ANSWER_SECONDS = 3 * (CLUSTER_WAIT_SECONDS + EXPIRY_SECONDS)
OPTIONS = ("--lease", str(LEASE_SECONDS), "--cluster-wait", str(CLUSTER_WAIT_SECONDS))


class World:
    """Two nodes that reach Redis through ``relay``."""

    def __init__(self, cluster: NodeCluster, relay: Relay) -> None:
        self.cluster = cluster
        self.relay = relay


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("redis-faults")
    with (
        RedisServer(folder / "redis", port=free_port(), durable=True) as redis,
        Relay("127.0.0.1", redis.port, keep=False) as relay,
        NodeCluster(
            folder,
            ["disk0=16M"],
            workers=1,
            arguments=OPTIONS,
            redis=redis,
            url=f"redis://{relay.host}:{relay.port}",
        ) as cluster,
    ):
        yield World(cluster, relay)


@pytest.fixture(scope="module")
def all_the_time(world: World) -> Iterator[Incrementers]:
    counting = Incrementers(world.cluster.nodes)
    with counting:
        counting.all_go_on()
        yield counting
    counting.check()


def test_a_redis_that_restarts(world: World, all_the_time: Incrementers) -> None:
    epochs = shut_outs(world)
    world.cluster.redis.restart()
    all_the_time.all_go_on()
    assert shut_outs(world) == epochs, "nothing was forgotten"


def test_a_redis_that_is_away(world: World, all_the_time: Incrementers) -> None:
    epochs = shut_outs(world)
    with TimedWrites(world.cluster.nodes) as writes:
        world.cluster.redis.kill()
        time.sleep(AWAY_SECONDS)
        before = list(all_the_time.done)
        busy = writes.count(BUSY)
        world.cluster.redis.start()
        all_the_time.all_go_on()
    writes.check(ANSWER_SECONDS)
    assert busy > 0, "what needs Redis is told so"
    assert shut_outs(world) == epochs, "all were without it: none has shut out another"
    assert min(before) > 0


def ask_for_ever(session: Initiator) -> None:
    while True:
        session.command(cdb.TEST_UNIT_READY)


def test_without_redis_for_long_initiators_are_sent_away(
    world: World, all_the_time: Incrementers
) -> None:
    node = world.cluster.nodes[0]
    with connect(node, "watcher") as session:
        world.cluster.redis.kill()
        try:
            with pytest.raises(Disconnected):
                ask_for_ever(session)
            with pytest.raises(LoginRefused) as refused:
                connect(node, "watcher")
            status = refused.value.pdu
            assert (status.status_class, status.status_detail) == SERVICE_UNAVAILABLE
        finally:
            world.cluster.redis.start()
    all_the_time.all_go_on()


def test_a_redis_that_is_stopped(world: World, all_the_time: Incrementers) -> None:
    epochs = shut_outs(world)
    world.cluster.redis.signal(signal.SIGSTOP)
    time.sleep(2 * LEASE_SECONDS)
    world.cluster.redis.signal(signal.SIGCONT)
    all_the_time.all_go_on()
    assert shut_outs(world) == epochs


def test_a_redis_far_away(world: World, all_the_time: Incrementers) -> None:
    world.relay.delay_seconds = LATENCY_SECONDS
    try:
        with TimedWrites(world.cluster.nodes) as writes:
            all_the_time.all_go_on()
            all_the_time.all_go_on()
    finally:
        world.relay.delay_seconds = 0.0
    writes.check(ANSWER_SECONDS)
    assert writes.count(BUSY) == 0, "that is no reason"
    assert writes.count(GOOD) > 0


def test_a_redis_that_has_forgotten_everything(world: World, all_the_time: Incrementers) -> None:
    """All start anew: epochs go on, no identity and no volume is lost."""
    first, second = (VolumeCommand(node) for node in world.cluster.nodes)
    first.good("create", "extra", "8M")
    before = [of.json("list") for of in (first, second)]
    said = shut_outs(world)
    world.cluster.redis.restart_empty()
    all_the_time.all_go_on()
    assert all(now > then for now, then in zip(shut_outs(world), said, strict=True))
    assert [of.json("list") for of in (first, second)] == before
    second.good("delete", "extra", "--yes", "--force")
    assert [volume["name"] for volume in first.json("list")] == ["disk0"]


def test_a_redis_that_is_flushed_while_nodes_are_connected(
    world: World, all_the_time: Incrementers
) -> None:
    """No connection ends, and nobody says so: what nodes know is missing, and they notice."""
    said = shut_outs(world)
    keep_numbers(world.cluster.nodes[0])
    with world.cluster.redis.client() as client:
        client.flushall()
    all_the_time.all_go_on()
    assert all(now > then for now, then in zip(shut_outs(world), said, strict=True))
    for node in world.cluster.nodes:
        check_numbers(node)


def test_volumes_that_come_and_go_leave_nothing_in_redis(
    world: World, all_the_time: Incrementers
) -> None:
    first, second = (VolumeCommand(node) for node in world.cluster.nodes)
    with world.cluster.redis.client() as client:

        def lasting() -> set[bytes]:
            keys = set(client.scan_iter())
            return {k for k in keys if not (k.endswith(PASSING) or k.startswith(OF_NODES))}

        before = lasting()
        for number in range(ROUNDS):
            first.good("create", f"passing{number}", "8M")
            assert lasting() > before
            second.good("delete", f"passing{number}", "--yes", "--force")
        deadline = time.monotonic() + WAIT_SECONDS
        while lasting() != before:  # who has been told last ends it
            assert time.monotonic() < deadline, lasting() - before
            time.sleep(0.05)


def test_what_a_stopped_node_was_told_does_not_land_when_redis_has_forgotten_it(
    world: World,
) -> None:
    live, stopped = world.cluster.nodes
    lba = 64
    with connect(stopped, "late") as late:
        late.command(cdb.TEST_UNIT_READY)
        stopped.signal(signal.SIGSTOP)
        late.start(cdb.write10(lba, 1), data_out=b"l" * 512)
        world.cluster.redis.restart_empty()
        until_good(live, cdb.write10(lba, 1), data_out=b"n" * 512)
        stopped.signal(signal.SIGCONT)
        for node in (stopped, live):
            assert until_good(node, cdb.read10(lba, 1), read_length=512) == b"n" * 512


def test_who_nobody_knows_any_more_is_shut_out_at_the_workers(tmp_path: Path) -> None:
    """A node that was away when another joined comes back to a Redis that has forgotten both."""
    with NodeCluster(tmp_path, ["disk0=16M"], nodes=1, workers=1, arguments=OPTIONS) as cluster:
        (first,) = cluster.nodes
        assert first.stop() == 0
        stranger = cluster.add_node()
        until_good(stranger, cdb.write10(64, 1), data_out=b"o" * 512)
        stranger.signal(signal.SIGSTOP)
        cluster.redis.restart_empty()
        first.start()
        until_good(first, cdb.write10(64, 1), data_out=b"n" * 512)
        fences = asyncio.run(refused_by(cluster.workers[0].address))
        assert fences.get("node1"), fences
        stranger.signal(signal.SIGCONT)
        for node in (stranger, first):
            assert until_good(node, cdb.read10(64, 1), read_length=512) == b"n" * 512


def shut_outs(world: World) -> list[int]:
    """How often each node has started anew."""
    return [node.stderr().count("has been shut out by others") for node in world.cluster.nodes]
