"""Initiators that write one block each, one command after the other, and time every one.

    with TimedWrites(nodes) as writes:
        redis.kill()
    writes.check(seconds=4)

Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.support import cdb
from tests.support.incrementers import BUSY, GOOD, TROUBLE, connect
from tests.support.lunmesh_server import LunmeshServer

FIRST_LBA = 8192
SILENCE_SECONDS = 30
PAUSE_SECONDS = 0.02


class Timed(NamedTuple):
    """A command that was answered."""

    status: int
    seconds: float


class TimedWrites:
    """As a context, they write, each through a node of its own, in sessions as many as it takes."""

    def __init__(self, nodes: Sequence[LunmeshServer]) -> None:
        self.answered: list[Timed] = []
        self.silent = 0  # commands that were not answered although their session lasted
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node, number))
            for number, node in enumerate(nodes)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def count(self, status: int) -> int:
        """How many ended so."""
        return sum(timed.status == status for timed in tuple(self.answered))

    def check(self, seconds: float) -> None:
        """All were answered within ``seconds``, by GOOD or BUSY."""
        assert not self.silent
        assert not [timed for timed in self.answered if timed.status not in (GOOD, BUSY)]
        assert max(timed.seconds for timed in self.answered) <= seconds

    def _run(self, node: LunmeshServer, number: int) -> None:
        write = cdb.write10(FIRST_LBA + number, 1)
        while not self._ends.is_set():
            with contextlib.suppress(*TROUBLE), connect(node, f"timed{number}") as session:
                session.command(cdb.TEST_UNIT_READY)  # takes the unit attentions
                while not self._ends.is_set():
                    began = time.monotonic()
                    try:
                        task = session.command(write, data_out=bytes(512), timeout=SILENCE_SECONDS)
                    except TimeoutError:
                        self.silent += 1
                        raise
                    self.answered.append(Timed(task.status, time.monotonic() - began))
                    self._ends.wait(PAUSE_SECONDS)
            self._ends.wait(PAUSE_SECONDS)
