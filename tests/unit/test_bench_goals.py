"""What `make bench` judges: every row that the product has promised, beside its peer.

The table is the promise; the bench's own definitions are held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.bench import growth
from tests.bench.ceph import (
    RADOS,
    RADOS_BENCHED,
    RADOS_CACHED,
    RADOS_CACHED_COMPILED,
    RADOS_COMPILED,
    RADOS_WORKER,
    TGT_RBD,
)
from tests.bench.cluster import WITH_REDIS
from tests.bench.goals import at_least, at_most
from tests.bench.measure import Results, Sample
from tests.bench.report import Verdict, judge, verdicts
from tests.bench.rows import Row
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
)
from tests.bench.suites import Comparison, Suite, suites

SUITES = {suite.name: suite for suite in suites()}
# What is compared, and which way the figure has to go.
RATE, CPU, P99, ADDED = ("rate", "≥"), ("cpu", "≤"), ("p99", "≤"), ("added", "≤")


@dataclass(frozen=True)
class Promise:
    """A figure of rows whose names begin so, and with which clients."""

    suite: str
    rows: tuple[str, ...]
    pair: tuple[str, str]
    metric: tuple[str, str]
    wanted: float
    stretch: float | None = None

    def __str__(self) -> str:
        return f"{self.suite}: {self.rows[0]}: {self.metric[0]} to {self.pair[1]}"


def local(
    rows: tuple[str, ...], wanted: float, stretch: float, metric: tuple[str, str] = RATE
) -> tuple[Promise, ...]:
    """Of both builds, beside tgtd."""
    return tuple(
        Promise("local", rows, (ours, TGTD), metric, wanted, stretch)
        for ours in (EMBEDDED, COMPILED)
    )


def ceph(pair: tuple[str, str], wanted: float, stretch: float | None) -> tuple[Promise, ...]:
    rows = (
        *("4 KiB random read d32", "4 KiB random write d32"),
        *("256 KiB seq read d32", "256 KiB seq write d32"),
    )
    return tuple(Promise(store, rows, pair, RATE, wanted, stretch) for store in CEPH)


CEPH = ("memstore", "bluestore")
ONE = (WORKER_UNIX, TGTD)
SMALL_1 = ("4 KiB random read d1 ", "4 KiB random write d1 ")
SMALL_32 = ("4 KiB random read d32 ", "4 KiB random write d32 ")
SMALL_128 = ("4 KiB random read d128 ", "4 KiB random write d128 ")
LARGE_8 = ("256 KiB seq read d8 ", "256 KiB seq write d8 ")
PROMISES = (
    *local(("4 KiB random read d1 ",), 1.0, 1.2),
    *local(("4 KiB random read d32 ",), 3.0, 4.0),
    *local(("4 KiB random write d1 ",), 1.0, 1.2),
    *local(("4 KiB random write d32 ",), 2.0, 2.7),
    *local(("4 KiB random mix d32 ",), 2.0, 2.8),
    *local(("4 KiB random read, 8 sessions × d16 ",), 2.0, 3.0),
    *local(("256 KiB seq read d8 ",), 1.1, 1.5),
    *local(("256 KiB seq write d8 ",), 2.0, 2.6),
    *local(SMALL_32, 0.35, 0.25, CPU),
    *local(LARGE_8, 0.65, 0.45, CPU),
    *local(("4 KiB random read d32, nothing cached ",), 1.0, 1.3),
    *local(("4 KiB random read at half of tgtd's rate ",), 1.0, 0.5, P99),
    *(
        Promise(
            "digests",
            tuple(f"{row}load, digests" for row in (*SMALL_32, *LARGE_8)),
            (ours, TGTD),
            RATE,
            1.5,
            2.0,
        )
        for ours in (EMBEDDED, COMPILED)
    ),
    *(
        Promise("floor", ("4 KiB random read d32 ",), (ours, ECHO), CPU, 2.5, 1.7)
        for ours in (EMBEDDED, COMPILED)
    ),
    Promise("workers", SMALL_32, ONE, RATE, 0.6, 1.0),
    Promise("workers", SMALL_128, ONE, RATE, 1.0, 1.5),
    Promise("workers", SMALL_1, (WORKER_UNIX, GRPC), RATE, 0.7, 0.85),
    Promise("workers", LARGE_8, (TWO_WORKERS, GRPC), RATE, 0.8, 1.0),
    *(
        Promise("cluster", rows, (WITH_REDIS, WORKER_UNIX), metric, wanted, stretch)
        for rows, metric, wanted, stretch in (
            (SMALL_32, RATE, 0.6, 0.85),
            (SMALL_1, RATE, 0.25, 0.9),
            (SMALL_1, ADDED, 150, None),
        )
    ),
    *ceph((RADOS, TGT_RBD), 1.3, 2.0),
    *ceph((RADOS_COMPILED, TGT_RBD), 1.3, 2.0),
    *ceph((RADOS_CACHED, TGT_RBD), 1.3, 2.0),
    *ceph((RADOS_CACHED_COMPILED, TGT_RBD), 1.3, 2.0),
    *ceph((RADOS, RADOS_BENCHED), 0.7, 0.9),
    *ceph((RADOS_COMPILED, RADOS_BENCHED), 0.7, 0.9),
    *ceph((RADOS_WORKER, TGT_RBD), 1.0, None),
)
GROWTH = {
    "CPU per read, 64 sessions": (1.2, 1.05),
    "CPU per read, 1000 volumes": (1.2, 1.05),
    "CPU per read, a volume of 16 TiB": (1.2, 1.05),
    "resident when idle, MiB": (80, None),
    "resident for a session, KiB": (64, None),
    "resident for an outstanding 4 KiB read, KiB": (8, None),
    "resident for an outstanding 4 KiB write, KiB": (8, None),
    "start to the ready line, s of CPU": (1.0, 0.4),
}


def judged(suite: Suite, row: Row, promise: Promise, figure: float) -> Verdict:
    """What the bench makes of a run in which ours is so much of the peer's."""
    metric, (ours, theirs) = promise.metric[0], promise.pair
    by_metric = {
        "rate": (Sample(figure, 1, 1), Sample(1, 1, 1)),
        "cpu": (Sample(1, 1, figure), Sample(1, 1, 1)),
        "p99": (Sample(1, 1, 1, figure), Sample(1, 1, 1, 1)),
        "added": (Sample(1, 1 + figure / 1e6, 1), Sample(1, 1, 1)),
    }
    mine, peers = by_metric[metric]
    results = Results({row.name: {ours: [mine], theirs: [peers]}}, {})
    (found,) = (it for it in verdicts([row], results, suite.comparisons) if it.metric == metric)
    return found


@pytest.mark.parametrize("promise", PROMISES, ids=str)
def test_the_bench_judges_what_was_promised(promise: Promise) -> None:
    suite = SUITES[promise.suite]
    assert set(promise.pair) <= {server.name for server in suite.servers}
    better = 1.001 if promise.metric[1] == "≥" else 0.999
    for start in promise.rows:
        rows = [row for row in suite.rows if row.name.startswith(start)]
        assert rows, f"no row {start}"
        for row in rows:
            best = judged(suite, row, promise, (promise.stretch or promise.wanted) * better)
            assert best.goal == f"{promise.metric[1]} {promise.wanted:g}"
            assert best.stretch == promise.stretch
            assert (best.passed, best.stretched) == (True, promise.stretch is not None)
            enough = judged(suite, row, promise, promise.wanted * better)
            assert (enough.passed, enough.stretched) == (True, False)
            assert judged(suite, row, promise, promise.wanted / better).passed is False


def test_no_goal_is_unpromised() -> None:
    """A goal that this table does not know would be nobody's promise."""
    known = {(p.suite, p.pair, p.metric[0], start) for p in PROMISES for start in p.rows}
    for suite in SUITES.values():
        for comparison in suite.comparisons:
            for row in suite.rows:
                goals = comparison.goals(row)
                wanted = {
                    "rate": goals.rate,
                    "cpu": goals.cpu,
                    "p99": goals.p99,
                    "added": goals.added_us,
                }
                for metric in (name for name, goal in wanted.items() if goal):
                    assert any(
                        (suite.name, (comparison.ours, comparison.theirs), metric) == about[:3]
                        and row.name.startswith(about[3])
                        for about in known
                    ), f"{suite.name}: {row.name}: {metric} of {comparison.ours}"


@pytest.mark.parametrize("name", [WORKER_UNIX, WORKER_WIRE, WORKER_TCP, TWO_WORKERS, FOUR_WORKERS])
def test_every_way_to_a_worker_stands_beside_the_embedded_store(name: str) -> None:
    suite = SUITES["workers"]
    assert Comparison(name, EMBEDDED) in suite.comparisons
    loads = {(r.workload.op, r.workload.block_bytes >> 10, r.workload.depth) for r in suite.rows}
    assert loads >= {
        (op, kib, depth) for op in ("read", "write") for kib in (4, 256) for depth in (1, 32)
    }


def test_what_grows_is_judged() -> None:
    assert {
        what: (goal.wanted, goal.stretch) for what, goal in growth.GOALS.items() if goal.at_most
    } == GROWTH
    assert growth.LARGE_BYTES == 16 << 40


def test_a_verdict_says_how_far_it_went() -> None:
    pair, goal = ("a", "b"), at_least(1.0, 2.0)
    assert [judge("row", pair, "rate", [it, it], goal).word for it in (0.5, 1.0, 2.0)] == [
        "[red]FAIL",
        "[green]pass",
        "[green]pass, stretch",
    ]
    assert judge("row", pair, "cpu", [0.5, 0.4, 0.6], at_most(0.5)).word == "[green]pass"
    assert judge("row", pair, "cpu", [0.5, 0.4, 0.6], None).word == ""
