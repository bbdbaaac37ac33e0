"""Line charts as SVG, without a library: a picture of a few points is a page of text.

What is drawn stands by itself (its style is inside) and takes light and dark from whoever looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 66, 40
_COLOURS = ("#2f6fde", "#d9730d", "#2a9d5c", "#a855c7")
_DASHES = ("", "7 4", "2 4", "8 3 2 3")
_TICKS_ABOUT = 5
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.t{font-size:13px;font-weight:600}"
    ".g{stroke:#8884;stroke-width:1}.l{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)


@dataclass(frozen=True)
class Line:
    """One value for each place on the x axis, or None where there is none."""

    name: str
    values: Sequence[float | None]
    colour: int = 0  # of the server
    dash: int = 0  # of the percentile


@dataclass(frozen=True)
class Chart:
    title: str
    across: str  # what the x axis is, and its unit
    places: Sequence[str]  # evenly spaced
    up: str  # what the y axis is, and its unit
    lines: Sequence[Line]
    logarithmic: bool = False  # the y axis

    def svg(self) -> str:
        """The picture. A chart without any value is an empty frame."""
        values = [value for line in self.lines for value in line.values if value is not None]
        ticks = _decades(values) if self.logarithmic else _round_steps(values)
        y = _scale(ticks, self.logarithmic)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(self.title)}">',
            f"<style>{_STYLE}</style>",
            f'<text class="t" x="{LEFT}" y="16">{escape(self.title)}</text>',
            *self._legend(),
            *(self._rule(y(tick), _number(tick)) for tick in ticks),
            f'<text x="4" y="{TOP - 10}">{escape(self.up)}</text>',
            f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">'
            f"{escape(self.across)}</text>",
        ]
        for place, name in enumerate(self.places):
            parts.append(
                f'<text x="{self._x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="middle">{escape(name)}</text>'
            )
        parts += [self._drawn(line, y) for line in self.lines]
        return "\n".join([*parts, "</svg>"])

    def _x(self, place: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / max(1, len(self.places))

    def _legend(self) -> list[str]:
        """Two rows of names at most, each behind a piece of its line."""
        parts, step = [], (WIDTH - LEFT - RIGHT) / min(3, max(1, len(self.lines)))
        for number, line in enumerate(self.lines):
            x, y = LEFT + step * (number % 3), 32 + 14 * (number // 3)
            parts.append(
                f'<path class="l" {_stroke(line)} d="M{x:.0f} {y - 4}h22"/>'
                f'<text x="{x + 27:.0f}" y="{y}">{escape(line.name)}</text>'
            )
        return parts

    @staticmethod
    def _rule(y: float, label: str) -> str:
        return (
            f'<path class="g" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )

    def _drawn(self, line: Line, y: Callable[[float], float]) -> str:
        points = [
            (self._x(place), y(value))
            for place, value in enumerate(line.values)
            if value is not None
        ]
        path = "L".join(f"{across:.1f} {up:.1f}" for across, up in points)
        colour = _COLOURS[line.colour % len(_COLOURS)]
        dots = "".join(
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="2.5" fill="{colour}"/>'
            for across, up in points
        )
        return f'<path class="l" {_stroke(line)} d="M{path}"/>{dots}' if points else ""


def _stroke(line: Line) -> str:
    dash = _DASHES[line.dash % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_COLOURS[line.colour % len(_COLOURS)]}"{dashed}'


def _scale(ticks: Sequence[float], logarithmic: bool) -> Callable[[float], float]:
    """From a value to its height in the picture; `ticks` are where the axis begins and ends."""
    measure: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = measure(ticks[0]), measure(ticks[-1])
    return lambda value: (
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (measure(value) - low) / (high - low)
    )


def _round_steps(values: Sequence[float]) -> list[float]:
    """From zero to past the largest, in steps of 1, 2 or 5 times a power of ten."""
    most = max([*values, 1e-9])
    power = 10 ** math.floor(math.log10(most / _TICKS_ABOUT))
    step = next(power * times for times in (1, 2, 5, 10) if most <= power * times * _TICKS_ABOUT)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around all values, which are above zero."""
    low = math.floor(math.log10(min(values, default=1)))
    high = max(math.ceil(math.log10(max(values, default=10))), low + 1)
    return [10.0**power for power in range(low, high + 1)]


def _number(value: float) -> str:
    """1500 as 1,500 and 250000 as 250k: it has to fit beside the axis."""
    return f"{value / 1000:,g}k" if value >= 100_000 else f"{value:,g}"
