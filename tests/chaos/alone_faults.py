"""One node has the LUN for itself and asks nobody (decision 0017); another one comes, and goes.

What the one does alone no other knows of, so each arrival is a hand-over: with commands of all
clients on their way, through both.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import redis

from tests.chaos.cluster import Cluster, Node
from tests.chaos.hands import Fault, Hands
from tests.chaos.history import End, History

COMES_AND_GOES = "a second node comes and goes"
COMES_TO_A_STOPPED_ONE = "a node comes to one alone that stands still"
TOGETHER_SECONDS = (0.6, 1.2)
# Until all that clients may have running is on its way; shorter than the lease.
UNTOLD_SECONDS = (0.05, 0.2)
BEFORE_COMING_SECONDS = (0.1, 1.6)
# What the newcomer has answered by then has written over most of the hot blocks.
ANSWERED, ANSWERED_SECONDS_MAX = 200, 10.0
ALONE_SECONDS_MAX = 60.0
_LOOK_SECONDS = 0.02


class AloneFaults:
    """Of one cluster, whose nodes may all be away but one."""

    def __init__(self, cluster: Cluster, history: History, hands: Hands) -> None:
        assert cluster.redis is not None, "of several nodes"
        self._cluster = cluster
        self._history = history
        self._redis = cluster.redis
        self._hands = hands
        self.hand_overs = 0  # by one that was alone

    def faults(self) -> dict[str, Fault]:
        """By name."""
        nodes, hands = self._cluster.nodes, self._hands
        return {
            COMES_AND_GOES: hands.on_one_of(nodes, self._comes_and_goes),
            COMES_TO_A_STOPPED_ONE: hands.on_one_of(nodes, self._comes_to_a_stopped_one),
        }

    def _comes_and_goes(self, alone: Node) -> None:
        """Each way to go is followed by another one who comes."""
        ways: list[Callable[[Node, Node], None]] = [self._ended, self._killed, self._stands_still]
        self._hands.random.shuffle(ways)
        with self._others_away(alone) as others:
            for goes in ways:
                self._until_alone(alone)
                other = self._hands.random.choice(others)
                self._comes(other)
                self._hands.wait(TOGETHER_SECONDS)
                goes(alone, other)

    def _comes_to_a_stopped_one(self, alone: Node) -> None:
        """Its writes are on their way to the workers and nobody has been told of them; they arrive
        when the other one has answered writes of the same blocks.
        """
        assert alone.to_redis is not None, "one of several"
        ways = [alone.to_redis, *(member.relay for member in self._cluster.members)]
        with self._others_away(alone) as others:
            self._until_alone(alone)
            pid = alone.server.pid
            for way in ways:
                way.hold(pid)
            self._hands.wait(UNTOLD_SECONDS)

            def another_comes() -> None:
                self._hands.wait(BEFORE_COMING_SECONDS)
                self._comes(self._hands.random.choice(others))
                self._until_answered()
                for way in ways:
                    way.release()
                self._hands.wait_briefly()

            self._hands.stop(pid, another_comes)

    @contextlib.contextmanager
    def _others_away(self, alone: Node) -> Iterator[list[Node]]:
        """Whoever is still, or again, away at the end is started."""
        others = [node for node in self._cluster.nodes if node is not alone]
        for node in others:
            node.server.kill()
        yield others
        for node in others:
            if not node.server.runs:
                node.start()

    def _comes(self, node: Node) -> None:
        node.start()
        self.hand_overs += 1

    def _ended(self, alone: Node, other: Node) -> None:
        other.end()

    def _killed(self, alone: Node, other: Node) -> None:
        other.server.kill()

    def _stands_still(self, alone: Node, other: Node) -> None:
        """Until the one is alone; it comes again when it wakes, and is killed then."""
        self._hands.stop(other.server.pid, lambda: self._until_alone(alone))
        self.hand_overs += 1
        self._hands.wait(TOGETHER_SECONDS)
        other.server.kill()

    def _until_answered(self) -> None:
        """Until clients have gone to the newcomer; if they cannot, nobody waits for ever."""
        events = self._history.events
        first, deadline = len(events), time.monotonic() + ANSWERED_SECONDS_MAX
        while sum(event.end is End.OK for event in events[first:]) < ANSWERED:
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_SECONDS)

    def _until_alone(self, node: Node) -> None:
        """And a little longer: what it does then is known to itself only."""
        deadline = time.monotonic() + ALONE_SECONDS_MAX
        while not self._is_alone(node):
            if time.monotonic() > deadline:
                said = node.server.stderr()[-3000:]
                raise TimeoutError(f"{node.name} is not alone:\n{said}")
            time.sleep(_LOOK_SECONDS)
        self._hands.wait_briefly()

    def _is_alone(self, node: Node) -> bool:
        """As Redis has it (docs/cluster.md says where)."""
        catalog = json.loads((node.server.data_dir / "catalog.json").read_text())
        key = f"lunmesh:{{{catalog['volumes']['disk0']['uuid'].replace('-', '')}}}:meta"
        with contextlib.suppress(redis.ConnectionError), self._redis.client() as client:
            return bool(client.hget(key, "alone") == node.name.encode())
        return False  # it is away
