"""A raw initiator that reads and writes numbered blocks at depth, and records what it sees."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

from tests.chaos import blocks
from tests.chaos.history import End, History, Op
from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.iscsi_task import Task

DEPTH = 8
# Behind these, a command that nobody answers, and a target that does not come back.
PDU_SECONDS = 30.0
RECONNECT_SECONDS = 60.0
FUA = 0x08
_GOOD, _UNIT_ATTENTION = 0, 6
_LENGTHS = (1, 1, 2, 8, 8, 8, 32, 130)  # blocks


@dataclass(frozen=True, slots=True)
class Layout:
    """Which blocks are used: a few again and again by everybody, and the others to need space."""

    hot: int
    total: int


@dataclass(frozen=True, slots=True)
class _Running:
    task: Task
    operation: int
    op: Op
    first: int


class Client(threading.Thread):
    """One session; ``error`` is what it ended with, where it did not just stop."""

    def __init__(
        self, name: str, address: tuple[str, int, str], history: History, layout: Layout, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._address = address
        self._history = history
        self._layout = layout
        self._random = random.Random(f"{seed}/{name}")
        self._running: list[_Running] = []
        self._stop_asked = threading.Event()
        self.acknowledged = 0  # operations
        self.senses: Counter[tuple[int, int, int]] = Counter()
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Ask it to end what runs and then itself."""
        self._stop_asked.set()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                try:
                    with self._logged_in() as iscsi:
                        self._play(iscsi)
                except (Disconnected, OSError):
                    self._broken()
        except BaseException as exc:
            self.error = exc
            self._broken()

    def _logged_in(self) -> Initiator:
        host, port, target = self._address
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                iscsi = Initiator(host, port, target=target, timeout=PDU_SECONDS)
                iscsi.login()
            except (Disconnected, OSError):
                if time.monotonic() > deadline:
                    raise TimeoutError("the target does not come back") from None
                time.sleep(0.05)
                continue
            while iscsi.command(cdb.TEST_UNIT_READY).sense_key == _UNIT_ATTENTION:
                pass
            return iscsi

    def _play(self, iscsi: Initiator) -> None:
        while self._running or not self._stop_asked.is_set():
            while len(self._running) < DEPTH and not self._stop_asked.is_set():
                self._start(iscsi)
            if not self._reap() and self._running:
                iscsi.process(iscsi.read_pdu())
        iscsi.logout()

    def _start(self, iscsi: Initiator) -> None:
        """The invocation is in the history before the command is on its way."""
        choice = self._random.random()
        hot = choice < 0.9
        count = self._random.choice(_LENGTHS)
        low, high = (0, self._layout.hot) if hot else (self._layout.hot, self._layout.total)
        first = self._random.randrange(low, high - count)
        if choice < 0.45:
            op, command = Op.READ, cdb.read16(first, count)
        elif choice < 0.48:
            op, command = Op.FLUSH, cdb.synchronize_cache10()
        else:
            op, command = Op.WRITE, cdb.write16(first, count, FUA if choice < 0.5 else 0)
        versions, data = {}, b""
        if op is Op.WRITE:
            version = self._history.new_version()
            versions = dict.fromkeys(range(first, first + count), version)
            data = blocks.pack(versions, version)
        operation = self._history.invoke(self.name, op, versions)
        task = iscsi.start(
            command,
            read_length=count * blocks.BLOCK_BYTES if op is Op.READ else 0,
            data_out=data,
        )
        self._running.append(_Running(task, operation, op, first))

    def _reap(self) -> bool:
        """Record what has been answered; whether there was something."""
        done = [each for each in self._running if each.task.done]
        for each in done:
            self._running.remove(each)
            task = each.task
            if task.status == _GOOD:
                found = blocks.versions_of(each.first, bytes(task.data_in))
                self._history.end(End.OK, each.operation, self.name, each.op, found)
                self.acknowledged += 1
            else:
                self.senses[task.sense_triple] += 1
                detail = f"status 0x{task.status:02x}, sense {task.sense_triple}"
                self._history.end(End.FAIL, each.operation, self.name, each.op, detail=detail)
        return bool(done)

    def _broken(self) -> None:
        self._reap()
        for each in self._running:
            self._history.end(End.INFO, each.operation, self.name, each.op)
        self._running.clear()
