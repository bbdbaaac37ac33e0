"""The tables and the JSON file. Every figure of a table is a median over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.goals import Goal
from tests.bench.measure import Results, Sample, middle
from tests.bench.rows import Row
from tests.bench.spy import Spent, by_phase
from tests.bench.suites import Comparison

_LARGE_BLOCK_BYTES = 64 << 10
_SHARE_MIN = 0.02  # of a function that has a line of its own
# Name, value of a sample, how those of two servers are compared, what is wanted.
_Metric = tuple[str, Callable[[Sample], float], Callable[[float, float], float], Goal | None]


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
    goal: str = ""
    passed: bool | None = None  # None: there is no such goal
    stretch: float | None = None
    stretched: bool = False

    @property
    def word(self) -> str:
        """What came of the goal."""
        if self.passed is None:
            return ""
        if not self.passed:
            return "[red]FAIL"
        return "[green]pass, stretch" if self.stretched else "[green]pass"


def judge(
    row: str, pair: tuple[str, str], metric: str, values: Sequence[float], goal: Goal | None
) -> Verdict:
    """``values``: the figure, and those of the rounds."""
    value, *by_round = values
    about = (row, *pair, metric, value, min(by_round), max(by_round))
    if goal is None:
        return Verdict(*about)
    return Verdict(*about, str(goal), goal.met(value), goal.stretch, goal.stretched(value))


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
                ("rate", _rate, _ratio, goals.rate),
                ("cpu", _cpu, _ratio, goals.cpu),
            ]
            if goals.p99 is not None:
                metrics.append(("p99", _p99, _ratio, goals.p99))
            if goals.added_us is not None:
                metrics.append(("added", _microseconds, _added, goals.added_us))
            pair = comparison.ours, comparison.theirs
            for metric, value, compare, goal in metrics:
                compared = compare(middle(ours, value), middle(theirs, value))
                by_round = [compare(value(a), value(b)) for a, b in zip(ours, theirs, strict=True)]
                found.append(judge(row.name, pair, metric, (compared, *by_round), goal))
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
        table.add_row(
            verdict.row, verdict.theirs, f"{verdict.value:.0f}", rounds, verdict.goal, verdict.word
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
    goal = f"\n{verdict.goal} {verdict.word}" if verdict.goal else ""
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
    rounds = f"{verdict.lowest:.2f}–{verdict.highest:.2f}"
    return (f"{verdict.value:.2f}", rounds, verdict.goal, verdict.word)


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
    numbers = ("figure", "by round", "goal", "stretch")
    for heading in ("row", "of", "to", "", *numbers, ""):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for it in judged:
        if it.goal:
            digits = 0 if it.metric == "added" else 2
            table.add_row(
                *(it.row, it.ours, it.theirs, it.metric, f"{it.value:.{digits}f}"),
                f"{it.lowest:.{digits}f}–{it.highest:.{digits}f}",
                *(it.goal, "" if it.stretch is None else f"{it.stretch:g}", it.word),
            )
    console.print(table)


def print_spent(console: Console, server: str, row: str, spent: Sequence[Spent]) -> None:
    """Where the CPU time of each process went."""
    for process in dict.fromkeys(it.process for it in spent):
        own = [it for it in spent if it.process == process]
        looks = sum(it.looks for it in own)
        table = Table(
            title=f"{server}: {row}: CPU time of an I/O, {process}, {looks} looks",
            title_justify="left",
            min_width=90,
        )
        table.add_column("phase, function")
        table.add_column("µs", justify="right")
        table.add_column("share", justify="right")
        for phase, microseconds, share, functions in by_phase(own):
            table.add_row(f"[bold]{phase}", f"{microseconds:.2f}", f"{share:.0%}")
            for it in functions:
                if it.function and it.share >= _SHARE_MIN:
                    name = it.function.partition(" (")[0]
                    table.add_row(f"  {name}", f"{it.microseconds:.2f}", f"{it.share:.0%}")
        table.add_row("[bold]all", f"{sum(it.microseconds for it in own):.2f}", "")
        console.print(table)
