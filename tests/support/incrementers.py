"""A counter on a block that several initiators count up, each through a node of its own.

    with Incrementers(nodes) as counting:
        redis.restart()
        counting.all_go_on()
    counting.check()

Each round is a READ and a COMPARE AND WRITE.  The block says how often each of them has counted, so
that one which does not know whether its last round was done (its node died) finds out.  A round
done twice, or undone by another, shows in the sum.  Each rests about as long as its round has
taken: who has just counted would else be first again, for ever.
"""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused, Rejected
from tests.support.iscsi_socket import Disconnected, ProtocolError
from tests.support.lunmesh_server import LunmeshServer

GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL, TASK_ABORTED = 0x00, 0x02, 0x08, 0x28, 0x40
ROUNDS = 5
WAIT_SECONDS = 60
PAUSE_SECONDS = 0.02  # between attempts
SILENCE_SECONDS = 30
LBA = 1024
TROUBLE = (OSError, Disconnected, ProtocolError, LoginRefused, Rejected, TimeoutError)


def connect(node: LunmeshServer, name: str) -> Initiator:
    """A session, logged in."""
    name = f"iqn.2026-11.io.lunmesh.test:{name}"
    session = Initiator(node.host, node.port, target=node.iqn, name=name)
    try:
        session.login()
    except BaseException:
        session.close()
        raise
    return session


def until_good(
    node: LunmeshServer, command: bytes, *, data_out: bytes = b"", read_length: int = 0
) -> bytes:
    """Try it until it ends with GOOD, in sessions as many as it takes; the Data-In."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(*TROUBLE), connect(node, "patient") as session:
            while True:
                task = session.command(
                    command,
                    data_out=data_out,
                    read_length=read_length,
                    timeout=SILENCE_SECONDS,
                )
                if task.status == GOOD:
                    return bytes(task.data_in)
                assert time.monotonic() < deadline, task
                time.sleep(PAUSE_SECONDS)
        assert time.monotonic() < deadline, "no session lasts"
        time.sleep(PAUSE_SECONDS)


class Incrementers:
    """As a context, they count."""

    def __init__(self, nodes: Sequence[LunmeshServer]) -> None:
        self.done = [0] * len(nodes)  # rounds, of each
        self.failed: list[str] = []
        self._nodes = tuple(nodes)
        self._in_doubt = [False] * len(nodes)  # whether the last attempt was done
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(len(nodes))
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

    def all_go_on(self) -> None:
        """Wait until each has counted some rounds more."""
        goals = [done + ROUNDS for done in self.done]
        deadline = time.monotonic() + WAIT_SECONDS
        while any(done < goal for done, goal in zip(self.done, goals, strict=True)):
            assert not self.failed, self.failed
            assert time.monotonic() < deadline, f"{self.done} have not come to {goals}"
            time.sleep(0.01)

    def check(self) -> None:
        """When they have ended: nothing is lost, and nothing was done twice, whoever is asked."""
        assert not self.failed, self.failed
        for node in self._nodes:
            block = until_good(node, cdb.read10(LBA, 1), read_length=512)
            total, *each = _fields(block, len(self.done))
            for number in range(len(each)):  # the last attempt may have been done after all
                if self._in_doubt[number] and each[number] == self.done[number] + 1:
                    self.done[number] += 1
            assert each == self.done
            assert total == sum(self.done)

    def _run(self, number: int) -> None:
        while not self._ends.is_set():
            with (
                contextlib.suppress(*TROUBLE),
                connect(self._nodes[number], f"counter{number}") as session,
            ):
                while not self._ends.is_set():
                    began = time.monotonic()
                    self._round(session, number)
                    took = time.monotonic() - began
                    self._ends.wait(min(1.0, took * random.uniform(0, 2)))
            time.sleep(PAUSE_SECONDS)

    def _round(self, session: Initiator, number: int) -> None:
        block = _read(session)
        if block is None:
            time.sleep(PAUSE_SECONDS)
            return
        total, *each = _fields(block, len(self.done))
        if each[number] == self.done[number] + 1:  # the last attempt was done after all
            if not self._in_doubt[number]:
                self.failed.append(f"{number}: a round that was refused has been done")
                self._ends.set()
                return
            self.done[number] += 1
            self._in_doubt[number] = False
            return
        if each[number] != self.done[number] or total != sum(each):
            self.failed.append(f"{number} has done {self.done[number]}, and reads {total} {each}")
            self._ends.set()
            return
        each[number] += 1
        self._in_doubt[number] = True
        new = struct.pack(f">{1 + len(each)}Q", total + 1, *each).ljust(512, b"\0")
        task = session.command(
            cdb.compare_and_write(LBA, 1), data_out=block + new, timeout=SILENCE_SECONDS
        )
        if task.status in (GOOD, CHECK_CONDITION, TASK_SET_FULL):
            self._in_doubt[number] = False
            self.done[number] += task.status == GOOD
        elif task.status not in (BUSY, TASK_ABORTED):  # in doubt still (decision 0016, point 3)
            self.failed.append(f"status {task.status:#x}")
            self._ends.set()


def _read(session: Initiator) -> bytes | None:
    task = session.command(cdb.read10(LBA, 1), read_length=512, timeout=SILENCE_SECONDS)
    return bytes(task.data_in) if task.status == GOOD else None


def _fields(block: bytes, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{1 + count}Q", block)
