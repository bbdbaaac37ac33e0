"""What the figures have to be beside a peer of the same run, and what they should be."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.rows import Row

SMALL_BYTES_MAX = 4096


@dataclass(frozen=True)
class Goal:
    """A figure has to reach ``wanted``; ``stretch`` is what it is hoped to reach."""

    wanted: float
    stretch: float | None = None
    at_most: bool = False  # else at least

    def met(self, value: float) -> bool:
        return self._reaches(value, self.wanted)

    def stretched(self, value: float) -> bool:
        return self.stretch is not None and self._reaches(value, self.stretch)

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.wanted:g}"


def at_least(wanted: float, stretch: float | None = None) -> Goal:
    """For what is to be large."""
    return Goal(wanted, stretch)


def at_most(wanted: float, stretch: float | None = None) -> Goal:
    """For what is to be small."""
    return Goal(wanted, stretch, at_most=True)


@dataclass(frozen=True)
class Goals:
    """Of one row, beside the other server of the same run."""

    rate: Goal | None = None  # ratio
    cpu: Goal | None = None  # ratio of server CPU time per I/O
    added_us: Goal | None = None  # difference of the time an I/O takes; depth 1
    p99: Goal | None = None  # ratio of the time that 99 % of I/Os take at most


NONE = Goals()
# By what is read or written, and whether in small blocks: the rate, and the CPU time per I/O.
_SMALL_CPU = at_most(0.35, 0.25)
_LARGE_CPU = at_most(0.65, 0.45)
_AT_DEPTH = {
    ("read", True): Goals(at_least(3.0, 4.0), _SMALL_CPU),
    ("write", True): Goals(at_least(2.0, 2.7), _SMALL_CPU),
    ("mix", True): Goals(at_least(2.0, 2.8)),
    ("read", False): Goals(at_least(1.1, 1.5), _LARGE_CPU),
    ("write", False): Goals(at_least(2.0, 2.6), _LARGE_CPU),
}


def _is_small(row: Row) -> bool:
    return row.workload.block_bytes <= SMALL_BYTES_MAX


def beside_tgtd(row: Row) -> Goals:
    load = row.workload
    if row.half_of:
        return Goals(p99=at_most(1.0, 0.5))
    if not row.cached:
        return Goals(at_least(1.0, 1.3))
    if load.depth == 1:
        return Goals(at_least(1.0, 1.2))
    if load.sessions > 1:
        return Goals(at_least(2.0, 3.0))
    return _AT_DEPTH[load.op, _is_small(row)]


def digests_beside_tgtd(row: Row) -> Goals:
    return Goals(at_least(1.5, 2.0))


def beside_echo(row: Row) -> Goals:
    return Goals(cpu=at_most(2.5, 1.7))


def one_worker_beside_tgtd(row: Row) -> Goals:
    depth = row.workload.depth
    if not _is_small(row) or depth == 1:
        return NONE
    return Goals(at_least(1.0, 1.5) if depth > 32 else at_least(0.6, 1.0))


def one_worker_beside_grpc(row: Row) -> Goals:
    if not _is_small(row) or row.workload.depth > 1:
        return NONE
    return Goals(at_least(0.7, 0.85))


def two_workers_beside_grpc(row: Row) -> Goals:
    if _is_small(row) or row.workload.depth != 8:
        return NONE
    return Goals(at_least(0.8, 1.0))


def rados_beside_tgt_rbd(row: Row) -> Goals:
    return Goals(at_least(1.3, 2.0)) if row.workload.depth > 1 else NONE


def rados_worker_beside_tgt_rbd(row: Row) -> Goals:
    return Goals(at_least(1.0)) if row.workload.depth > 1 else NONE


def rados_beside_rados_bench(row: Row) -> Goals:
    return Goals(at_least(0.7, 0.9)) if row.workload.depth > 1 else NONE


def tracked(row: Row) -> Goals:
    if row.workload.depth == 1:
        return Goals(at_least(0.25, 0.9), added_us=at_most(150))
    return Goals(at_least(0.6, 0.85))
