"""The tables and the JSON file. Every figure of a table is a median over the rounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Results, Sample, middle
from tests.bench.rows import Row
from tests.bench.servers import PRODUCT

_LARGE_BLOCK_BYTES = 64 << 10


@dataclass(frozen=True)
class Verdict:
    """A goal of a row, and what came of it."""

    row: str
    metric: str  # "rate" or "cpu"
    ratio: float
    lowest: float  # of the rounds' own ratios
    highest: float
    goal: str
    passed: bool | None  # None: the row has no such goal


def _rate(sample: Sample) -> float:
    return sample.rate


def _cpu(sample: Sample) -> float:
    return sample.cpu_per_io


def verdicts(rows: Sequence[Row], results: Results, peer: str) -> list[Verdict]:
    found = []
    for row in rows:
        ours, theirs = results.samples[row.name][PRODUCT], results.samples[row.name][peer]
        for metric, value, least, most in (
            ("rate", _rate, row.rate_at_least, None),
            ("cpu", _cpu, None, row.cpu_at_most),
        ):
            ratio = _ratio(middle(ours, value), middle(theirs, value))
            by_round = [_ratio(value(a), value(b)) for a, b in zip(ours, theirs, strict=True)]
            goal, passed = "", None
            if least is not None:
                goal, passed = f"≥ {least:g}", ratio >= least
            if most is not None:
                goal, passed = f"≤ {most:g}", ratio <= most
            found.append(
                Verdict(row.name, metric, ratio, min(by_round), max(by_round), goal, passed)
            )
    return found


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else float("inf")


def print_report(
    console: Console,
    rows: Sequence[Row],
    results: Results,
    servers: Sequence[str],
    verdicts_by_row: Sequence[Verdict],
) -> None:
    judged = {(verdict.row, verdict.metric): verdict for verdict in verdicts_by_row}
    rates = _table("I/O rate (highest against lowest round in brackets)", servers, judged)
    cpu = _table("Server CPU time, µs per I/O = s per million I/Os", servers, judged)
    volume = Table(title="Server CPU time", title_justify="left")
    volume.add_column("row")
    for server in servers:
        volume.add_column(f"{server}\ns/100k I/Os", justify="right")
        volume.add_column(f"{server}\ns/GiB", justify="right")
    for row in rows:
        by_server = [results.samples[row.name][server] for server in servers]
        rates.add_row(
            row.name,
            *(_rate_cell(row, samples) for samples in by_server),
            *_verdict_cells(judged.get((row.name, "rate"))),
        )
        cpu.add_row(
            row.name,
            *(f"{middle(s, _cpu) * 1e6:.1f} {_spread(s, _cpu)}" for s in by_server),
            *_verdict_cells(judged.get((row.name, "cpu"))),
        )
        volume.add_row(row.name, *_volume_cells(row, by_server))
    for table in (rates, cpu, volume, _memory_table(results, servers)):
        console.print(table)


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
    word = {True: "[green]pass", False: "[red]FAIL", None: ""}[verdict.passed]
    rounds = f"{verdict.lowest:.2f}–{verdict.highest:.2f}"
    return (f"{verdict.ratio:.2f}", rounds, verdict.goal, word)


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


def write_json(
    path: Path,
    *,
    about: dict[str, str],
    rows: Sequence[Row],
    results: Results,
    verdicts_by_row: Sequence[Verdict],
    missing: Sequence[str],
) -> None:
    document = {
        "about": about,
        "missing": list(missing),
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
        "verdicts": [asdict(verdict) for verdict in verdicts_by_row],
        "memory": {server: asdict(memory) for server, memory in results.memory.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
