"""A Redis that comes back with less than it had: a replica that has lagged, or that was flushed.

A sentinel has it take over.  The nodes notice, start anew, and serve all that was acknowledged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.incrementers import Incrementers
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.numbered_blocks import check_numbers, keep_numbers
from tests.support.redis_server import RedisServer
from tests.support.sentinel import SERVICE, sentinel_of, until_known, until_primary
from tests.support.volume_command import VolumeCommand

HOST = "127.0.0.1"
OPTIONS = ("--lease", "2", "--cluster-wait", "1")


class Replicated:
    """Two nodes over a primary and a replica of it, which a sentinel watches."""

    def __init__(self, cluster: NodeCluster, primary: RedisServer, replica: RedisServer) -> None:
        self.cluster = cluster
        self.primary = primary
        self.replica = replica

    def part(self) -> None:
        """From now on the replica hears nothing of the primary."""
        with self.primary.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-sync", "-psync")
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> None:
        """The primary is gone, and the replica is the primary."""
        self.primary.kill()
        until_primary(self.replica)

    def shut_outs(self) -> list[int]:
        """How often each node has started anew."""
        nodes = self.cluster.nodes
        return [node.stderr().count("has been shut out by others") for node in nodes]


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(RedisServer(tmp_path / "redis", port=free_port()))
        replica = RedisServer(
            tmp_path / "replica",
            port=free_port(),
            arguments=["--replicaof", HOST, str(primary.port), "--replica-read-only", "no"],
        )
        stack.enter_context(replica)
        sentinel = stack.enter_context(sentinel_of(tmp_path / "sentinel", primary.port))
        url = f"redis+sentinel://{HOST}:{sentinel}/{SERVICE}"
        cluster = stack.enter_context(
            NodeCluster(
                tmp_path, ["disk0=16M"], workers=1, arguments=OPTIONS, redis=primary, url=url
            )
        )
        until_known(sentinel, replica)
        yield Replicated(cluster, primary, replica)


def test_a_replica_that_has_lagged(replicated: Replicated) -> None:
    """Lost are a volume that was made, registered commands and renewals."""
    nodes = replicated.cluster.nodes
    with Incrementers(nodes) as counting:
        counting.all_go_on()
        replicated.part()
        VolumeCommand(nodes[0]).good("create", "late", "8M")
        keep_numbers(nodes[0])
        counting.all_go_on()
        said = replicated.shut_outs()
        replicated.fail_over()
        counting.all_go_on()
        assert all(now > then for now, then in zip(replicated.shut_outs(), said, strict=True))
    counting.check()
    for node in nodes:
        check_numbers(node)
        assert {volume["name"] for volume in VolumeCommand(node).json("list")} == {"disk0", "late"}


def test_a_replica_that_was_flushed(replicated: Replicated) -> None:
    nodes = replicated.cluster.nodes
    with Incrementers(nodes) as counting:
        counting.all_go_on()
        keep_numbers(nodes[0])
        replicated.part()
        with replicated.replica.client() as client:
            client.flushall()
        replicated.fail_over()
        counting.all_go_on()
    counting.check()
    for node in nodes:
        check_numbers(node)
