"""Task attributes, aborts in every state of a command, resets, the loss of a nexus (SAM-5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.scsi import limits
from target.scsi import sense as s
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.logical_unit import Attribute, LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.request import SCSIRequest, State
from target.scsi.sense import DATA_PHASE_ERROR, Sense, Status
from tests.support.cdb import read10, write10, write_same16
from tests.support.recording_hba import RecordingHba, outcome
from tests.support.scsi_disk import TEST_UNIT_READY, UUID
from tests.support.stores import HeldStore
from tests.support.two_nodes import Wire
from workers.memory_store import MemoryStore
from workers.store import StoreStatus

SIMPLE, ORDERED, HEAD = Attribute.SIMPLE, Attribute.ORDERED, Attribute.HEAD_OF_QUEUE
BLOCK = b"\xa5" * 512
SIZE = 64 << 20
GOOD: tuple[Status, Sense | None] = (Status.GOOD, None)


class Bench:
    """A disk whose store does nothing until told, and two nexuses."""

    def __init__(self) -> None:
        self.store = HeldStore(MemoryStore(SIZE))
        self.turns: list[object] = []
        self.disk = DiskDevice(Volume("disk0", UUID, [self.store]), defer=self.turns.append)
        self.bus = SCSIBus()
        self.unit: LogicalUnit = self.bus.add(0, self.disk)
        self.pool = BufferPool(16 << 20)
        self.one = RecordingHba(self.bus, self.pool, "one")
        self.two = RecordingHba(self.bus, self.pool, "two")
        self.one.settle()
        self.two.settle()

    def read(self, attribute: Attribute = SIMPLE, *, lba: int = 0) -> SCSIRequest:
        """One that runs until the store lets it go."""
        return self.one.submit(read10(lba, 1), attribute)

    def abort(self, *victims: SCSIRequest) -> list[str]:
        """Abort them; the list has an entry when all of them are gone."""
        done: list[str] = []
        self.unit.abort(victims, lambda: done.append("gone"))
        return done

    def close(self) -> None:
        assert not self.unit.active
        assert not self.unit.blocked
        self.one.close()
        self.two.close()
        assert self.pool.used == 0
        assert self.pool.waiting == 0


@pytest.fixture
def it() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def states(*requests: SCSIRequest) -> list[int]:
    return [r.state for r in requests]


RUNNING, BLOCKED, COMPLETED, ABORTED = (
    State.RUNNING,
    State.BLOCKED,
    State.COMPLETED,
    State.ABORTED,
)


# --- task attributes (SAM-5 8.6) ------------------------------------------------------------------


def test_simple_commands_run_beside_each_other(it: Bench) -> None:
    first, second = it.read(), it.read(Attribute.UNTAGGED)
    assert states(first, second) == [RUNNING, RUNNING]
    it.store.release(1)
    assert states(first, second) == [RUNNING, COMPLETED]
    it.store.release()
    assert it.one.ended == [2, 1]


def test_ordered_waits_for_all_before_it_and_holds_back_all_after_it(it: Bench) -> None:
    before = [it.read(), it.read()]
    ordered = it.read(ORDERED)
    after = [it.read(), it.read()]
    it.store.release(1)
    assert states(*before, ordered, *after) == [RUNNING, COMPLETED, BLOCKED, BLOCKED, BLOCKED]
    it.store.release()
    assert states(ordered, *after) == [RUNNING, BLOCKED, BLOCKED]
    it.store.release()
    assert states(ordered, *after) == [COMPLETED, RUNNING, RUNNING]
    it.store.release_all()


def test_ordered_on_an_idle_unit_runs_at_once_and_still_holds_back(it: Bench) -> None:
    ordered, after = it.read(ORDERED), it.read()
    assert states(ordered, after) == [RUNNING, BLOCKED]
    it.store.release_all()
    assert it.one.ended == [1, 2]


def test_ordered_commands_run_one_by_one(it: Bench) -> None:
    requests = [it.read(ORDERED) for _ in range(4)]
    for _ in requests:
        assert [r.state for r in requests].count(RUNNING) == 1
        it.store.release()
    assert it.one.ended == [1, 2, 3, 4]


def test_ordered_commands_that_never_wait_leave_nothing_behind(it: Bench) -> None:
    it.read()
    blocked = [it.one.submit(TEST_UNIT_READY, ORDERED) for _ in range(3)]
    last = it.one.submit(TEST_UNIT_READY)
    assert states(*blocked, last) == [BLOCKED] * 4
    it.store.release()
    assert states(*blocked, last) == [COMPLETED] * 4
    assert it.one.ended == [1, 2, 3, 4, 5]
    assert it.one.submit(TEST_UNIT_READY).state == COMPLETED


def test_what_comes_while_an_ordered_command_ends_runs_next(it: Bench) -> None:
    it.one.on_complete = it.read
    assert outcome(it.one.submit(TEST_UNIT_READY, ORDERED)) == GOOD
    it.store.release_all()
    assert it.one.ended == [1, 2]


def test_the_order_holds_between_nexuses(it: Bench) -> None:
    first = it.read()
    ordered = it.two.submit(read10(0, 1), ORDERED)
    after = it.one.submit(TEST_UNIT_READY)
    assert states(first, ordered, after) == [RUNNING, BLOCKED, BLOCKED]
    it.store.release_all()
    assert states(first, ordered, after) == [COMPLETED] * 3


def test_head_of_queue_overtakes_what_is_blocked(it: Bench) -> None:
    first, ordered, simple = it.read(), it.read(ORDERED), it.read()
    head = it.read(HEAD)
    assert states(first, ordered, simple, head) == [RUNNING, BLOCKED, BLOCKED, RUNNING]
    it.store.release()
    assert ordered.state == BLOCKED  # the head of queue command counts as being before it
    it.store.release()
    assert states(ordered, simple) == [RUNNING, BLOCKED]
    it.store.release_all()


def test_head_of_queue_runs_beside_an_ordered_command(it: Bench) -> None:
    ordered, head = it.read(ORDERED), it.read(HEAD)
    assert states(ordered, head) == [RUNNING, RUNNING]
    it.store.release_all()


def test_simple_waits_for_a_head_of_queue_command(it: Bench) -> None:
    """SAM-5 8.6.2: not enabled before all commands with HEAD OF QUEUE have ended."""
    first = it.read()
    head, other_head = it.read(HEAD), it.read(HEAD)
    simple = it.read()
    assert states(first, head, other_head, simple) == [RUNNING, RUNNING, RUNNING, BLOCKED]
    it.store.release(1)
    assert states(head, other_head, simple) == [COMPLETED, RUNNING, BLOCKED]
    it.store.release(1)
    assert simple.state == RUNNING
    it.store.release_all()
    assert it.read().state == RUNNING
    it.store.release_all()


def test_a_head_of_queue_command_that_is_aborted_holds_back_nothing(it: Bench) -> None:
    head, simple = it.read(HEAD), it.read()
    done = it.abort(head)
    it.store.release()
    assert done == ["gone"]
    assert states(head, simple) == [ABORTED, RUNNING]
    it.store.release_all()


def test_aca_is_refused_and_holds_back_nothing(it: Bench) -> None:
    first = it.read()
    assert outcome(it.one.submit(TEST_UNIT_READY, Attribute.ACA)) == (
        Status.CHECK_CONDITION,
        s.INVALID_MESSAGE,
    )
    assert it.one.submit(TEST_UNIT_READY).state == COMPLETED
    it.store.release()
    assert outcome(first) == GOOD


def test_a_unit_attention_does_not_wait_for_its_turn(it: Bench) -> None:
    """SAM-5 5.14: it is reported when the command is accepted, whatever is queued."""
    it.read(ORDERED)
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    assert outcome(it.one.submit(TEST_UNIT_READY)) == (
        Status.CHECK_CONDITION,
        s.UA_CAPACITY_CHANGED,
    )
    it.store.release_all()


def test_a_unit_attention_does_not_wait_for_other_nodes(it: Bench) -> None:
    """A command that waits for them may be turned away or aborted, and has told nobody then."""
    it.unit.gate = gate = Wire()
    gate.shut = True
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    first = it.one.submit(write10(0, 1), early=BLOCK, transient=True)
    assert outcome(first) == (Status.CHECK_CONDITION, s.UA_CAPACITY_CHANGED)
    turned_away, aborted = it.read(), it.read()
    assert states(turned_away, aborted) == [BLOCKED, BLOCKED]
    it.unit.turn_away(turned_away)
    aborted.abort()
    assert outcome(turned_away) == (Status.BUSY, None)
    it.two.settle()


def test_what_is_wrong_with_a_command_is_said_when_its_turn_comes(it: Bench) -> None:
    it.read()
    it.read(ORDERED)
    wrong = it.one.submit(bytes((0xFF,)) + bytes(15))
    assert wrong.state == BLOCKED
    it.store.release_all()
    assert outcome(wrong)[0] is Status.CHECK_CONDITION
    assert it.one.ended == [1, 2, 3]


def test_a_blocked_write_keeps_its_early_data(it: Bench) -> None:
    it.read(ORDERED)
    write = it.one.submit(write10(8, 1), early=BLOCK, transient=True)
    assert write.state == BLOCKED
    assert not write.early_transient
    it.store.release_all()
    assert outcome(write) == GOOD
    got = it.one.submit(read10(8, 1))
    it.store.release_all()
    assert it.one.data[got.tag] == BLOCK


# --- abort, in every state ------------------------------------------------------------------------


def test_abort_of_a_blocked_command(it: Bench) -> None:
    first = it.read()
    ordered = it.one.submit(write10(0, 1), ORDERED, early=BLOCK, transient=True)
    after = it.read()
    assert it.abort(ordered) == ["gone"]
    assert states(first, ordered, after) == [RUNNING, ABORTED, RUNNING]
    it.store.release_all()


def test_abort_of_one_that_waits_for_the_store(it: Bench) -> None:
    """The store uses the buffers: the command is gone when the I/O has ended, and not before."""
    read, write = it.read(), it.one.submit(write10(8, 1), early=BLOCK, transient=True)
    done = it.abort(read, write)
    assert states(read, write) == [RUNNING, RUNNING]
    assert done == []
    it.store.release()
    assert done == []
    it.store.release()
    assert done == ["gone"]
    assert states(read, write) == [ABORTED, ABORTED]
    assert it.one.data[read.tag] == b""


def test_abort_of_one_whose_store_fails(it: Bench) -> None:
    read = it.read()
    done = it.abort(read)
    it.store.fail(StoreStatus.READ_FAILED)
    assert done == ["gone"]
    assert read.state == ABORTED


def test_abort_of_one_that_waits_for_early_data(it: Bench) -> None:
    write = it.one.submit(write10(0, 4), early=BLOCK, early_length=4 * 512)
    assert it.abort(write) == ["gone"]
    assert not it.store.log


def test_early_data_that_arrives_in_pieces(it: Bench) -> None:
    write = it.one.submit(write10(0, 2), early=BLOCK[:100], early_length=2 * 512)
    it.one.arrive(write, BLOCK[100:])
    assert write.state == RUNNING
    assert not it.store.log
    it.one.arrive(write, BLOCK)
    it.store.release()
    assert outcome(write) == GOOD


def test_abort_of_one_that_waits_for_solicited_data(it: Bench) -> None:
    write = it.one.submit(write10(0, 1))
    assert it.one.solicited[write.tag].nbytes == 512
    assert it.abort(write) == ["gone"]
    assert not it.one.solicited


def test_abort_between_two_windows_of_a_write(it: Bench) -> None:
    blocks = 2 * limits.WINDOW_BYTES // 512
    write = it.one.submit(write10(0, blocks))
    it.one.deliver(write, bytes(2 * limits.WINDOW_BYTES))
    it.store.release()
    assert it.one.solicited[write.tag].offset == limits.WINDOW_BYTES
    assert it.abort(write) == ["gone"]
    assert write.state == ABORTED


def test_abort_of_one_that_waits_for_buffers(it: Bench) -> None:
    share = it.two.share
    taken = [b for _ in range(share.limit) if (b := share.take(1)) is not None]
    read = it.two.submit(read10(0, 1))
    assert it.pool.waiting == 1
    assert it.abort(read) == ["gone"]
    assert it.pool.waiting == 0
    for segments in taken:
        share.give(segments)


def test_abort_of_one_that_waits_for_its_data_to_leave(it: Bench) -> None:
    it.one.hold_data_in = True
    read = it.one.submit(read10(0, 2 * limits.WINDOW_BYTES // 512))
    it.store.release()
    assert len(it.one.data[read.tag]) == limits.WINDOW_BYTES
    assert it.abort(read) == ["gone"]
    it.one.drain()  # told too late: nobody is there any more
    assert not it.store.held
    assert read.state == ABORTED


def test_abort_of_one_that_gives_way(it: Bench) -> None:
    blocks = 2 * limits.TURN_BYTES_MAX // 512
    fill = it.one.submit(write_same16(0, blocks), early=BLOCK)
    while not it.turns:
        it.store.release()
    assert it.abort(fill) == ["gone"]
    (turn,) = it.turns
    assert callable(turn)
    turn()
    assert not it.store.held


def test_abort_of_one_that_has_ended_does_nothing(it: Bench) -> None:
    ended = it.one.submit(TEST_UNIT_READY)
    ended.abort()
    assert outcome(ended) == GOOD
    assert it.one.ended == [1]
    assert it.abort() == ["gone"]


def test_abort_twice_ends_once(it: Bench) -> None:
    read = it.read()
    done = it.abort(read)
    more = it.abort(read)
    it.store.release()
    assert (done, more) == (["gone"], ["gone"])
    assert it.one.aborted_tags == [1]


def test_two_aborters_of_overlapping_sets(it: Bench) -> None:
    first, second = it.read(), it.read()
    one, both = it.abort(first), it.abort(first, second)
    it.store.release()
    assert (one, both) == (["gone"], [])
    it.store.release()
    assert both == ["gone"]


def test_abort_of_an_ordered_command_lets_the_others_go(it: Bench) -> None:
    ordered, after = it.read(ORDERED), it.read()
    it.abort(ordered)
    assert after.state == BLOCKED
    it.store.release()
    assert states(ordered, after) == [ABORTED, RUNNING]
    it.store.release()


def test_a_command_is_found_by_nexus_and_tag(it: Bench) -> None:
    running, blocked = it.read(ORDERED), it.read()
    attachment, other = running.attachment, it.two.nexus.attachments[it.two.lun]
    assert it.unit.find(attachment, 1) is running
    assert it.unit.find(attachment, 2) is blocked
    assert it.unit.find(attachment, 3) is None
    assert it.unit.find(other, 1) is None
    it.store.release_all()
    assert it.unit.find(attachment, 1) is None


# --- a data phase that goes wrong -----------------------------------------------------------------


def test_a_interrupt_ends_the_command_with_its_sense(it: Bench) -> None:
    write = it.one.submit(write10(0, 1))
    write.interrupt(DATA_PHASE_ERROR)
    assert outcome(write) == (Status.CHECK_CONDITION, DATA_PHASE_ERROR)
    write.interrupt(DATA_PHASE_ERROR)  # has ended: nothing more is said
    assert it.one.ended == [1]


def test_a_interrupt_of_a_blocked_command(it: Bench) -> None:
    it.read(ORDERED)
    write = it.one.submit(write10(0, 1), early=BLOCK)
    write.interrupt(DATA_PHASE_ERROR)
    assert outcome(write) == (Status.CHECK_CONDITION, DATA_PHASE_ERROR)
    it.store.release_all()


def test_a_interrupt_waits_for_the_store(it: Bench) -> None:
    write = it.one.submit(write10(0, 1), early=BLOCK)
    write.interrupt(DATA_PHASE_ERROR)
    assert write.state == RUNNING
    it.store.release()
    assert outcome(write) == (Status.CHECK_CONDITION, DATA_PHASE_ERROR)


def test_an_abort_after_a_interrupt_wins(it: Bench) -> None:
    write = it.one.submit(write10(0, 1), early=BLOCK)
    write.interrupt(DATA_PHASE_ERROR)
    done = it.abort(write)
    it.store.release()
    assert write.state == ABORTED
    assert done == ["gone"]


def test_a_interrupt_after_an_abort_says_nothing(it: Bench) -> None:
    write = it.one.submit(write10(0, 1), early=BLOCK)
    done = it.abort(write)
    write.interrupt(DATA_PHASE_ERROR)
    it.store.release()
    assert write.state == ABORTED
    assert done == ["gone"]


def test_a_connection_that_breaks_while_a_command_sends(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort comes from inside the command's own step."""
    real = it.one.data_in

    def data_in(
        req: SCSIRequest, views: Sequence[memoryview | bytes], segments: list[memoryview]
    ) -> None:
        real(req, views, segments)
        it.abort(req)

    monkeypatch.setattr(it.one, "data_in", data_in)
    read = it.one.submit(read10(0, 4 * limits.WINDOW_BYTES // 512))
    it.store.release()
    assert read.state == ABORTED
    assert not it.store.held
    assert len(it.one.data[read.tag]) == limits.WINDOW_BYTES


# --- task management ------------------------------------------------------------------------------


def test_clear_task_set_ends_all_and_tells_the_others(it: Bench) -> None:
    mine, theirs = it.read(), it.two.submit(read10(0, 1))
    done: list[str] = []
    it.unit.clear_task_set(mine.attachment, lambda sure: done.append("gone"))
    it.store.release_all()
    assert done == ["gone"]
    assert states(mine, theirs) == [ABORTED, ABORTED]
    assert outcome(it.two.submit(TEST_UNIT_READY))[1] == s.UA_COMMANDS_CLEARED
    assert outcome(it.one.submit(TEST_UNIT_READY)) == GOOD


def test_clear_task_set_tells_nobody_who_lost_nothing(it: Bench) -> None:
    mine = it.read()
    it.unit.clear_task_set(mine.attachment, lambda sure: None)
    it.store.release_all()
    assert outcome(it.two.submit(TEST_UNIT_READY)) == GOOD


def test_a_reset_ends_all_and_tells_everybody(it: Bench) -> None:
    running, ordered, blocked = it.read(), it.read(ORDERED), it.two.submit(read10(0, 1))
    done: list[str] = []
    it.unit.reset(lambda sure: done.append("gone"))
    assert states(running, ordered, blocked) == [RUNNING, ABORTED, ABORTED]
    assert done == []
    it.store.release()
    assert done == ["gone"]
    for hba in (it.one, it.two):
        assert outcome(hba.submit(TEST_UNIT_READY))[1] == s.UA_DEVICE_RESET
        assert outcome(hba.submit(TEST_UNIT_READY)) == GOOD


def test_a_target_reset_waits_for_every_unit(it: Bench) -> None:
    read = it.read()
    done: list[str] = []
    it.bus.reset("", lambda sure: done.append("gone"))
    assert done == []
    it.store.release()
    assert done == ["gone"]
    assert read.state == ABORTED
    it.one.settle()
    it.two.settle()


def test_the_loss_of_a_nexus_ends_its_commands_only(it: Bench) -> None:
    mine, theirs = it.read(), it.two.submit(read10(0, 1))
    third = RecordingHba(it.bus, it.pool, "three")
    third.settle()
    lost = third.submit(read10(0, 1))
    done: list[str] = []
    it.bus.disconnect(third.nexus, lambda: done.append("gone"))
    assert done == []
    it.store.release_all()
    assert done == ["gone"]
    assert lost.state == ABORTED
    assert states(mine, theirs) == [COMPLETED, COMPLETED]
    third.share.close()


def test_unit_attentions_are_bounded_and_not_repeated(it: Bench) -> None:
    queue = it.one.nexus.attachments[it.one.lun].unit_attentions
    for i in range(2 * limits.UNIT_ATTENTIONS_MAX):
        it.unit.attend_all(s.UA_CAPACITY_CHANGED.at(i))
        it.unit.attend_all(s.UA_CAPACITY_CHANGED.at(i))
    assert len(queue) == limits.UNIT_ATTENTIONS_MAX
    assert len(set(queue)) == len(queue)
    it.one.settle()
    it.two.settle()


def test_a_bug_of_ours_is_an_answer(it: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(offset: int, views: object, nbytes: int) -> bool:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(it.disk.volume, "read_now", broken)
        straight = it.read()
        windowed = it.one.submit(read10(0, limits.WINDOW_BYTES // 512 + 1))
    for req in (straight, windowed):
        assert outcome(req) == (Status.CHECK_CONDITION, s.INTERNAL_TARGET_FAILURE)


# --- units that come and go -----------------------------------------------------------------------


def test_a_unit_that_goes_ends_what_runs_and_what_waits(it: Bench) -> None:
    other = it.bus.add(5, DiskDevice(Volume("disk5", UUID, [MemoryStore(SIZE)])))
    it.one.settle()
    it.two.settle()
    running = it.read()
    blocked = it.read(Attribute.ORDERED)
    done: list[str] = []
    it.bus.remove(LunAddress("", 0), lambda: done.append("gone"))
    assert states(running, blocked) == [RUNNING, COMPLETED]
    assert not done, "the store still uses its buffers"
    it.store.release_all()
    assert done == ["gone"]
    assert states(running, blocked) == [COMPLETED, COMPLETED]
    for req in (running, blocked):
        assert (req.status, req.sense) == (Status.CHECK_CONDITION, s.LUN_NOT_SUPPORTED)
    for attachment in other.attachments:
        assert attachment.unit_attentions == [s.UA_POWER_ON, s.UA_LUNS_CHANGED]
    late = it.read()
    assert late.sense == s.LUN_NOT_SUPPORTED


def test_a_unit_that_comes_is_told_through_those_that_are_known(it: Bench) -> None:
    it.bus.add(1, DiskDevice(Volume("disk1", UUID, [MemoryStore(SIZE)])))
    for attachment in it.unit.attachments:
        assert attachment.unit_attentions == [s.UA_LUNS_CHANGED]
    it.one.settle()
    it.two.settle()


def test_a_disk_that_grows(it: Bench) -> None:
    blocks = it.disk.blocks
    beyond = it.one.submit(read10(blocks, 1), SIMPLE)
    assert beyond.sense is not None
    assert (beyond.sense.asc, beyond.sense.ascq) == (0x21, 0x00)
    it.store.inner.size = 2 * SIZE
    it.disk.volume.grow(2 * SIZE)
    it.disk.grown()
    last = it.one.submit(read10(2 * blocks - 1, 1), SIMPLE)
    assert last.state == RUNNING
    it.store.release_all()
    assert last.status == Status.GOOD
