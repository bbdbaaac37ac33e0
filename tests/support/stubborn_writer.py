"""An initiator that writes the same blocks again and again at depth, whatever it is answered.

    with StubbornWriter(session_maker, blocks=8) as writer:
        writer.wait_for(GOOD, 20)    # that many writes more have ended so
        …fence it…
        writer.wait_for(CONFLICT, 20)

It runs in a thread.  What gets no answer is given up, and a connection that ends is made anew.
Each write has a number of its own in every block.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.iscsi_task import Task

DEPTH = 8
BLOCK = 512
GIVE_UP_SECONDS = 0.5
RECONNECT_SECONDS = 0.1
WAIT_SECONDS = 60.0


class StubbornWriter:
    """``login`` makes a session."""

    def __init__(self, login: Callable[[], Initiator], *, blocks: int) -> None:
        self._login = login
        self._blocks = blocks
        self._numbers = itertools.count(1)
        self._ended: Counter[int] = Counter()
        self._news = threading.Condition()
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None and exc is None:
            raise self._failure

    def wait_for(self, status: int, count: int) -> None:
        """Returns when so many more have."""
        with self._news:
            goal = self._ended[status] + count
            self._news.wait_for(
                lambda: self._ended[status] >= goal or self._failure is not None, WAIT_SECONDS
            )
            reached = self._ended[status] >= goal
        if self._failure is not None:
            raise self._failure
        assert reached, f"status {status}: {self._ended}"

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                with (
                    contextlib.suppress(Disconnected, LoginRefused, OSError),
                    self._login() as session,
                ):
                    self._write(session)
                self._over.wait(RECONNECT_SECONDS)
        except BaseException as exc:
            self._failure = exc
            with self._news:
                self._news.notify_all()

    def _write(self, session: Initiator) -> None:
        running: list[Task] = []
        while not self._over.is_set():
            try:
                while len(running) < DEPTH:
                    running.append(self._start(session))
                session.process(session.read_pdu(GIVE_UP_SECONDS))
            except NoAnswer:
                running.clear()  # they were aborted
            with self._news:
                for task in running:
                    if task.done:
                        self._ended[task.status] += 1
                self._news.notify_all()
            running = [task for task in running if not task.done]

    def _start(self, session: Initiator) -> Task:
        number = next(self._numbers)
        data = struct.pack(">Q", number) * (BLOCK // 8)
        return session.start(cdb.write10(number % self._blocks, 1), data_out=data)
