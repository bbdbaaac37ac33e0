"""Waiting for something to be so, and not longer than makes sense."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WAIT_SECONDS: Final = 100.0  # below the time-out of a test
LOOK_SECONDS: Final = 0.02


def until(condition: Callable[[], object], what: str = "it does not come to be so") -> None:
    """Look again and again; AssertionError with ``what`` if it is not so within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(LOOK_SECONDS)
