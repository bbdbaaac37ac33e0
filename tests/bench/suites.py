"""The suites of `make bench`: which servers are measured side by side, in which rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import goals
from tests.bench.ceph import (
    RADOS,
    RADOS_BENCHED,
    RADOS_CACHED,
    RADOS_CACHED_COMPILED,
    RADOS_COMPILED,
    RADOS_WORKER,
    TGT_RBD,
    TGT_RBD_UNCACHED,
    ObjectStore,
    SharedCluster,
    rados_bench,
    rados_cached,
    rados_store,
    rados_worker,
    tgt_rbd,
)
from tests.bench.cluster import WITH_REDIS, node_with_redis
from tests.bench.goals import Goals
from tests.bench.processes import ONE_TCP, ONE_UNIX, TWO_TCP, TWO_UNIX, by_processes
from tests.bench.rows import (
    CEPH_ROWS,
    CLUSTER_ROWS,
    DIGEST_ROWS,
    FLOOR_ROWS,
    LOCAL_ROWS,
    PROCESS_ROWS,
    WORKER_ROWS,
    Row,
)
from tests.bench.servers import (
    COMPILED,
    ECHO,
    EMBEDDED,
    FOUR_WORKERS,
    GRPC,
    TGTD,
    TWO_WORKERS,
    WORKER_TCP,
    WORKER_UNIX,
    WORKER_WIRE,
    Candidate,
    bare_grpc_stream,
    echo,
    lunmesh,
    lunmesh_compiled,
    lunmesh_over_workers,
    tgtd,
    tgtd_with_digests,
)

OURS = (EMBEDDED, COMPILED)


@dataclass(frozen=True)
class Comparison:
    """One server beside another."""

    ours: str
    theirs: str
    goals: Callable[[Row], Goals] = lambda row: goals.NONE


@dataclass(frozen=True)
class Suite:
    """Servers that are measured in the same rounds."""

    name: str
    title: str
    rows: tuple[Row, ...]
    servers: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]


def _ceph(objectstore: ObjectStore) -> Suite:
    shared = SharedCluster(objectstore)
    cached, plain = (RADOS_CACHED, RADOS_CACHED_COMPILED), (RADOS, RADOS_COMPILED)
    return Suite(
        objectstore,
        f"On one small real Ceph ({objectstore}), beside tgt-rbd",
        CEPH_ROWS,
        (
            rados_store(shared),
            rados_cached(shared),
            rados_store(shared, built=True),
            rados_cached(shared, built=True),
            rados_worker(shared),
            tgt_rbd(shared),
            tgt_rbd(shared, cache=False),
            rados_bench(shared),
        ),
        (
            *(Comparison(it, TGT_RBD, goals.rados_beside_tgt_rbd) for it in (*cached, *plain)),
            Comparison(RADOS_WORKER, TGT_RBD, goals.rados_worker_beside_tgt_rbd),
            Comparison(RADOS, TGT_RBD_UNCACHED),
            *(Comparison(it, RADOS_BENCHED, goals.rados_beside_rados_bench) for it in plain),
            Comparison(TGT_RBD, RADOS_BENCHED),  # what a target in C has of it
        ),
    )


# The wire alone has no goal: it shows what gRPC costs where the others go around it.
OVER_WORKERS = (WORKER_UNIX, WORKER_WIRE, WORKER_TCP, TWO_WORKERS, FOUR_WORKERS)


def suites() -> tuple[Suite, ...]:
    """All of them."""
    return (
        Suite(
            "local",
            "Embedded store, beside tgtd",
            LOCAL_ROWS,
            (lunmesh(), lunmesh_compiled(), tgtd()),
            tuple(Comparison(ours, TGTD, goals.beside_tgtd) for ours in OURS),
        ),
        Suite(
            "digests",
            "Header and data digests, beside tgtd",
            DIGEST_ROWS,
            (lunmesh(), lunmesh_compiled(), tgtd_with_digests()),
            tuple(Comparison(ours, TGTD, goals.digests_beside_tgtd) for ours in OURS),
        ),
        Suite(
            "floor",
            "What a read costs, beside an echo in C",
            FLOOR_ROWS,
            (lunmesh(), lunmesh_compiled(), echo()),
            tuple(Comparison(ours, ECHO, goals.beside_echo) for ours in OURS),
        ),
        Suite(
            "workers",
            "Through gRPC workers, beside the embedded store and tgtd's local file",
            WORKER_ROWS,
            (lunmesh(), *map(lunmesh_over_workers, OVER_WORKERS), tgtd(), bare_grpc_stream()),
            (
                *(Comparison(name, EMBEDDED) for name in OVER_WORKERS),
                Comparison(WORKER_UNIX, TGTD, goals.one_worker_beside_tgtd),
                Comparison(WORKER_UNIX, GRPC, goals.one_worker_beside_grpc),
                Comparison(TWO_WORKERS, GRPC, goals.two_workers_beside_grpc),
            ),
        ),
        Suite(
            "processes",
            "Two processes behind one portal, beside one, each over a worker with Redis",
            PROCESS_ROWS,
            by_processes(),
            (Comparison(TWO_UNIX, ONE_UNIX), Comparison(TWO_TCP, ONE_TCP)),
        ),
        Suite(
            "cluster",
            "One node over one worker, with Redis and without",
            CLUSTER_ROWS,
            (lunmesh_over_workers(WORKER_UNIX), node_with_redis()),
            (Comparison(WITH_REDIS, WORKER_UNIX, goals.tracked),),
        ),
        _ceph("memstore"),
        _ceph("bluestore"),
    )
