"""The suites of `make bench`: which servers are measured side by side, and the goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.ceph import (
    RADOS,
    RADOS_BENCHED,
    RADOS_CACHED,
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
    Candidate,
    bare_grpc_stream,
    echo,
    lunmesh,
    lunmesh_compiled,
    lunmesh_over_workers,
    tgtd,
    tgtd_with_digests,
)

SMALL_BYTES_MAX = 4096
OURS = (EMBEDDED, COMPILED)


@dataclass(frozen=True)
class Goals:
    """Of one row, beside the other server of the same run."""

    rate_at_least: float | None = None  # ratio
    cpu_at_most: float | None = None  # ratio of server CPU time per I/O
    added_us_at_most: float | None = None  # difference of the time an I/O takes; depth 1
    p99_at_most: float | None = None  # ratio of the time that 99 % of I/Os take at most


@dataclass(frozen=True)
class Comparison:
    """One server beside another."""

    ours: str
    theirs: str
    goals: Callable[[Row], Goals] = lambda row: Goals()


@dataclass(frozen=True)
class Suite:
    """Servers that are measured in the same rounds."""

    name: str
    title: str
    rows: tuple[Row, ...]
    servers: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]


# By what is read or written, and how deep: the rate, and the CPU time per I/O.
_RATE_AND_CPU = {
    ("read", True): (3.0, 0.35),
    ("write", True): (2.0, 0.35),
    ("mix", True): (2.0, None),
    ("read", False): (1.1, 0.65),
    ("write", False): (2.0, 0.65),
}


def _beside_tgtd(row: Row) -> Goals:
    load = row.workload
    if row.half_of:
        return Goals(p99_at_most=1.0)
    if not row.cached or load.depth == 1:
        return Goals(rate_at_least=1.0)
    if load.sessions > 1:
        return Goals(rate_at_least=2.0)
    return Goals(*_RATE_AND_CPU[load.op, load.block_bytes <= SMALL_BYTES_MAX])


def _digests_beside_tgtd(row: Row) -> Goals:
    return Goals(rate_at_least=1.5)


def _beside_echo(row: Row) -> Goals:
    return Goals(cpu_at_most=2.5)


def _one_worker_beside_tgtd(row: Row) -> Goals:
    load = row.workload
    if load.op != "read" or load.block_bytes > SMALL_BYTES_MAX or load.depth == 1:
        return Goals()
    return Goals(rate_at_least=1.0 if load.depth > 32 else 0.6)


def _one_worker_beside_grpc(row: Row) -> Goals:
    load = row.workload
    small = load.block_bytes <= SMALL_BYTES_MAX
    return Goals(rate_at_least=0.7) if small and load.op == "read" and load.depth == 1 else Goals()


def _two_workers_beside_grpc(row: Row) -> Goals:
    load = row.workload
    large = load.block_bytes > SMALL_BYTES_MAX
    return Goals(rate_at_least=0.8) if large and load.depth == 8 else Goals()


def _beside_tgt_rbd(row: Row) -> Goals:
    return Goals(rate_at_least=1.3) if row.workload.depth > 1 else Goals()


def _beside_rados_bench(row: Row) -> Goals:
    return Goals(rate_at_least=0.7) if row.workload.depth > 1 else Goals()


def _tracked(row: Row) -> Goals:
    if row.workload.depth == 1:
        return Goals(rate_at_least=0.25, added_us_at_most=150)
    return Goals(rate_at_least=0.6)


def _ceph(objectstore: ObjectStore) -> Suite:
    shared = SharedCluster(objectstore)
    return Suite(
        objectstore,
        f"On one small real Ceph ({objectstore}), beside tgt-rbd",
        CEPH_ROWS,
        (
            rados_store(shared),
            rados_cached(shared),
            rados_worker(shared),
            tgt_rbd(shared),
            tgt_rbd(shared, cache=False),
            rados_bench(shared),
        ),
        (
            Comparison(RADOS_CACHED, TGT_RBD, _beside_tgt_rbd),
            Comparison(RADOS, TGT_RBD, _beside_tgt_rbd),
            Comparison(RADOS_WORKER, TGT_RBD),
            Comparison(RADOS, TGT_RBD_UNCACHED),
            Comparison(RADOS, RADOS_BENCHED, _beside_rados_bench),
        ),
    )


OVER_WORKERS = (WORKER_UNIX, WORKER_TCP, TWO_WORKERS, FOUR_WORKERS)


def suites() -> tuple[Suite, ...]:
    """All of them."""
    return (
        Suite(
            "local",
            "Embedded store, beside tgtd",
            LOCAL_ROWS,
            (lunmesh(), lunmesh_compiled(), tgtd()),
            tuple(Comparison(ours, TGTD, _beside_tgtd) for ours in OURS),
        ),
        Suite(
            "digests",
            "Header and data digests, beside tgtd",
            DIGEST_ROWS,
            (lunmesh(), lunmesh_compiled(), tgtd_with_digests()),
            tuple(Comparison(ours, TGTD, _digests_beside_tgtd) for ours in OURS),
        ),
        Suite(
            "floor",
            "What a read costs, beside an echo in C",
            FLOOR_ROWS,
            (lunmesh(), lunmesh_compiled(), echo()),
            tuple(Comparison(ours, ECHO, _beside_echo) for ours in OURS),
        ),
        Suite(
            "workers",
            "Through gRPC workers, beside the embedded store and tgtd's local file",
            WORKER_ROWS,
            (lunmesh(), *map(lunmesh_over_workers, OVER_WORKERS), tgtd(), bare_grpc_stream()),
            (
                *(Comparison(name, EMBEDDED) for name in OVER_WORKERS),
                Comparison(WORKER_UNIX, TGTD, _one_worker_beside_tgtd),
                Comparison(WORKER_UNIX, GRPC, _one_worker_beside_grpc),
                Comparison(TWO_WORKERS, GRPC, _two_workers_beside_grpc),
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
            (Comparison(WITH_REDIS, WORKER_UNIX, _tracked),),
        ),
        _ceph("memstore"),
        _ceph("bluestore"),
    )
