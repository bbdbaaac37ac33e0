"""A `Wire`'s target behind real sockets: its portal runs on an event loop in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import uvloop

from target.iscsi.portal import Portal
from tests.support.initiator import Initiator
from tests.support.wire import TARGET, Wire

T = TypeVar("T")


class Served:
    """A portal; `ask` and `until` look at the target where nothing else does."""

    def __init__(self, w: Wire, host: str, connections_max: int) -> None:
        self.w = w
        self.host = host
        self._connections_max = connections_max
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.portal = self.ask(self._start)
        self.port = self.portal.port

    def _start(self) -> Portal:
        portal = Portal(self.w.target, self.host, 0, self.w.clock, self._connections_max)
        portal.start()
        return portal

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, from the thread of the event loop."""

        async def on_the_loop() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(on_the_loop(), self._loop).result()

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds; the test's timeout is the bound."""
        while not self.ask(condition):
            pass

    def initiator(self, *, timeout: float = 20.0) -> Initiator:
        """Connected, not logged in."""
        return Initiator(self.host, self.port, target=TARGET, timeout=timeout)

    def stop(self) -> None:
        self.ask(self.portal.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def served(w: Wire, host: str = "127.0.0.1", connections_max: int = 64) -> Iterator[Served]:
    """A target that can be connected to."""
    it = Served(w, host, connections_max)
    try:
        yield it
    finally:
        it.stop()
