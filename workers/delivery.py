"""What other threads have ended, handed to the event loop: one wake-up for many completions."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

Job = Callable[[], None]
CallSoonThreadsafe = Callable[[Job], Any]  # of the event loop; what it returns is not used


class Delivery:
    """``put(done)`` from any thread: ``done()`` on the loop, in the order of the calls."""

    def __init__(self, call_soon_threadsafe: CallSoonThreadsafe) -> None:
        self._call_soon_threadsafe = call_soon_threadsafe
        self._finished: deque[Job] = deque()
        self._wake_pending = False
        self._lock = threading.Lock()

    def put(self, done: Job) -> None:
        """The loop is woken once for all that has come since it last looked."""
        with self._lock:
            self._finished.append(done)
            wake, self._wake_pending = not self._wake_pending, True
        if wake:
            self._call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        """On the loop: everything that has ended."""
        with self._lock:
            self._wake_pending = False
            finished = list(self._finished)
            self._finished.clear()
        for done in finished:
            try:
                done()
            except Exception:  # a bug with one completion must not lose the others
                log.exception("internal error at the end of an I/O")
