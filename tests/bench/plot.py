"""The goals as a picture: a bar for each, as long as the ratio is to its goal, with its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tests.bench.report import Verdict

ROW, TOP, LEFT, WIDTH, MARGIN = 20, 44, 430, 420, 90
SCALE_MAX = 3.0  # of the goal; what is beyond ends there
GOOD, BAD, INK, FAINT = "#3a7d44", "#b3402a", "#222", "#bbb"


def as_svg(judged: Sequence[Verdict], about: str) -> str:
    """Longer is better, behind the line at 1 is passed; the thin line is from round to round."""
    goals = [verdict for verdict in judged if verdict.goal]
    height = TOP + ROW * len(goals) + 20
    width = LEFT + WIDTH + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="18" font-weight="bold">Goals: 1 is reached ({escape(about)})</text>',
    ]
    for tick in (0, 1, 2, 3):
        x = _x(tick)
        colour = INK if tick == 1 else FAINT
        lines.append(f'<path d="M{x} {TOP - 8}V{height - 12}" stroke="{colour}"/>')
        lines.append(f'<text x="{x}" y="{TOP - 12}" text-anchor="middle">{tick}</text>')
    for number, verdict in enumerate(goals):
        y = TOP + ROW * number
        colour = GOOD if verdict.passed else BAD
        first, last = sorted((_met(verdict, verdict.lowest), _met(verdict, verdict.highest)))
        name = f"{verdict.row}: {verdict.metric}{f' / {verdict.theirs}' * bool(verdict.theirs)}"
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{_x(_met(verdict, verdict.value)) - LEFT:.1f}"'
            f' height="{ROW - 7}" fill="{colour}"/>',
            f'<path d="M{_x(first):.1f} {y + 9}H{_x(last):.1f}" stroke="{INK}"/>',
            f'<text x="{LEFT + WIDTH + 8}" y="{y + 13}">'
            f"{verdict.value:.2f} {escape(verdict.goal)}</text>",
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _met(verdict: Verdict, value: float) -> float:
    """How much of its goal a value is; what is to be small counts the other way round."""
    sign, _, number = verdict.goal.partition(" ")
    goal = float(number)
    if sign == "≥":
        return max(value, 0.0) / goal
    return goal / value if value > 0 else SCALE_MAX


def _x(share: float) -> float:
    return LEFT + WIDTH * min(share, SCALE_MAX) / SCALE_MAX
