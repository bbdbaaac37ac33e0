"""When several things have to end before one goes on."""

from __future__ import annotations

from collections.abc import Callable


def countdown(count: int, done: Callable[[], None]) -> Callable[[], None]:
    """A function whose ``count``-th call calls ``done``."""
    remaining = count

    def one_done() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            done()

    return one_done
