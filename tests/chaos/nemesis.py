"""Does harm to a cluster, one thing at a time, in an order that a seed decides."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tests.chaos.checker import LOST_FLUSH
from tests.chaos.client import GIVEN_UP_SECONDS
from tests.chaos.cluster import LEASE_SECONDS, WORKER_SECONDS, Cluster, Member, Node
from tests.chaos.history import End, History, Op
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay

PAUSE_SECONDS = (0.1, 0.6)
SHORT_SECONDS = (0.1, 0.6)
LONG_SECONDS = (1.2 * WORKER_SECONDS, 2.5 * WORKER_SECONDS)
# Longer than a lease: by then a node has been shut out, or its clients are served by the others.
LEASE_OVER_SECONDS = (2.0 * LEASE_SECONDS, 3.0 * LEASE_SECONDS)
# Until the clients of a node that stands still have given it up, and written elsewhere; but not
# until a worker takes its connections for dead (workers/server.py: 7 s).
SUPERSEDED_SECONDS = (GIVEN_UP_SECONDS + 1.4, GIVEN_UP_SECONDS + 1.8)
LATE_WRITES = "writes of a node that was shut out arrive"
_Victim = TypeVar("_Victim")


class Nemesis:
    """Every fault comes once in each round; afterwards the cluster is whole again."""

    def __init__(
        self, cluster: Cluster, history: History, seed: int, only: Iterable[str] = ()
    ) -> None:
        """``only`` are the names of the faults to inject; none stands for all."""
        self._history = history
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self._faults = self._worker_faults(cluster) | self._node_faults(cluster)
        if cluster.redis is not None:
            self._faults |= self._redis_faults(cluster, cluster.redis)
        wanted = set(only)
        if unknown := wanted - set(self._faults):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        self._faults = {
            name: fault for name, fault in self._faults.items() if not wanted or name in wanted
        }

    def _worker_faults(self, cluster: Cluster) -> dict[str, Callable[[], None]]:
        faults = {
            "worker killed": self._worker_killed,
            "worker killed and away": self._worker_away,
            "worker stopped briefly": self._worker_stopped_briefly,
            "worker stopped": self._worker_stopped,
            "worker cut off": self._worker_cut,
            "worker unreachable": self._worker_held,
            LOST_FLUSH: self._lose_flushes,
        }
        if not cluster.no_disks:
            faults["worker's disk full"] = self._fill
        return {name: self._one_of(cluster.members, fault) for name, fault in faults.items()}

    def _node_faults(self, cluster: Cluster) -> dict[str, Callable[[], None]]:
        faults = {
            "node killed": self._node_killed,
            "node restarted": self._node_restarted,
            "node stopped briefly": self._node_stopped_briefly,
        }
        if len(cluster.nodes) > 1:
            relays = [member.relay for member in cluster.members]
            faults |= {
                "node killed and away": self._node_away,
                "node stopped": self._node_stopped,
                "node cut off from workers": lambda node: self._node_held(node, relays),
                LATE_WRITES: lambda node: self._late_writes(node, relays),
            }
        return {name: self._one_of(cluster.nodes, fault) for name, fault in faults.items()}

    def _redis_faults(self, cluster: Cluster, redis: RedisServer) -> dict[str, Callable[[], None]]:
        ways = [node.to_redis for node in cluster.nodes if node.to_redis is not None]
        return {
            "redis restarted": redis.restart,
            "redis away": lambda: self._redis_away(redis),
            "redis stopped briefly": lambda: self._redis_stopped(redis, SHORT_SECONDS),
            "redis stopped": lambda: self._redis_stopped(redis, LEASE_OVER_SECONDS),
            "node cut off from redis": self._one_of(ways, self._cut),
            "node without redis": self._one_of(ways, self._redis_held),
        }

    def _one_of(
        self, victims: Sequence[_Victim], fault: Callable[[_Victim], None]
    ) -> Callable[[], None]:
        return lambda: fault(self._random.choice(victims))

    def run(self, seconds: float) -> None:
        """Begins no fault after ``seconds``, but ends its first round."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            names = list(self._faults)
            self._random.shuffle(names)
            for name in names:
                self._wait(PAUSE_SECONDS)
                if number and time.monotonic() > end:
                    return
                self._inject(name)

    def _inject(self, name: str) -> None:
        self.injected[name] += 1
        if name == LOST_FLUSH:  # it says itself from when to when it holds
            self._faults[name]()
            return
        fault = self._history.invoke("nemesis", Op.FAULT, detail=name)
        self._faults[name]()
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=name)

    def _wait(self, seconds: tuple[float, float]) -> None:
        time.sleep(self._random.uniform(*seconds))

    # Workers.

    def _worker_killed(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start()

    def _worker_away(self, member: Member) -> None:
        member.worker.kill()
        self._wait(LONG_SECONDS)
        member.worker.start()

    def _worker_stopped_briefly(self, member: Member) -> None:
        self._stopped(member.worker.pid, SHORT_SECONDS)

    def _worker_stopped(self, member: Member) -> None:
        """For longer than a command waits: its writes are in doubt when it wakes."""
        self._stopped(member.worker.pid, LONG_SECONDS)

    def _worker_cut(self, member: Member) -> None:
        self._cut(member.relay)

    def _worker_held(self, member: Member) -> None:
        self._held(member.relay, self._random.choice((SHORT_SECONDS, LONG_SECONDS)))

    def _fill(self, member: Member) -> None:
        assert member.disk is not None
        member.disk.fill()
        self._wait(LONG_SECONDS)
        member.disk.empty()

    def _lose_flushes(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start("--fault", "lost-flush=1")
        fault = self._history.invoke("nemesis", Op.FAULT, detail=LOST_FLUSH)
        self._wait(LONG_SECONDS)
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=LOST_FLUSH)
        member.worker.kill()
        member.worker.start()

    # Nodes.

    def _node_killed(self, node: Node) -> None:
        """It is there again before its lease is over."""
        node.server.kill()
        node.server.start()

    def _node_away(self, node: Node) -> None:
        node.server.kill()
        self._wait(LEASE_OVER_SECONDS)
        node.server.start()

    def _node_restarted(self, node: Node) -> None:
        node.server.restart()

    def _node_stopped_briefly(self, node: Node) -> None:
        self._stopped(node.server.pid, SHORT_SECONDS)

    def _node_stopped(self, node: Node) -> None:
        """It is shut out, and has to notice when it wakes."""
        self._stopped(node.server.pid, LEASE_OVER_SECONDS)

    def _node_held(self, node: Node, relays: Sequence[Relay]) -> None:
        for relay in relays:
            relay.hold(node.server.pid)
        self._wait(LEASE_OVER_SECONDS)
        for relay in relays:
            relay.release()

    def _late_writes(self, node: Node, relays: Sequence[Relay]) -> None:
        """The network keeps what a node sends to the workers until everybody has gone on without
        it; the node itself knows of nothing.
        """
        for relay in relays:
            relay.hold(node.server.pid)
        self._wait(SHORT_SECONDS)
        os.kill(node.server.pid, signal.SIGSTOP)
        self._wait(SUPERSEDED_SECONDS)
        for relay in relays:
            relay.release()
        self._wait(SHORT_SECONDS)
        os.kill(node.server.pid, signal.SIGCONT)

    # Redis, and the ways to it.

    def _redis_away(self, redis: RedisServer) -> None:
        redis.kill()
        self._wait(LEASE_OVER_SECONDS)
        redis.start()

    def _redis_stopped(self, redis: RedisServer, seconds: tuple[float, float]) -> None:
        self._stopped(redis.pid, seconds)

    def _redis_held(self, way: Relay) -> None:
        self._held(way, self._random.choice((SHORT_SECONDS, LEASE_OVER_SECONDS)))

    # Processes and networks.

    def _stopped(self, pid: int, seconds: tuple[float, float]) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._wait(seconds)
        os.kill(pid, signal.SIGCONT)

    def _cut(self, relay: Relay) -> None:
        for _ in range(self._random.randint(1, 4)):
            relay.cut()
            self._wait(SHORT_SECONDS)

    def _held(self, relay: Relay, seconds: tuple[float, float]) -> None:
        """The network drops everything; then what was in it arrives, or is cut off."""
        relay.hold()
        self._wait(seconds)
        if self._random.random() < 0.5:
            relay.cut()
        relay.release()
