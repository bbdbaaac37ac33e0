"""An initiator that does what a file system on multipath would see: how long nothing is answered.

1. It writes 4 KiB to each of a few places, all at once, and when all have been answered, again; so
   nearly always there are writes that are not answered yet.
2. A path is given up when its connection ends, or after a silence that is longer than a lease; then
   the next node is tried, and the first again, until one takes the login.
3. BUSY and UNIT ATTENTION ask to try again.  Any other end than GOOD is an I/O error.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Sequence

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.lunmesh_server import LunmeshServer

SILENCE_SECONDS = 6.0  # the default lease is 5
BLOCK_BYTES = 512
IO_BYTES = 4096
PAUSE_SECONDS = 0.002  # between commands: what is measured needs the CPU more than this does
_GOOD, _BUSY, _TASK_SET_FULL = 0x00, 0x08, 0x28
_UNIT_ATTENTION = 6


class Prober(threading.Thread):
    """Runs until it is stopped; as a context, running."""

    def __init__(self, name: str, nodes: Sequence[LunmeshServer], offsets: Sequence[int]) -> None:
        """``nodes`` in the order in which they are tried; ``offsets``: bytes, where it writes."""
        super().__init__(name=name, daemon=True)
        self._nodes = nodes
        self._offsets = offsets
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self._last_good = time.monotonic()
        self._longest = 0.0
        self.answered = 0
        self.errors: list[str] = []

    def __enter__(self) -> Prober:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_asked.set()
        self.join()

    def begin(self) -> None:
        """From now on the longest pause counts, one that is under way too."""
        with self._lock:
            self._longest = 0.0

    def longest(self) -> float:
        """Seconds between two answers since `begin`; also one that has not ended yet."""
        with self._lock:
            return max(self._longest, time.monotonic() - self._last_good)

    def run(self) -> None:
        path = 0
        while not self._stop_asked.is_set():
            node = self._nodes[path % len(self._nodes)]
            with contextlib.suppress(Disconnected, NoAnswer, LoginRefused, OSError):
                self._use(node)
            path += 1
            time.sleep(PAUSE_SECONDS)

    def _use(self, node: LunmeshServer) -> None:
        name = f"iqn.2026-11.io.lunmesh.test:{re.sub('[^a-z]+', '-', self.name)}"
        with Initiator(
            node.host, node.port, target=node.iqn, name=name, timeout=SILENCE_SECONDS
        ) as session:
            session.login()
            while not self._stop_asked.is_set():
                self._write_all(session)
                time.sleep(PAUSE_SECONDS)

    def _write_all(self, session: Initiator) -> None:
        """Rules 1 and 3."""
        data = self.answered.to_bytes(8) * (IO_BYTES // 8)
        blocks = IO_BYTES // BLOCK_BYTES
        tasks = [
            session.start(cdb.write10(offset // BLOCK_BYTES, blocks), data_out=data)
            for offset in self._offsets
        ]
        session.wait(*tasks)
        for task in tasks:
            if task.status in (_BUSY, _TASK_SET_FULL) or task.sense_key == _UNIT_ATTENTION:
                return
            if task.status != _GOOD:
                self.errors.append(f"status 0x{task.status:02x}, sense {task.sense_triple}")
                return
        now = time.monotonic()
        with self._lock:
            self._longest = max(self._longest, now - self._last_good)
            self._last_good = now
        self.answered += 1
