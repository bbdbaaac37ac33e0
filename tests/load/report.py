"""What was measured: tables in the terminal, a page with pictures, JSON, and a page of the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.charts import Chart, Line
from tests.load.fio import PERCENTILES, Measured
from tests.load.jobs import Section
from tests.load.measure import LARGE_FROM_BYTES, SMALL_BYTES, Point
from tests.load.ways import NBD, TITLES

_PICTURED = ("50", "99", "99.9")
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;"
    "max-width:61rem;padding:0 1rem}table{border-collapse:collapse;font-size:13px;display:block;"
    "overflow-x:auto}td,th{padding:.2rem .6rem;border-bottom:1px solid #8884;text-align:right;"
    "white-space:nowrap}td:first-child,th:first-child,.facts td{text-align:left}"
    "svg{max-width:100%;height:auto}.charts{display:flex;flex-wrap:wrap;gap:1rem}.failed{color:#c33}"
)
HEADINGS = ("section", "server", "rate", "50 %", "90 %", "99 %", "99.9 %", "CPU per I/O")


@dataclass(frozen=True)
class Report:
    about: dict[str, str]
    versions: dict[str, str]  # by server
    missing: list[str]
    points: list[Point]

    def ways(self) -> list[str]:
        return list(dict.fromkeys(point.way for point in self.points))

    def of(self, way: str) -> list[Point]:
        return [point for point in self.points if point.way == way]

    def failures(self) -> list[str]:
        return [f"{p.way}, {p.server}: {text}" for p in self.points for text in p.failures]


def as_json(report: Report) -> dict[str, object]:
    return asdict(report)


def print_tables(console: Console, report: Report) -> None:
    for way in report.ways():
        table = Table(title=TITLES[way], title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right")
        for row in _rows(report.of(way)):
            table.add_row(*row)
        console.print(table)


def page(report: Report) -> str:
    """HTML with nothing outside it."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>fio on lunmesh</title>",
        f"<style>{_STYLE}</style><h1>fio on lunmesh</h1><table class='facts'>",
        *(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in _facts(report)),
        "</table>",
        *(
            f"<p class='failed'>{escape(text)}</p>"
            for text in (*report.missing, *report.failures())
        ),
        "<div class='charts'>",
        *(chart.svg() for chart in charts(report).values()),
        "</div>",
    ]
    for way in report.ways():
        parts.append(f"<h2>{escape(TITLES[way])}</h2><table><tr>")
        parts += [f"<th>{heading}" for heading in HEADINGS]
        for row in _rows(report.of(way)):
            parts.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row))
        parts.append("</table>")
    return "\n".join(parts) + "\n"


def publish(report: Report, command: str, docs: Path) -> Path:
    """The page of the documentation and its pictures; returns the page."""
    pictures = docs / "images"
    pictures.mkdir(exist_ok=True)
    drawn = charts(report)
    for name, chart in drawn.items():
        (pictures / f"fio-{name}.svg").write_text(chart.svg() + "\n")
    lines = [
        "# fio on this machine",
        "",
        f"Written by `{command}`, not by hand. The jobs are those of",
        "[deploy/fio](../deploy/fio/README.md), which run on a mounted disk as well. A line is the",
        "run of the median rate; through the kernel there is one run. What fio and the initiator",
        "cost is in it: they share the machine with the target, and at depth they take most of it.",
        "[performance.md](performance.md) has clients that cost less.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(report)),
        "",
        *_side_by_side([f"![{c.title}](images/fio-{name}.svg)" for name, c in drawn.items()]),
    ]
    for way in report.ways():
        lines += ["", f"## {TITLES[way]}", "", f"| {' | '.join(HEADINGS)} |"]
        lines.append("|---|---|" + "--:|" * (len(HEADINGS) - 2))
        lines += [f"| {' | '.join(row)} |" for row in _rows(report.of(way))]
    if report.missing or report.failures():
        lines += ["", *(f"- {text}" for text in (*report.missing, *report.failures()))]
    path = docs / "fio.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _side_by_side(pictures: Sequence[str]) -> list[str]:
    """Two in a row, by a table: that is all that Markdown has."""
    rows = [f"| {' | '.join(pictures[at : at + 2])} |" for at in range(0, len(pictures), 2)]
    return ["| | |", "|---|---|", *rows]


def charts(report: Report) -> dict[str, Chart]:
    """By a short name. They are of the way through NBD, which has a whole CPU to itself."""
    points = report.of(NBD)
    servers = list(report.versions)
    found: dict[str, Chart] = {}

    def add(name: str, title: str, job: str, axis: _Axis, kind: _Kind) -> None:
        chosen = [p for p in points if p.section.job == job and axis.wanted(p.section)]
        if any(point.runs for point in chosen):
            found[name] = _chart(title, chosen, servers, axis, kind)

    for op in ("read", "write"):
        title = f"4 KiB random {op}s"
        add(f"random-{op}-iops", f"{title}: rate", f"random-{op}", _DEPTH, _IOPS)
        add(f"random-{op}-latency", f"{title}: latency", f"random-{op}", _DEPTH, _LATENCY)
        add(f"random-{op}-size", f"Random {op}s, depth 16", f"random-{op}", _SIZE, _THROUGHPUT)
        add(f"sequential-{op}", f"Sequential {op}s, depth 8", f"sequential-{op}", _BS, _THROUGHPUT)
    add("latency", "4 KiB random reads at a fixed rate: latency", "latency", _RATE, _LATENCY)
    return found


@dataclass(frozen=True)
class _Axis:
    """What a chart goes over."""

    name: str
    wanted: Callable[[Section], bool]
    place: Callable[[Section], int]
    label: Callable[[int], str] = str


@dataclass(frozen=True)
class _Kind:
    """What a chart shows: lines for each server, by name and value."""

    up: str
    lines: Sequence[tuple[str, Callable[[Measured], float]]]
    logarithmic: bool = False


def _size(value: int) -> str:
    return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"


_DEPTH = _Axis("commands at once", lambda s: s.block_bytes == SMALL_BYTES, lambda s: s.depth)
_SIZE = _Axis("block size", lambda s: s.depth == 16, lambda s: s.block_bytes, _size)
_BS = _Axis("block size", lambda s: True, lambda s: s.block_bytes, _size)
_RATE = _Axis("reads asked for a second", lambda s: s.rate > 0, lambda s: s.rate, "{:,}".format)
_IOPS = _Kind("I/O a second", [("", lambda m: m.iops)])
_THROUGHPUT = _Kind("MB/s", [("", lambda m: m.bytes_per_second / 1e6)])
_LATENCY = _Kind(
    "µs",
    [(f" {name} %", lambda m, name=name: m.latency_us[name]) for name in _PICTURED],  # type: ignore[misc]
    logarithmic=True,
)


def _chart(
    title: str, points: Sequence[Point], servers: Sequence[str], axis: _Axis, kind: _Kind
) -> Chart:
    places = sorted({axis.place(point.section) for point in points})
    at = {
        (point.server, axis.place(point.section)): point.shown.measured
        for point in points
        if point.shown is not None
    }
    lines = [
        Line(
            f"{server}{name}",
            [value(found) if (found := at.get((server, place))) else None for place in places],
            colour,
            dash,
        )
        for colour, server in enumerate(servers)
        for dash, (name, value) in enumerate(kind.lines)
    ]
    labels = [axis.label(place) for place in places]
    return Chart(title, axis.name, labels, kind.up, lines, kind.logarithmic)


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield from report.about.items()
    yield from report.versions.items()


def _rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Cells as HEADINGS say; the servers of a section below one another."""
    sections = list(dict.fromkeys(point.section for point in points))
    return [
        _cells(point)
        for section in sections
        for point in sorted(points, key=lambda point: point.server)
        if point.section == section
    ]


def _cells(point: Point) -> tuple[str, ...]:
    section = point.section
    if point.shown is None:
        return (section.title, point.server, "failed", *[""] * (len(HEADINGS) - 3))
    done = point.shown.measured
    large = section.block_bytes >= LARGE_FROM_BYTES
    rate = f"{done.bytes_per_second / 1e6:,.0f} MB/s" if large else f"{done.iops:,.0f}/s"
    latency = (f"{done.latency_us[name]:,.0f} µs" for name in PERCENTILES)
    return (section.title, point.server, rate, *latency, f"{point.shown.cpu_us:.1f} µs")
