"""Options that are one word or number: what each may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from target.config.errors import did_you_mean

IO_THREADS_MAX = 256
SECONDS_MAX = 3600.0
BUSY_POLL_MAX = 1000  # µs


def on_off(given: bool | str) -> bool:
    """``on`` or ``off``; true and false in a file."""
    if isinstance(given, bool):
        return given
    if given not in ("on", "off"):
        raise ValueError(f"must be on or off, not {given!r}")
    return given == "on"


def count(most: int) -> Callable[[int], int]:
    """A number of things, at least one."""

    def parse(given: int) -> int:
        if not 1 <= given <= most:
            raise ValueError(f"must be 1 to {most}, not {given}")
        return given

    return parse


def seconds(least: float) -> Callable[[float], float]:
    """A time."""

    def parse(given: float) -> float:
        if not least <= given <= SECONDS_MAX:
            raise ValueError(f"must be {least:g} to {SECONDS_MAX:g} seconds, not {given:g}")
        return given

    return parse


def microseconds(most: int) -> Callable[[int], float]:
    """A short time; it is kept in seconds."""

    def parse(given: int) -> float:
        if not 0 <= given <= most:
            raise ValueError(f"must be 0 to {most} µs, not {given}")
        return given / 1e6

    return parse


def choice(literal: Any) -> Callable[[str], Any]:
    """One of the words of a ``Literal``."""
    words: tuple[str, ...] = get_args(literal)

    def parse(given: str) -> str:
        if given not in words:
            raise ValueError(
                f"must be one of {', '.join(words)}, not {given!r}{did_you_mean(given, words)}"
            )
        return given

    return parse
