"""What is done to nodes, to the Redis that several have, and to the networks around them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from tests.chaos.client import GIVEN_UP_SECONDS
from tests.chaos.cluster import LEASE_SECONDS, Cluster, Node
from tests.chaos.hands import Fault, Hands
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay

# By then a node has been shut out.
LEASE_OVER_SECONDS = (2.0 * LEASE_SECONDS, 3.0 * LEASE_SECONDS)
# Until the clients of a node that stands still have given it up, and written elsewhere; but not
# until a worker takes its connections for dead (workers/server.py: 7 s).
SUPERSEDED_SECONDS = (GIVEN_UP_SECONDS + 1.4, GIVEN_UP_SECONDS + 1.8)
LATE_WRITES = "writes of a node that was shut out arrive"


class NodeFaults:
    """The faults of one cluster's nodes."""

    def __init__(self, cluster: Cluster, hands: Hands) -> None:
        self._cluster = cluster
        self._hands = hands
        self._to_workers = [member.relay for member in cluster.members]

    def faults(self) -> dict[str, Fault]:
        """By name; those of Redis not among them."""
        nodes, hands = self._cluster.nodes, self._hands
        faults = {
            "node killed": self._killed,
            "node restarted": self._restarted,
            "node stopped briefly": lambda node: hands.stop(node.server.pid, hands.wait_briefly),
        }
        if len(nodes) > 1:
            faults |= {
                "node killed and away": self._away,
                "node stopped": lambda node: hands.stop(node.server.pid, self._lease_over),
                "node cut off from workers": self._cut_off,
                LATE_WRITES: self._late_writes,
            }
        return {name: hands.on_one_of(nodes, fault) for name, fault in faults.items()}

    def redis_faults(self) -> dict[str, Fault]:
        """By name; none where there is no Redis."""
        redis, hands = self._cluster.redis, self._hands
        if redis is None:
            return {}
        ways = [node.to_redis for node in self._cluster.nodes if node.to_redis is not None]
        return {
            "redis restarted": redis.restart,
            "redis away": lambda: self._redis_away(redis),
            "redis stopped briefly": lambda: hands.stop(redis.pid, hands.wait_briefly),
            "redis stopped": lambda: hands.stop(redis.pid, self._lease_over),
            "node cut off from redis": hands.on_one_of(ways, hands.cut),
            "node without redis": hands.on_one_of(
                ways, lambda way: hands.hold(way, self._lease_over)
            ),
        }

    def _lease_over(self) -> None:
        self._hands.wait(LEASE_OVER_SECONDS)

    def _killed(self, node: Node) -> None:
        """It is there again before its lease is over, or soon after."""
        node.server.kill()
        node.start()

    def _restarted(self, node: Node) -> None:
        node.end()
        node.start()

    def _away(self, node: Node) -> None:
        node.server.kill()
        self._lease_over()
        node.start()

    def _cut_off(self, node: Node) -> None:
        hold(self._to_workers, node)
        self._lease_over()
        release(self._to_workers)

    def _late_writes(self, node: Node) -> None:
        """The network keeps what a node sends to the workers until everybody has gone on without
        it; the node itself knows of nothing.
        """
        hold(self._to_workers, node)
        self._hands.wait_briefly()
        os.kill(node.server.pid, signal.SIGSTOP)
        self._hands.wait(SUPERSEDED_SECONDS)
        release(self._to_workers)
        self._hands.wait_briefly()
        os.kill(node.server.pid, signal.SIGCONT)

    def _redis_away(self, redis: RedisServer) -> None:
        redis.kill()
        self._lease_over()
        redis.start()


def hold(relays: Sequence[Relay], node: Node) -> None:
    """Nothing of this node passes."""
    for relay in relays:
        relay.hold(node.server.pid)


def release(relays: Sequence[Relay]) -> None:
    """Everything passes."""
    for relay in relays:
        relay.release()
