"""A raw initiator that reads and writes numbered blocks at depth, and records what it sees.

Rules:

1. The invocation of a command is in the history before the command is on its way, its end after the
   answer has been read.
2. A node that is silent is pinged; one that does not answer that either is given up, and so is one
   that closes the connection.  What had not been answered is ``info``, and is not sent again.  The
   client goes on at another node, as multipath does; also when it is asked to log out, and now and
   then of itself.
3. A command that nobody will answer, because the unit was reset, is aborted (once more), so that it
   is known to have ended: ``fail``.  Only the next command hears of a reset, so in a silence one is
   sent for that.  What takes longer than any bound of the target's is aborted as well, as a SCSI
   layer would do, and counted: ``overdue``.
4. BUSY asks to try again, and is not tried again here.  Of several nodes one may give it while the
   write is on its way to a worker that this node alone cannot reach: ``info``, until superseded.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos import blocks
from tests.chaos.history import End, History, Op
from tests.chaos.workload import Command, Layout, Workload
from tests.support import cdb
from tests.support.initiator import DEFAULT_NAME, Initiator, LoginRefused
from tests.support.iscsi_pdu import Opcode, TaskFunction, nop_out
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.iscsi_task import Task

Address = tuple[str, int, str]  # host, port, target name

DEPTH = 8
TICK_SECONDS = 0.4
# A node that is silent for this long, and then for this long after a ping, is given up.  Each is
# longer than a lease: a node that was given up while it stood still does not serve when it goes on.
PING_TICKS = 3
GIVEN_UP_SECONDS = 2 * PING_TICKS * TICK_SECONDS
OVERDUE_SECONDS = 20.0
# Behind these, an abort or a reset that nobody answers, and nodes that do not come back.
TASK_MANAGEMENT_SECONDS = 40.0
LOGIN_SECONDS = 4.0
RECONNECT_SECONDS = 60.0
_ABORTS, _RESETS, _MOVES = 1 / 200, 1 / 4000, 1 / 500  # of commands
_GOOD, _UNIT_ATTENTION, _MISCOMPARE = 0, 6, 0xE
_BUSY = 0x08
# BUS DEVICE RESET and its kin, COMMANDS CLEARED BY …: commands have ended without an answer.
_ENDED_OTHERS = (0x29, 0x2F)
_ASYNC_LOGOUT = 1
_FUNCTION_COMPLETE, _NO_SUCH_TASK = 0, 1


@dataclass(frozen=True, slots=True)
class _Running:
    task: Task
    operation: int
    command: Command
    started: float


class _GivenUp(Exception):
    """The node does not do what a node does that lives."""


class Client(threading.Thread):
    """One session at a time; ``error`` is what it ended with, where it did not just stop."""

    def __init__(
        self, number: int, nodes: Sequence[Address], history: History, layout: Layout, seed: int
    ) -> None:
        super().__init__(name=f"client{number}", daemon=True)
        self._nodes = nodes
        self._node = number % len(nodes)
        self._isid = b"\x80lun" + number.to_bytes(2)
        self._history = history
        self._workload = Workload(history, layout, f"{seed}/{self.name}")
        self._random = random.Random(f"{seed}/{self.name}/aborts")
        self._running: list[_Running] = []
        self._silent = 0  # ticks
        self._ping: int | None = None  # its tag, while it is not answered
        self._stop_asked = threading.Event()
        self.acknowledged = 0  # operations
        self.moves = 0
        self.overdue = 0
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
                except (Disconnected, NoAnswer, _GivenUp, OSError):
                    self._broken()
                self._move()
        except BaseException as exc:
            self.error = exc
            self._broken()

    def _move(self) -> None:
        if len(self._nodes) > 1:
            self._node = (self._node + self._random.randrange(1, len(self._nodes))) % len(
                self._nodes
            )
            self.moves += 1

    def _logged_in(self) -> Initiator:
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            host, port, target = self._nodes[self._node]
            iscsi = None
            try:
                iscsi = Initiator(
                    host,
                    port,
                    target=target,
                    name=f"{DEFAULT_NAME}:{self.name}",
                    isid=self._isid,
                    timeout=LOGIN_SECONDS,
                )
                iscsi.login()
                while iscsi.command(cdb.TEST_UNIT_READY).sense_key == _UNIT_ATTENTION:
                    pass
            except (Disconnected, NoAnswer, LoginRefused, OSError) as exc:
                if iscsi is not None:
                    iscsi.close()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no node comes back: {exc}") from None
                self._move()
                time.sleep(0.05)
                continue
            self._silent, self._ping = 0, None
            return iscsi

    def _play(self, iscsi: Initiator) -> None:
        leaving = False
        while self._running or not leaving:
            leaving = leaving or self._leaves(iscsi)
            while len(self._running) < DEPTH and not leaving:
                self._start(iscsi, self._workload.next())
            if not self._reap(iscsi) and self._running:
                self._take_pdu(iscsi)
                self._manage_tasks(iscsi)
        self._await_ping(iscsi)
        iscsi.logout()

    def _leaves(self, iscsi: Initiator) -> bool:
        if len(self._nodes) > 1 and self._random.random() < _MOVES:
            return True
        return self._stop_asked.is_set() or any(
            event.async_event == _ASYNC_LOGOUT for event in iscsi.events
        )

    def _start(self, iscsi: Initiator, command: Command) -> None:
        """Rule 1."""
        operation = self._history.invoke(
            self.name, command.op, command.versions, expected=command.expected
        )
        try:
            task = iscsi.start(
                command.cdb, read_length=command.read_length, data_out=command.data_out
            )
        except BaseException:
            self._history.end(End.INFO, operation, self.name, command.op)
            raise
        self._running.append(_Running(task, operation, command, time.monotonic()))

    def _take_pdu(self, iscsi: Initiator) -> None:
        try:
            pdu = iscsi.read_pdu(TICK_SECONDS)
        except NoAnswer:
            self._silence(iscsi)
            return
        self._silent = 0
        if pdu.opcode == Opcode.NOP_IN and pdu.itt == self._ping:
            self._ping = None
        else:
            iscsi.process(pdu)

    def _silence(self, iscsi: Initiator) -> None:
        """Rules 2 and 3."""
        self._silent += 1
        if self._silent == 1 and all(each.command.op is not Op.PROBE for each in self._running):
            self._start(iscsi, Command(Op.PROBE, cdb.TEST_UNIT_READY))
        elif self._silent == PING_TICKS and self._ping is None:
            self._ping = iscsi.new_tag()
            iscsi.socket.send(
                nop_out(
                    itt=self._ping,
                    cmd_sn=iscsi.next_cmd_sn(immediate=True),
                    exp_stat_sn=iscsi.exp_stat_sn,
                    immediate=True,
                )
            )
        elif self._silent >= 2 * PING_TICKS:
            raise _GivenUp

    def _reap(self, iscsi: Initiator) -> bool:
        """Record what has been answered; whether there was something."""
        done = [each for each in self._running if each.task.done]
        reset = False
        for each in done:
            self._running.remove(each)
            reset |= self._answered(each)
        if reset:
            self._settle_all(iscsi)
        return bool(done)

    def _answered(self, each: _Running) -> bool:
        """Whether it says that other commands have ended unanswered."""
        task, command = each.task, each.command
        if task.status == _GOOD:
            found = {}
            if command.op is Op.READ:
                found = blocks.versions_of(command.first, bytes(task.data_in))
                self._workload.found(command.first, found)
            self._history.end(End.OK, each.operation, self.name, command.op, found)
            self.acknowledged += 1
            return False
        key, code, _ = task.sense_triple
        if key == _MISCOMPARE:
            self._history.end(
                End.DIFFER, each.operation, self.name, command.op, expected=_differing(each)
            )
            self.acknowledged += 1
            return False
        self.senses[task.sense_triple] += 1
        if task.status == _BUSY and len(self._nodes) > 1:  # rule 4
            self._history.end(End.INFO, each.operation, self.name, command.op, detail="BUSY")
            return False
        detail = f"status 0x{task.status:02x}, sense {task.sense_triple}"
        self._history.end(End.FAIL, each.operation, self.name, command.op, detail=detail)
        return key == _UNIT_ATTENTION and code in _ENDED_OTHERS

    def _manage_tasks(self, iscsi: Initiator) -> None:
        """Now and then, an ABORT TASK or a LUN RESET."""
        overdue = time.monotonic() - OVERDUE_SECONDS
        for each in [each for each in self._running if each.started < overdue]:
            self.overdue += 1
            self._settle(iscsi, each)
        choice = self._random.random()
        if choice < _RESETS:
            operation = self._history.invoke(self.name, Op.RESET)
            response = self._function(iscsi, TaskFunction.LOGICAL_UNIT_RESET)
            end = End.OK if response == _FUNCTION_COMPLETE else End.FAIL
            self._history.end(end, operation, self.name, Op.RESET)
            self._reap(iscsi)
            if end is End.OK:
                self._settle_all(iscsi)
        elif choice < _RESETS + _ABORTS and self._running:
            self._settle(iscsi, self._random.choice(self._running))

    def _settle_all(self, iscsi: Initiator) -> None:
        for each in tuple(self._running):
            if not each.task.done:
                self._settle(iscsi, each)

    def _settle(self, iscsi: Initiator, each: _Running) -> None:
        """Rule 3."""
        operation = self._history.invoke(self.name, Op.ABORT)
        response = self._function(iscsi, TaskFunction.ABORT_TASK, each.task)
        ended = response in (_FUNCTION_COMPLETE, _NO_SUCH_TASK)
        self._history.end(End.OK if ended else End.FAIL, operation, self.name, Op.ABORT)
        if ended and not each.task.done:
            self._running.remove(each)
            del iscsi.tasks[each.task.itt]  # an answer now is one that nobody waits for
            command = each.command
            self._history.end(End.FAIL, each.operation, self.name, command.op, detail="aborted")

    def _function(self, iscsi: Initiator, function: TaskFunction, task: Task | None = None) -> int:
        self._await_ping(iscsi)
        iscsi.socket.timeout = TASK_MANAGEMENT_SECONDS
        try:
            return iscsi.task_management(function, task=task)
        finally:
            iscsi.socket.timeout = LOGIN_SECONDS

    def _await_ping(self, iscsi: Initiator) -> None:
        """The initiator's own requests know nothing of our pings."""
        while self._ping is not None:
            self._take_pdu(iscsi)

    def _broken(self) -> None:
        """Rule 2."""
        for each in self._running:
            if each.task.done:
                self._answered(each)
            else:
                self._history.end(End.INFO, each.operation, self.name, each.command.op)
        self._running.clear()


def _differing(each: _Running) -> dict[int, int]:
    """The block that the INFORMATION field of the sense data (fixed format) names, and what was
    expected there; nothing if it names none.
    """
    sense, command = each.task.sense, each.command
    if len(sense) < 7 or sense[0] != 0xF0:
        return {}
    block = command.first + int.from_bytes(sense[3:7]) // blocks.BLOCK_BYTES
    return {block: command.expected[block]}
