"""What dies, and how: each case on processes of its own, with the defaults of every option.

Three initiators look on.  One goes through the node that is harmed, or the only one; of the others,
which go through another node, one uses the same blocks and one does not.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.failures.prober import Prober
from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_cluster import CHUNK, NodeCluster
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay

MIB = 1 << 20
SIZE = "64M"
# A chunk each, so that every worker has some.
SAME, OTHER = [n * MIB for n in range(8)], [n * MIB for n in range(8, 16)]
SHORT_SECONDS, LONG_SECONDS = 3.0, 8.0  # less and more than a lease
BEFORE_SECONDS, AFTER_SECONDS, SETTLED_SECONDS_MAX = 0.5, 1.0, 60.0


@dataclass(frozen=True)
class Scene:
    """Processes that run, and who looks on."""

    nodes: list[LunmeshServer]
    workers: list[LunmeshWorker]
    redis: RedisServer | None = None
    to_redis: Relay | None = None  # of the first node


@dataclass(frozen=True)
class Case:
    what: str
    scene: Callable[[Path], contextlib.AbstractContextManager[Scene]]
    fault: Callable[[Scene], None]


@dataclass(frozen=True)
class Outcome:
    """Longest pauses in seconds by who looked on, and errors that an initiator would pass on."""

    pauses: dict[str, float]
    errors: list[str]


class NotSettled(Exception):
    """An initiator was never answered again."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Scene]:
    with LunmeshServer(folder, [f"disk0={SIZE}"]) as server:
        yield Scene([server], [])


@contextlib.contextmanager
def over_workers(folder: Path, store: str = "") -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        workers = [LunmeshWorker(folder / f"worker{n}", store=store) for n in range(2)]
        for worker in workers:
            stack.callback(worker.kill)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(LunmeshWorker.start, workers))
        flags = [part for worker in workers for part in ("--worker", worker.address)]
        volume = f"disk0={SIZE},chunk={CHUNK}"
        server = stack.enter_context(LunmeshServer(folder / "node", [volume], arguments=flags))
        yield Scene([server], workers)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Scene]:
    with (
        RedisServer(folder / "redis", durable=True) as redis,
        NodeCluster(folder, [f"disk0={SIZE}"], redis=redis) as running,
    ):
        yield Scene(running.nodes, running.workers, redis)


@contextlib.contextmanager
def cluster_with_relay(folder: Path) -> Iterator[Scene]:
    """Two nodes, of which the first reaches Redis through a relay."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis", port=free_port(), durable=True))
        relay = stack.enter_context(Relay("127.0.0.1", redis.port, keep=False))
        url = f"redis://{relay.host}:{relay.port}"
        volume = f"disk0={SIZE}"
        first = stack.enter_context(NodeCluster(folder, [volume], nodes=1, redis=redis, url=url))
        flags = ["--redis", redis.url, "--node-id", "second"]
        flags += [part for worker in first.workers for part in ("--worker", worker.address)]
        server = LunmeshServer(folder / "second", [f"{volume},chunk={CHUNK}"], arguments=flags)
        second = stack.enter_context(server)
        yield Scene([*first.nodes, second], first.workers, redis, relay)


def _cut_off(scene: Scene) -> None:
    assert scene.to_redis is not None
    scene.to_redis.hold()
    time.sleep(LONG_SECONDS)
    scene.to_redis.release()


def _again(process: LunmeshServer | LunmeshWorker) -> None:
    process.kill()
    process.start()


def _stand_still(process: LunmeshServer | LunmeshWorker | RedisServer, seconds: float) -> None:
    process.signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.signal(signal.SIGCONT)


def _redis(scene: Scene) -> RedisServer:
    assert scene.redis is not None
    return scene.redis


def _away(redis: RedisServer) -> None:
    redis.kill()
    time.sleep(SHORT_SECONDS)
    redis.start()


SHORT, LONG = f"{SHORT_SECONDS:g} s", f"{LONG_SECONDS:g} s"
CASES: tuple[Case, ...] = (
    Case("the only node is killed and started again", alone, lambda s: _again(s.nodes[0])),
    Case("the only node is restarted (SIGTERM)", alone, lambda s: s.nodes[0].restart()),
    Case("a worker is killed and started again", over_workers, lambda s: _again(s.workers[0])),
    Case(
        f"a worker stands still for {SHORT}",
        over_workers,
        lambda s: _stand_still(s.workers[0], SHORT_SECONDS),
    ),
    Case("one of two nodes is killed, for good", cluster, lambda s: s.nodes[0].kill()),
    Case(
        f"one of two nodes stands still for {LONG}",
        cluster,
        lambda s: _stand_still(s.nodes[0], LONG_SECONDS),
    ),
    Case(f"one of two nodes is cut off from Redis for {LONG}", cluster_with_relay, _cut_off),
    Case("one of two nodes is restarted (SIGTERM)", cluster, lambda s: s.nodes[0].restart()),
    Case(
        "a worker of two nodes is killed and started again", cluster, lambda s: _again(s.workers[0])
    ),
    Case("Redis (with AOF) is killed and started again", cluster, lambda s: _redis(s).restart()),
    Case(f"Redis is away for {SHORT}", cluster, lambda s: _away(_redis(s))),
    Case("Redis comes back and knows nothing", cluster, lambda s: _redis(s).restart_empty()),
)


def on_ceph(ceph: CephCluster) -> tuple[Case, ...]:
    """Two workers of one pool, a new one for each case: either can serve every chunk."""

    def scene(folder: Path) -> contextlib.AbstractContextManager[Scene]:
        return over_workers(folder, f"rados:{ceph.create_pool()}@{ceph.conf}")

    return (
        Case(
            "one of two workers of a Ceph pool is killed, for good",
            scene,
            lambda s: s.workers[0].kill(),
        ),
        Case(
            f"one of two workers of a Ceph pool stands still for {LONG}",
            scene,
            lambda s: _stand_still(s.workers[0], LONG_SECONDS),
        ),
    )


def play(case: Case, folder: Path) -> Outcome:
    """Do it once.  NotSettled when an initiator stays without an answer."""
    with case.scene(folder) as scene, contextlib.ExitStack() as stack:
        probers = [Prober("through it", scene.nodes, SAME)]
        if len(scene.nodes) > 1:
            elsewhere = list(reversed(scene.nodes))
            probers.append(Prober("elsewhere, same blocks", elsewhere, SAME))
            probers.append(Prober("elsewhere, other blocks", elsewhere, OTHER))
        for prober in probers:
            stack.enter_context(prober)
        _all_answered(probers)
        time.sleep(BEFORE_SECONDS)
        for prober in probers:
            prober.begin()
        case.fault(scene)
        time.sleep(AFTER_SECONDS)
        _all_answered(probers)
        return Outcome(
            {prober.name: prober.longest() for prober in probers},
            [error for prober in probers for error in prober.errors],
        )


def _all_answered(probers: list[Prober]) -> None:
    """Wait until each has been answered a few times from now on."""
    goals = [prober.answered + 10 for prober in probers]
    deadline = time.monotonic() + SETTLED_SECONDS_MAX
    while any(p.answered < goal for p, goal in zip(probers, goals, strict=True)):
        if time.monotonic() > deadline:
            names = [p.name for p, goal in zip(probers, goals, strict=True) if p.answered < goal]
            raise NotSettled(f"no answer in {SETTLED_SECONDS_MAX:g} s: {', '.join(names)}")
        time.sleep(0.02)
