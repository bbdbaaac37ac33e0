"""Any valid stream of commands, however it is cut and interleaved, leaves the medium that a model
of it has, and every answer is what the model says.

Two sessions write to one volume. Whatever is written at the same time does not overlap, so the
model needs no order of its own. Buffers that are not in use are poisoned all the time: nobody may
look at one that has been given back, or write into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from target.iscsi.parameters import TargetLimits
from tests.support import cdb
from tests.support.clean import assert_clean, assert_idle
from tests.support.iscsi_pdu import Attribute, Opcode, Pdu
from tests.support.iscsi_task import Task
from tests.support.stores import HeldStore
from tests.support.wire import Wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore

BLOCKS = 2048
BLOCK = 512
POISON = b"\xa5"
yes_no = st.sampled_from(("Yes", "No"))
lengths = st.sampled_from((512, 1024, 4096, 5000, 65536))


@dataclass(eq=False)
class Running:
    """A command that has not ended, and what its end has to be like."""

    session: WireInitiator
    task: Task
    lba: int
    blocks: int
    write: bytes | None = None
    pending: list[Pdu] = field(default_factory=list)
    """R2Ts that have not been answered."""


def overlap(a: Running, lba: int, blocks: int) -> bool:
    return a.lba < lba + blocks and lba < a.lba + a.blocks


class CommandStreams(RuleBasedStateMachine):
    """Commands of two sessions against a model of the medium."""

    @initialize(
        initial_r2t=yes_no,
        immediate=yes_no,
        header=st.sampled_from(("None", "CRC32C")),
        data=st.sampled_from(("None", "CRC32C")),
        first=lengths,
        burst=lengths,
        theirs=lengths,
        ours=lengths,
        r2ts=st.integers(1, 4),
        slow_store=st.booleans(),
    )
    def log_in(
        self,
        initial_r2t: str,
        immediate: str,
        header: str,
        data: str,
        first: int,
        burst: int,
        theirs: int,
        ours: int,
        r2ts: int,
        slow_store: bool,
    ) -> None:
        memory = MemoryStore(BLOCKS * BLOCK)
        self.held = HeldStore(memory) if slow_store else None
        limits = TargetLimits(max_recv_data_segment_length=ours)
        self.w = Wire([self.held or memory], limits=limits, pool_bytes=8 << 20)
        self.model = bytearray(BLOCKS * BLOCK)
        self.running: list[Running] = []
        self.sessions = [
            self.w.login(
                {
                    "InitialR2T": initial_r2t,
                    "ImmediateData": immediate,
                    "HeaderDigest": header,
                    "DataDigest": data,
                    "FirstBurstLength": str(min(first, burst)),
                    "MaxBurstLength": str(burst),
                    "MaxRecvDataSegmentLength": str(theirs),
                    "MaxOutstandingR2T": str(r2ts),
                }
            )
            for _ in range(2)
        ]

    def _free(self, lba: int, blocks: int) -> bool:
        return not any(overlap(r, lba, blocks) for r in self.running)

    def _room(self, session: WireInitiator) -> bool:
        return session.max_cmd_sn - session.cmd_sn + 1 > 0

    @rule(
        which=st.integers(0, 1),
        lba=st.integers(0, BLOCKS - 1),
        blocks=st.integers(1, 300),
        fill=st.integers(0, 255),
        attribute=st.sampled_from((Attribute.SIMPLE, Attribute.ORDERED, Attribute.HEAD_OF_QUEUE)),
        excess=st.sampled_from((0, 0, 0, 1, 512, 7000)),
        write=st.booleans(),
    )
    def command(
        self,
        which: int,
        lba: int,
        blocks: int,
        fill: int,
        attribute: int,
        excess: int,
        write: bool,
    ) -> None:
        session = self.sessions[which]
        blocks = min(blocks, BLOCKS - lba)
        if not self._free(lba, blocks) or not self._room(session):
            return
        size = blocks * BLOCK
        if write:
            pattern = bytes((fill + n) & 0xFF for n in range(251))
            data = (pattern * (size // 251 + 1))[:size]
            task = session.start(
                cdb.write16(lba, blocks),
                data_out=data + bytes(excess),
                attribute=attribute,
                answer_r2t=False,
            )
            self.running.append(Running(session, task, lba, blocks, data))
        else:
            task = session.start(
                cdb.read16(lba, blocks), read_length=size + excess, attribute=attribute
            )
            self.running.append(Running(session, task, lba, blocks))
        self._collect()

    @precondition(lambda self: any(r.pending for r in self.running))
    @rule(choice=st.integers(0, 100))
    def answer_an_r2t(self, choice: int) -> None:
        waiting = [r for r in self.running if r.pending]
        running = waiting[choice % len(waiting)]
        running.session.answer_r2t(running.pending.pop(0))
        self._collect()

    @rule(which=st.integers(0, 1), size=st.sampled_from((None, 1, 47, 100, 4099, 70_000)))
    def cut_what_is_sent(self, which: int, size: int | None) -> None:
        socket = self.sessions[which].socket
        if size is None:
            socket.pieces = None
        else:
            step = size if size > 40 else 37
            socket.pieces = lambda data: (data[at : at + step] for at in range(0, len(data), step))

    @rule(which=st.integers(0, 1), taking=st.sampled_from((None, 0, 1, 1000, 100_000)))
    def take_so_much(self, which: int, taking: int | None) -> None:
        self.sessions[which].socket.taking = taking
        self._collect()

    @precondition(lambda self: self.held is not None and self.held.held)
    @rule(choice=st.integers(0, 100))
    def the_store_does_one(self, choice: int) -> None:
        assert self.held is not None
        self.held.release(choice % len(self.held.held))
        self._collect()

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 100))
    def abort(self, choice: int) -> None:
        """What an aborted write has written nobody knows, so what is there is read afterwards."""
        running = self.running[choice % len(self.running)]
        session = running.session
        self._finish(session, but=running)
        if running.task.done:
            return
        session.socket.taking = None
        command = session.tmf(1, lun=0)
        command.referenced_tag, command.ref_cmd_sn = running.task.itt, running.task.cmd_sn
        session.socket.send(command)
        if self.held is not None:
            self.held.release_all()
        response = None
        for pdu in session.incoming():
            if pdu.opcode == Opcode.TASK_MANAGEMENT_RESPONSE:
                assert (pdu.itt, response) == (command.itt, None)
                response = pdu.response
            else:
                assert response is None or pdu.itt != running.task.itt, "said after the abort"
                self._take(session, pdu)
        assert response == (1 if running.task.done else 0)
        self.running.remove(running)
        session.tasks.pop(running.task.itt, None)
        self._collect()
        if running.write is not None:
            start, end = running.lba * BLOCK, (running.lba + running.blocks) * BLOCK
            view = memoryview(bytearray(end - start))
            store = self.w.volumes[0].stores[0]
            assert (self.held.inner if self.held else store).read_now(start, [view], end - start)
            self.model[start:end] = view

    @rule(which=st.integers(0, 1))
    def finish(self, which: int) -> None:
        self._finish(self.sessions[which])
        if not self.running:
            assert_idle(self.w.target)

    # Not rules.

    def _finish(self, session: WireInitiator, but: Running | None = None) -> None:
        """Let everything of a session come to its end."""
        while True:
            for other in self.sessions:
                other.socket.taking = None
            if self.held is not None:
                self.held.release_all()
            self._collect()
            waiting = [r for r in self.running if r.pending and r is not but]
            if not waiting and not (self.held is not None and self.held.held):
                break
            for running in waiting:
                while running.pending:
                    running.session.answer_r2t(running.pending.pop(0))
        mine = [r for r in self.running if r.session is session and r is not but]
        if but is None:
            assert not mine, "commands do not end"

    def _collect(self) -> None:
        """Act on what has come."""
        self.w.settle()
        for session in self.sessions:
            while (pdu := session.socket.next_pdu()) is not None:
                session._take_stat_sn(pdu)
                session.exp_cmd_sn, session.max_cmd_sn = pdu.exp_cmd_sn, pdu.max_cmd_sn
                self._take(session, pdu)
        for running in [r for r in self.running if r.task.done]:
            self.running.remove(running)
            self._check(running)

    def _take(self, session: WireInitiator, pdu: Pdu) -> None:
        task = session.tasks.get(pdu.itt)
        session.process(pdu)
        if pdu.opcode == Opcode.R2T:
            next(r for r in self.running if r.task is task).pending.append(pdu)

    def _check(self, running: Running) -> None:
        task = running.task
        start, end = running.lba * BLOCK, (running.lba + running.blocks) * BLOCK
        assert (task.status, task.overflow) == (0, 0), task.sense.hex()
        assert task.underflow == task.edtl - (end - start)
        if running.write is not None:
            self.model[start:end] = running.write
        else:
            assert task.data_in == self.model[start:end]

    @invariant()
    def unused_buffers_are_poisoned(self) -> None:
        if hasattr(self, "w"):
            pool = self.w.pool
            assert pool.used <= pool.segments_total
            for segment in pool.free[-256:]:
                segment[:1] = POISON
                segment[-1:] = POISON

    def teardown(self) -> None:
        if not hasattr(self, "w"):
            return
        for session in self.sessions:
            self._finish(session)
        assert_idle(self.w.target)
        view = memoryview(bytearray(BLOCKS * BLOCK))
        store = self.held.inner if self.held is not None else self.w.volumes[0].stores[0]
        assert store.read_now(0, [view], BLOCKS * BLOCK)
        assert view == self.model
        self.w.close()
        assert_clean(self.w.target)


CommandStreams.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestCommandStreams = CommandStreams.TestCase
