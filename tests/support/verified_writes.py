"""A client that writes the same blocks over and over, and knows what each of them may hold.

    with VerifiedWrites(server.host, server.port, server.iqn) as client:
        …stop a worker…
        client.rounds(3)     # three more of them, from now on
    assert client.busy == 0

It runs in a thread.  One block of each chunk is written in a round, all at once, then all are read.
What is BUSY is asked for again, as initiators do.  A connection that ends is made anew; what was
being written then may be old or new, but once it was read it stays what it was.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from types import TracebackType
from typing import Self

from tests.support.initiator import Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.iscsi_task import Task

GOOD, CHECK_CONDITION, BUSY = 0x00, 0x02, 0x08
UNIT_ATTENTION = 6
BLOCK = 512
ANSWER_SECONDS = 60.0
CONNECT_SECONDS = 30.0
ROUNDS_SECONDS = 60.0


class VerifiedWrites:
    """``chunks`` blocks, one in each of as many chunks."""

    def __init__(
        self,
        host: str,
        port: int,
        iqn: str,
        *,
        chunks: int,
        chunk_bytes: int,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """It fails (NoAnswer) when it has waited for ``answer_seconds`` and nothing came."""
        self._answer_seconds = answer_seconds
        self.busy = 0  # how often BUSY was the answer
        self.longest = 0.0  # seconds that a command took, BUSY and all
        self._where = (host, port, iqn)
        self._blocks = [n * (chunk_bytes // BLOCK) + n for n in range(chunks)]
        self._may_be: dict[int, set[int]] = {block: {0} for block in self._blocks}
        self._version = 0
        self._done = 0
        self._news = threading.Condition()
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.rounds(2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None and exc is None:
            raise self._failure

    def rounds(self, count: int) -> None:
        """Returns when ``count`` rounds have begun and ended."""
        with self._news:
            goal = self._done + count + 1
            reached = self._news.wait_for(
                lambda: self._done >= goal or self._failure is not None, ROUNDS_SECONDS
            )
        if self._failure is not None:
            raise self._failure
        assert reached, f"stuck: {self._done} rounds, BUSY {self.busy} times"

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                with contextlib.suppress(Disconnected, ConnectionError):
                    self._session()
        except BaseException as exc:
            self._failure = exc
        finally:
            with self._news:
                self._done += 1
                self._news.notify_all()

    def _session(self) -> None:
        host, port, iqn = self._where
        with self._connected(host, port, iqn) as session:
            session.login()
            self._read(session)
            while not self._over.is_set():
                self._version += 1
                for block in self._blocks:  # until the answer
                    self._may_be[block] = self._may_be[block] | {self._version}
                data = struct.pack("<Q", self._version) * (BLOCK // 8)
                self._ask(session, data)
                if self._over.is_set():
                    return
                for block in self._blocks:
                    self._may_be[block] = {self._version}
                self._read(session)
                with self._news:
                    self._done += 1
                    self._news.notify_all()

    def _connected(self, host: str, port: int, iqn: str) -> Initiator:
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return Initiator(host, port, target=iqn, timeout=self._answer_seconds)
            except ConnectionError:  # the server is being started
                if time.monotonic() > deadline:
                    raise AssertionError("no server") from None
                self._over.wait(0.05)

    def _read(self, session: Initiator) -> None:
        for block, task in self._ask(session, b"").items():
            found = set(struct.unpack(f"<{BLOCK // 8}Q", task.data_in))
            assert len(found) == 1, f"block {block} is torn: {found}"
            may_be = self._may_be[block]
            assert found <= may_be, f"block {block} has version {found}, may have {may_be}"
            self._may_be[block] = found

    def _ask(self, session: Initiator, data: bytes) -> dict[int, Task]:
        """Write ``data`` to all blocks, or read them all; until each has been answered GOOD."""
        began = time.monotonic()
        left, answered = list(self._blocks), {}
        while left and not self._over.is_set():
            tasks = {block: self._start(session, block, data) for block in left}
            session.wait(*tasks.values())
            for block, task in tasks.items():
                if task.status == GOOD:
                    answered[block] = task
                elif task.status == BUSY:
                    self.busy += 1
                else:
                    assert task.status == CHECK_CONDITION, task
                    assert task.sense_key == UNIT_ATTENTION, task.sense_triple
            left = [block for block in left if block not in answered]
        self.longest = max(self.longest, time.monotonic() - began)
        return answered

    @staticmethod
    def _start(session: Initiator, block: int, data: bytes) -> Task:
        opcode = 0x2A if data else 0x28
        cdb = struct.pack(">BBIBHB", opcode, 0, block, 0, 1, 0)
        if data:
            return session.start(cdb, data_out=data)
        return session.start(cdb, read_length=BLOCK)
