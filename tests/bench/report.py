"""The tables and the JSON file. Every figure of a table is a median over the rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Results, Sample, middle
from tests.bench.rows import Row
from tests.bench.suites import Comparison

_LARGE_BLOCK_BYTES = 64 << 10
# Name, value of a sample, how those of two servers are compared, the least and most wanted.
_Metric = tuple[
    str,
    Callable[[Sample], float],
    Callable[[float, float], float],
    float | None,
    float | None,
]
_VERDICTS = {True: "[green]pass", False: "[red]FAIL", None: ""}


@dataclass(frozen=True)
class Verdict:
    """A comparison in one row, and what came of its goal."""

    row: str
    ours: str
    theirs: str
    metric: str  # "rate", "cpu" or "p99": ratios; "added": µs an I/O
    value: float
    lowest: float  # of the rounds' own values
    highest: float
    goal: str
    passed: bool | None  # None: there is no such goal


def _rate(sample: Sample) -> float:
    return sample.rate


def _cpu(sample: Sample) -> float:
    return sample.cpu_per_io


def _microseconds(sample: Sample) -> float:
    return 1e6 / sample.rate


def _p99(sample: Sample) -> float:
    return sample.p99_us


def verdicts(
    rows: Sequence[Row], results: Results, comparisons: Sequence[Comparison]
) -> list[Verdict]:
    """Every comparison of servers that were measured, in every row."""
    found = []
    for row in rows:
        samples = results.samples[row.name]
        for comparison in comparisons:
            if comparison.ours not in samples or comparison.theirs not in samples:
                continue
            ours, theirs = samples[comparison.ours], samples[comparison.theirs]
            if not ours or not theirs:
                continue  # a row that depends on a peer that is missing
            goals = comparison.goals(row)
            metrics: list[_Metric] = [
                ("rate", _rate, _ratio, goals.rate_at_least, None),
                ("cpu", _cpu, _ratio, None, goals.cpu_at_most),
            ]
            if goals.p99_at_most is not None:
                metrics.append(("p99", _p99, _ratio, None, goals.p99_at_most))
            if goals.added_us_at_most is not None:
                metrics.append(("added", _microseconds, _added, None, goals.added_us_at_most))
            for metric, value, compare, least, most in metrics:
                compared = compare(middle(ours, value), middle(theirs, value))
                by_round = [compare(value(a), value(b)) for a, b in zip(ours, theirs, strict=True)]
                goal, passed = "", None
                if least is not None:
                    goal, passed = f"≥ {least:g}", compared >= least
                if most is not None:
                    goal, passed = f"≤ {most:g}", compared <= most
                verdict = Verdict(
                    row.name,
                    comparison.ours,
                    comparison.theirs,
                    metric,
                    compared,
                    min(by_round),
                    max(by_round),
                    goal,
                    passed,
                )
                found.append(verdict)
    return found


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else float("inf")


def _added(ours: float, theirs: float) -> float:
    return ours - theirs


def print_report(
    console: Console,
    rows: Sequence[Row],
    results: Results,
    servers: Sequence[str],
    judged: Sequence[Verdict],
) -> None:
    """Tables of the rows; what is compared stands in the row where that is one pair only."""
    pairs = {(verdict.ours, verdict.theirs) for verdict in judged}
    beside = {(v.row, v.metric): v for v in judged} if len(pairs) == 1 else {}
    rates = _table("I/O rate (highest against lowest round in brackets)", servers, beside)
    cpu = _table("Server CPU time, µs per I/O = s per million I/Os", servers, beside)
    volume = Table(title="Server CPU time", title_justify="left")
    volume.add_column("row")
    for server in servers:
        volume.add_column(f"{server}\ns/100k I/Os", justify="right")
        volume.add_column(f"{server}\ns/GiB", justify="right")
    for row in rows:
        by_server = [results.samples[row.name][server] for server in servers]
        if not all(by_server):
            continue
        rates.add_row(
            row.name,
            *(_rate_cell(row, samples) for samples in by_server),
            *_verdict_cells(beside.get((row.name, "rate"))),
        )
        cpu.add_row(
            row.name,
            *(f"{middle(s, _cpu) * 1e6:.1f} {_spread(s, _cpu)}" for s in by_server),
            *_verdict_cells(beside.get((row.name, "cpu"))),
        )
        volume.add_row(row.name, *_volume_cells(row, by_server))
    tables = [rates, cpu, volume, _memory_table(results, servers)]
    if added := [verdict for verdict in judged if verdict.metric == "added"]:
        tables.insert(1, _added_table(added))
    if len(pairs) > 1:
        tables.insert(2, _comparison_table(rows, judged))
        tables.remove(volume)  # it would be too wide, and says what the table of CPU time says
    for table in tables:
        console.print(table)


def _added_table(judged: Sequence[Verdict]) -> Table:
    table = Table(title="Time that is added to an I/O, µs", title_justify="left")
    for heading in ("row", "to", "added", "by round", "goal", ""):
        table.add_column(heading, justify="left" if heading in ("row", "to") else "right")
    for verdict in judged:
        rounds = f"{verdict.lowest:.0f}–{verdict.highest:.0f}"
        word = _VERDICTS[verdict.passed]
        table.add_row(
            verdict.row, verdict.theirs, f"{verdict.value:.0f}", rounds, verdict.goal, word
        )
    return table


def _comparison_table(rows: Sequence[Row], judged: Sequence[Verdict]) -> Table:
    pairs = dict.fromkeys((verdict.ours, verdict.theirs) for verdict in judged)
    table = Table(title="Rate, as a ratio", title_justify="left")
    table.add_column("row")
    for ours, theirs in pairs:
        table.add_column(f"{ours}\nto {theirs}", justify="right")
    by_cell = {(v.row, v.ours, v.theirs): v for v in judged if v.metric == "rate"}
    for row in rows:
        table.add_row(row.name, *(_ratio_cell(by_cell[row.name, *pair]) for pair in pairs))
    return table


def _ratio_cell(verdict: Verdict) -> str:
    goal = f"\n{verdict.goal} {_VERDICTS[verdict.passed]}" if verdict.goal else ""
    return f"{verdict.value:.2f} ({verdict.lowest:.2f}–{verdict.highest:.2f}){goal}"


def _table(title: str, servers: Sequence[str], judged: object) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("row")
    for server in servers:
        table.add_column(server, justify="right")
    if judged:
        for heading in ("ratio", "by round", "goal", ""):
            table.add_column(heading, justify="right")
    return table


def _rate_cell(row: Row, samples: Sequence[Sample]) -> str:
    rate = middle(samples, _rate)
    if row.workload.block_bytes >= _LARGE_BLOCK_BYTES:
        shown = f"{rate * row.workload.block_bytes / 1e6:,.0f} MB/s"
    else:
        shown = f"{rate:,.0f}/s"
    return f"{shown} {_spread(samples, _rate)}"


def _spread(samples: Sequence[Sample], value: Callable[[Sample], float]) -> str:
    values = [value(sample) for sample in samples]
    return f"(×{max(values) / min(values):.2f})" if min(values) else "(×?)"


def _verdict_cells(verdict: Verdict | None) -> tuple[str, ...]:
    if verdict is None:
        return ()
    word = _VERDICTS[verdict.passed]
    rounds = f"{verdict.lowest:.2f}–{verdict.highest:.2f}"
    return (f"{verdict.value:.2f}", rounds, verdict.goal, word)


def _volume_cells(row: Row, by_server: Sequence[Sequence[Sample]]) -> list[str]:
    cells = []
    for samples in by_server:
        per_io = middle(samples, _cpu)
        cells.append(f"{per_io * 1e5:.2f}")
        cells.append(f"{per_io * (1 << 30) / row.workload.block_bytes:.2f}")
    return cells


def _memory_table(results: Results, servers: Sequence[str]) -> Table:
    table = Table(title="Server's resident memory", title_justify="left")
    for heading in ("", "idle", "after the runs", "peak"):
        table.add_column(heading, justify="right" if heading else "left")
    for server in servers:
        memory = results.memory[server]
        values = (memory.idle_bytes, memory.after_bytes, memory.peak_bytes)
        table.add_row(server, *(f"{value / (1 << 20):.1f} MiB" for value in values))
    return table


def as_json(rows: Sequence[Row], results: Results, judged: Sequence[Verdict]) -> dict[str, object]:
    """All that was measured of one suite."""
    return {
        "rows": [
            {
                **asdict(row),
                "samples": {
                    server: [
                        {**asdict(s), "rate": s.rate, "cpu_per_io": s.cpu_per_io} for s in samples
                    ]
                    for server, samples in results.samples[row.name].items()
                },
            }
            for row in rows
        ],
        "verdicts": [asdict(verdict) for verdict in judged],
        "memory": {server: asdict(memory) for server, memory in results.memory.items()},
    }


def print_goals(console: Console, judged: Sequence[Verdict]) -> None:
    """Every goal of all suites, and what came of it."""
    table = Table(title="Goals", title_justify="left")
    for heading in ("row", "of", "to", "", "ratio", "by round", "goal", ""):
        table.add_column(heading, justify="right" if heading in ("ratio", "by round") else "left")
    for it in judged:
        if it.goal:
            digits = 0 if it.metric == "added" else 2
            table.add_row(
                *(it.row, it.ours, it.theirs, it.metric, f"{it.value:.{digits}f}"),
                f"{it.lowest:.{digits}f}–{it.highest:.{digits}f}",
                *(it.goal, _VERDICTS[it.passed]),
            )
    console.print(table)


def print_shares(
    console: Console, server: str, row: str, cost: float, by_process: list[Counter[str]]
) -> None:
    """Where the CPU time of each process went; the target is the first, Redis has no frames.

    ``cost`` is that of an I/O, in seconds, all processes together.
    """
    by_process = [found for found in by_process if found.total()]
    table = Table(title=f"{server}: {row}: share of CPU time", title_justify="left")
    table.add_column("")
    names = ["target", *(f"worker {number}" for number in range(1, len(by_process)))]
    for name in names:
        table.add_column(name, justify="right")
    if len(names) == 1:
        table.add_column(f"of {cost * 1e6:.2f} µs", justify="right")
    total: Counter[str] = sum(by_process, Counter())
    for component, _ in total.most_common():
        cells = [100 * found[component] / max(1, found.total()) for found in by_process]
        spent = [f"{cells[0] / 100 * cost * 1e6:.2f}"] if len(names) == 1 else []
        table.add_row(component, *(f"{cell:.0f} %" for cell in cells), *spent)
    console.print(table)
