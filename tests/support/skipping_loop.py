"""An event loop in which time passes when everybody waits: an hour of timeouts in a second.

    run_skipping(main())     # `loop.time()` and `asyncio.sleep` are of the played time

For what is played in one process.  Sockets and other processes have their own time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Skipper(selectors.SelectSelector):
    """Waits for nothing, and says how long it would have waited."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for nothing"
            self.skipped += max(timeout, 0)
        return ready


class _SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self, skipper: _Skipper) -> None:
        self._skipper = skipper
        super().__init__(skipper)

    def time(self) -> float:
        return self._skipper.skipped


def run_skipping(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on such a loop."""
    with asyncio.Runner(loop_factory=lambda: _SkippingLoop(_Skipper())) as runner:
        return runner.run(main)
