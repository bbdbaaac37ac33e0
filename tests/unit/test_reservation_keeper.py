"""Reservations in force: one change at a time, kept, told; on two nodes that share what is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.scsi import sense as s
from target.scsi.documents import Kept
from target.scsi.request import SCSIRequest
from target.scsi.reservations.keeper import TRIES_MAX, Reservations
from target.scsi.reservations.state import Outcome, Type
from target.scsi.sense import Status
from tests.support import reservations as pr
from tests.support.cdb import read10, write10
from tests.support.recording_hba import RecordingHba
from tests.support.scsi_disk import TEST_UNIT_READY
from tests.support.two_nodes import Cluster

BLOCK = bytes(512)
KEY_A, KEY_B = 0xA, 0xB


@pytest.fixture
def it() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def ended(*requests: SCSIRequest) -> list[Status]:
    assert all(req.state == 4 for req in requests), requests
    return [Status(req.status) for req in requests]


GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT


def test_a_change_is_in_force_on_every_node_before_it_is_answered(it: Cluster) -> None:
    it.one.register(KEY_A)
    it.one.wire.hold = True
    req = it.one.out(pr.RESERVE, Type.WRITE_EXCLUSIVE, pr.keys(KEY_A))
    assert req.state == 3
    assert it.two.status(write10(0, 1), BLOCK) is GOOD
    it.one.wire.held.pop()()
    assert ended(req) == [GOOD]
    assert it.two.status(write10(0, 1), BLOCK) is CONFLICT
    assert it.one.unit.reservations.state == it.two.unit.reservations.state


def test_nobody_knows_whether_all_nodes_have_heard(it: Cluster) -> None:
    it.one.wire.sure = False
    assert ended(it.one.register(KEY_A)) == [Status.BUSY]


def test_what_another_node_has_changed_is_decided_upon(it: Cluster) -> None:
    """The event that tells of it is still on its way."""
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    it.one.wire.hold = True
    first = it.one.out(pr.RESERVE, Type.WRITE_EXCLUSIVE, pr.keys(KEY_A))
    second = it.two.out(pr.RESERVE, Type.WRITE_EXCLUSIVE, pr.keys(KEY_B))
    assert ended(second) == [CONFLICT]
    it.one.wire.held.pop()()
    assert ended(first) == [GOOD]


def test_an_older_version_is_no_news(it: Cluster) -> None:
    it.one.wire.hold = True
    first, second = it.one.register(KEY_A), it.one.register(KEY_B)
    late, early = it.one.wire.held
    early()
    assert it.two.unit.reservations.state.registrations[0].key == KEY_B
    late()
    assert it.two.unit.reservations.state.registrations[0].key == KEY_B
    assert ended(first, second) == [GOOD, GOOD]


def test_one_change_at_a_time_in_the_order_in_which_they_came(it: Cluster) -> None:
    it.shared.hold = True
    requests = [it.one.register(key) for key in (1, 2, 3)]
    assert len(it.shared.held) == 1
    it.shared.release()
    assert ended(*requests) == [GOOD, GOOD, GOOD]
    assert it.one.unit.reservations.state.registrations[0].key == 3


def test_a_queue_of_any_length_takes_no_stack(it: Cluster) -> None:
    it.shared.hold = True
    outcomes: list[Outcome | Exception] = []
    it.one.register(KEY_A)
    for _ in range(5000):
        it.one.unit.reservations.change(None, outcomes.append)
    it.shared.release()
    assert len(outcomes) == 5000


def test_what_is_preempted_and_aborted_on_another_node_is_gone_before_the_answer(
    it: Cluster,
) -> None:
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    it.two.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_B))
    running = it.two.hba.submit(write10(0, 1), early=BLOCK)
    req = it.one.out(pr.PREEMPT_AND_ABORT, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A, KEY_B))
    assert (running.state, req.state) == (3, 3), "the store has it still"
    it.two.store.release_all()
    assert ended(req) == [GOOD]
    assert running.state == 5
    attentions = it.two.hba.nexus.attachments[it.two.hba.lun].unit_attentions
    assert s.UA_COMMANDS_CLEARED in attentions
    it.two.hba.settle()
    assert it.two.status(read10(0, 1)) is CONFLICT


def test_others_are_faster_but_not_for_ever(it: Cluster) -> None:
    it.shared.beaten = TRIES_MAX - 1
    assert ended(it.one.register(KEY_A)) == [GOOD]
    it.shared.beaten = TRIES_MAX
    assert ended(it.one.register(KEY_B)) == [Status.BUSY]


def test_a_change_that_was_kept_without_an_answer_counts(it: Cluster) -> None:
    it.shared.replace_fails = "after"
    assert ended(it.one.register(KEY_A)) == [GOOD]
    assert it.two.unit.reservations.state.registrations[0].key == KEY_A


def test_a_change_that_was_not_kept_is_tried_again_by_its_initiator(it: Cluster) -> None:
    it.shared.replace_fails = "before"
    assert ended(it.one.register(KEY_A)) == [Status.BUSY]
    it.shared.replace_fails = ""
    assert ended(it.one.register(KEY_A)) == [GOOD]


def test_after_doubt_the_next_change_looks_first(it: Cluster) -> None:
    it.shared.replace_fails, it.shared.load_fails = "after", True
    assert ended(it.one.register(KEY_A)) == [Status.BUSY]
    it.shared.replace_fails, it.shared.load_fails = "", False
    assert it.one.status(pr.pr_in(pr.READ_KEYS)) is GOOD
    assert it.one.hba.data[2] == pr.read_keys_data(1, KEY_A), "it looks as well"
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_B))) == [CONFLICT]
    assert it.one.unit.reservations.state.registrations[0].key == KEY_A


def test_who_looks_learns_what_is_kept(it: Cluster) -> None:
    it.one.wire.hold = True
    it.one.register(KEY_A)
    looked: list[bool] = []
    it.two.unit.reservations.look(looked.append)
    assert looked == [True]
    assert it.two.unit.reservations.state.registrations[0].key == KEY_A
    it.one.wire.held.pop()()


def test_a_node_that_goes_between_keeping_and_telling(it: Cluster) -> None:
    """Whom it has preempted is treated as if it had been told to abort."""
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    running = it.two.hba.submit(write10(0, 1), early=BLOCK)
    it.one.wire.hold = True
    it.one.out(pr.PREEMPT_AND_ABORT, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A, KEY_B))
    looked: list[bool] = []
    it.two.unit.reservations.look(looked.append, lost_port=1)
    assert (looked, running.state) == ([], 3), "the store has it still"
    it.two.store.release_all()
    assert (looked, running.state) == ([True], 5)
    attentions = it.two.hba.nexus.attachments[it.two.hba.lun].unit_attentions
    assert attentions == [s.UA_REGISTRATIONS_PREEMPTED, s.UA_COMMANDS_CLEARED]
    it.one.wire.held.pop()()
    it.two.hba.settle()


def test_a_node_that_goes_takes_its_reservations_of_spc2_along(it: Cluster) -> None:
    it.one.hba.submit(pr.RESERVE6)
    for port, status in ((2, CONFLICT), (1, GOOD)):
        looked: list[bool] = []
        it.two.unit.reservations.look(looked.append, lost_port=port)
        assert looked == [True]
        assert it.two.status(TEST_UNIT_READY) is status
    it.shared.load_fails = True
    it.two.unit.reservations.look(looked.append)
    assert looked == [True, False]


def test_what_was_kept_and_cannot_be_read(it: Cluster) -> None:
    it.shared.inner.kept = Kept(7, b"{")
    assert ended(it.one.register(KEY_A)) == [Status.BUSY]
    it.shared.inner.kept = Kept(8, b"")
    assert ended(it.one.register(KEY_A)) == [GOOD]


def test_a_change_that_waits_can_be_aborted_one_that_has_begun_cannot(it: Cluster) -> None:
    it.shared.hold = True
    begun, waits = it.one.register(KEY_A), it.one.register(KEY_B)
    gone: list[str] = []
    it.one.unit.abort([begun, waits], lambda: gone.append("gone"))
    assert (begun.state, waits.state) == (3, 5)
    it.shared.release()
    assert gone == ["gone"]
    assert begun.state == 5
    assert it.one.unit.reservations.state.registrations[0].key == KEY_A


def test_one_that_is_told_waits_for_this_node_when_it_is_aborted_not_for_others(
    it: Cluster,
) -> None:
    other = RecordingHba(it.one.bus, it.one.pool, "iqn.test:other")
    other.settle()
    other.submit(pr.pr_out(pr.REGISTER_AND_IGNORE), early=pr.keys(0, KEY_B))
    it.one.register(KEY_A)
    write = other.submit(write10(0, 1), early=BLOCK)
    it.one.wire.hold = True
    req = it.one.out(pr.PREEMPT_AND_ABORT, Type.WRITE_EXCLUSIVE, pr.keys(KEY_A, KEY_B))
    req.abort()
    assert (req.state, write.state) == (3, 3)
    it.one.store.release_all()
    assert (req.state, write.state) == (5, 5)
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_B, KEY_A]
    it.one.wire.held.pop()()
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_A]
    it.one.wire.hold = False
    assert ended(it.one.register(KEY_A)) == [GOOD]
    other.settle()
    other.close()


@pytest.mark.parametrize("told", [False, True])
def test_one_that_was_aborted_and_may_not_have_been_heard_is_told_again(
    it: Cluster, told: bool
) -> None:
    it.shared.hold, it.one.wire.hold, it.one.wire.sure = not told, told, False
    it.one.wire.cut = not told
    req = it.one.register(KEY_A)
    req.abort()
    it.shared.release()
    assert req.state == 5
    it.one.wire.cut = it.one.wire.hold = False
    for deliver in it.one.wire.held:
        deliver()
    it.one.wire.sure = True
    assert it.one.status(pr.pr_in(pr.READ_KEYS)) is GOOD
    assert len(it.one.wire.told) == 2
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_A]


def test_the_end_of_a_nexus_ends_its_reservation_everywhere(it: Cluster) -> None:
    other = RecordingHba(it.one.bus, it.one.pool, "iqn.test:other")
    other.settle()
    assert ended(other.submit(pr.RESERVE6)) == [GOOD]
    assert it.two.status(TEST_UNIT_READY) is CONFLICT
    other.close()
    assert it.two.status(TEST_UNIT_READY) is GOOD


def test_a_reset_of_one_node_ends_the_reservation_of_another(it: Cluster) -> None:
    it.two.hba.submit(pr.RESERVE6)
    done: list[bool] = []
    it.one.unit.reset(done.append)
    assert done == [True]
    it.one.hba.settle()
    it.two.hba.settle()
    assert it.one.status(pr.RESERVE6) is GOOD
    assert it.one.status(pr.RELEASE6) is GOOD


def test_what_ends_while_the_store_is_away_is_owed(it: Cluster) -> None:
    other = RecordingHba(it.one.bus, it.one.pool, "iqn.test:other")
    other.settle()
    other.submit(pr.RESERVE6)
    it.shared.replace_fails, it.shared.load_fails = "before", True
    other.close()
    assert it.two.status(TEST_UNIT_READY) is CONFLICT
    it.shared.replace_fails, it.shared.load_fails = "", False
    it.one.unit.reservations.look(lambda sure: None)
    assert it.two.status(TEST_UNIT_READY) is GOOD
    loads = it.shared.loads
    assert it.one.status(pr.RESERVE6) is GOOD
    assert it.two.status(TEST_UNIT_READY) is CONFLICT
    assert it.shared.loads == loads, "nothing is owed any more"
    assert it.one.status(pr.RELEASE6) is GOOD


def test_the_loss_of_a_nexus_that_holds_nothing_asks_nobody(it: Cluster) -> None:
    other = RecordingHba(it.one.bus, it.one.pool, "iqn.test:other")
    it.shared.hold = True
    other.close()
    assert not it.shared.held
    it.shared.release()


# --- what has been kept and was not told ----------------------------------------------------------


def untold(it: Cluster, action: int, kind: int, data: bytes) -> None:
    """A change through the first node of which the second one does not hear."""
    it.one.wire.cut = True
    assert ended(it.one.out(action, kind, data)) == [Status.BUSY]
    it.one.wire.cut = False


def test_a_reserve_that_is_tried_again_is_told_before_it_is_good(it: Cluster) -> None:
    it.one.register(KEY_A)
    untold(it, pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A))
    assert it.two.status(write10(0, 1), BLOCK) is GOOD, "it has not heard"
    again = it.one.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A))
    assert ended(again) == [GOOD]
    assert it.two.status(write10(0, 1), BLOCK) is CONFLICT


def test_a_register_that_is_tried_again_is_no_conflict(it: Cluster) -> None:
    untold(it, pr.REGISTER, 0, pr.keys(0, KEY_A))
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_B))) == [CONFLICT], "another one"
    assert it.two.unit.reservations.state.registrations[0].key == KEY_A, "told before that"
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_A))) == [CONFLICT], "known since then"


@pytest.mark.parametrize("between", [False, True])
def test_a_preempt_and_abort_that_is_tried_again_aborts(it: Cluster, between: bool) -> None:
    """Even if something else has been answered before, and told with it."""
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    it.two.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_B))
    running = it.two.hba.submit(write10(0, 1), early=BLOCK)
    preempt = (pr.PREEMPT_AND_ABORT, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A, KEY_B))
    untold(it, *preempt)
    if between:
        other = RecordingHba(it.one.bus, it.one.pool, "iqn.test:other")
        other.settle()
        data = pr.keys(0, 0xC)
        asked = other.submit(pr.pr_out(pr.REGISTER, 0, len(data)), early=data)
        it.two.store.release_all()
        assert ended(asked) == [GOOD]
        assert running.state == 5
    again = it.one.out(*preempt)
    it.two.store.release_all()
    assert ended(again) == [GOOD]
    assert running.state == 5
    attentions = it.two.hba.nexus.attachments[it.two.hba.lun].unit_attentions
    assert attentions == [s.UA_REGISTRATIONS_PREEMPTED, s.UA_COMMANDS_CLEARED]
    it.two.hba.settle()
    assert it.two.status(read10(0, 1)) is CONFLICT
    assert ended(it.one.out(*preempt)) == [CONFLICT], "that was another one"
    if between:
        other.close()


@pytest.mark.parametrize(
    ("cdb", "data", "status"),
    [
        (pr.pr_out(pr.REGISTER_AND_IGNORE), pr.keys(0, KEY_B), GOOD),
        (pr.pr_in(pr.READ_KEYS), b"", GOOD),
        (pr.pr_out(pr.RESERVE, Type.WRITE_EXCLUSIVE), pr.keys(KEY_B), CONFLICT),
    ],
    ids=["register", "read keys", "reserve"],
)
def test_a_victim_with_which_it_is_told_again_does_not_wait_for_itself(
    it: Cluster, cdb: bytes, data: bytes, status: Status
) -> None:
    victim = RecordingHba(it.one.bus, it.one.pool, "iqn.test:victim")
    victim.settle()
    it.one.register(KEY_A)
    victim.submit(pr.pr_out(pr.REGISTER_AND_IGNORE), early=pr.keys(0, KEY_B))
    preempt = (pr.PREEMPT_AND_ABORT, Type.WRITE_EXCLUSIVE, pr.keys(KEY_A, KEY_B))
    untold(it, *preempt)
    victim.settle()
    req = victim.submit(cdb, early=data)
    assert ended(req) == [status]
    victim.settle()
    it.one.out(*preempt)
    victim.settle()
    done: list[bool] = []
    it.one.unit.reset(done.append)
    assert done == [True], "nothing waits any more"
    for hba in (it.one.hba, it.two.hba):
        hba.settle()
    victim.close()


def test_who_was_preempted_by_a_node_that_has_gone_can_ask_for_the_keys(it: Cluster) -> None:
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    it.two.wire.cut = it.one.wire.cut = True
    it.two.out(pr.PREEMPT, Type.WRITE_EXCLUSIVE, pr.keys(KEY_B, KEY_A))
    it.one.unit.reservations.look(lambda sure: None)
    it.one.hba.settle()
    assert it.one.status(pr.pr_in(pr.READ_KEYS)) is Status.BUSY, "not in force elsewhere"
    it.two.wire.cut = it.one.wire.cut = False
    it.one.hba.settle()
    asked = it.one.hba.submit(pr.pr_in(pr.READ_KEYS))
    assert ended(asked) == [GOOD]
    assert bytes(it.one.hba.data[asked.tag]) == pr.read_keys_data(3, KEY_B)
    it.one.hba.settle()


def test_a_victim_that_has_come_back_is_preempted_anew(it: Cluster) -> None:
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    preempt = (pr.PREEMPT_AND_ABORT, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A, KEY_B))
    untold(it, *preempt)
    it.two.register(KEY_B)
    it.two.hba.settle()
    assert ended(it.one.out(*preempt)) == [GOOD]
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_A]
    it.two.hba.settle()


def test_a_clear_and_a_move_that_are_tried_again(it: Cluster) -> None:
    to = pr.transport_id("iqn.test:n2", it.two.hba.nexus.isid)
    it.one.register(KEY_A)
    it.one.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A))
    moved = (pr.MOVE, 0, pr.move(KEY_A, KEY_B, to, flags=pr.UNREG, port=2))
    untold(it, *moved)
    assert ended(it.one.out(*moved)) == [GOOD]
    assert it.two.unit.reservations.state.holder == it.two.hba.nexus.name
    it.one.register(KEY_A)
    untold(it, pr.CLEAR, 0, pr.keys(KEY_A))
    assert ended(it.one.out(pr.CLEAR, 0, pr.keys(KEY_A))) == [GOOD]
    assert not it.two.unit.reservations.any
    it.two.hba.settle()


def test_a_retry_whose_telling_fails_too_is_busy_again(it: Cluster) -> None:
    it.one.wire.cut = True
    for _ in range(3):
        assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_A))) == [Status.BUSY]
        assert it.one.status(pr.pr_in(pr.READ_KEYS)) is Status.BUSY, "not in force elsewhere"
    it.one.wire.cut = False
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_A))) == [GOOD]


def test_a_reserve_of_spc2_that_is_tried_again(it: Cluster) -> None:
    it.one.wire.cut = True
    assert it.one.status(pr.RESERVE6) is Status.BUSY
    assert it.two.status(TEST_UNIT_READY) is GOOD
    it.one.wire.cut = False
    assert it.one.status(pr.RESERVE6) is GOOD
    assert it.two.status(TEST_UNIT_READY) is CONFLICT
    it.one.hba.submit(pr.RELEASE6)


def test_a_change_in_doubt_that_another_node_has_built_upon(it: Cluster) -> None:
    """It was kept, and nobody could tell: the other node was told of it by what it found."""
    it.shared.replace_fails, it.shared.load_fails = "after", True
    register = (pr.REGISTER, 0, pr.keys(0, KEY_A))
    assert ended(it.one.out(*register)) == [Status.BUSY]
    it.shared.replace_fails, it.shared.load_fails = "", False
    it.two.wire.cut = True
    assert ended(it.two.register(KEY_B)) == [Status.BUSY]
    it.two.wire.cut = False
    assert ended(it.one.out(*register)) == [GOOD]
    assert [each.key for each in it.one.unit.reservations.state.registrations] == [KEY_A, KEY_B]


def test_another_node_changes_it_before_a_change_is_found_out(it: Cluster) -> None:
    it.shared.replace_fails = "after"
    it.shared.after_failure = lambda: it.two.register(KEY_B)
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(0, KEY_A))) == [GOOD]
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_A, KEY_B]
    it.shared.replace_fails = "before"
    it.shared.after_failure = lambda: it.two.register(KEY_A)
    assert ended(it.one.out(pr.REGISTER, 0, pr.keys(KEY_A, KEY_B))) == [GOOD], "decided again"
    assert [each.key for each in it.two.unit.reservations.state.registrations] == [KEY_B, KEY_A]


def test_a_change_that_has_been_told_is_not_told_again(it: Cluster) -> None:
    it.one.register(KEY_A)
    it.one.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A))
    told = len(it.one.wire.told)
    assert ended(it.one.out(pr.RESERVE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A))) == [GOOD]
    assert it.one.status(pr.pr_in(pr.READ_KEYS)) is GOOD
    assert ended(it.one.out(pr.RELEASE, Type.WRITE_EXCLUSIVE, pr.keys(KEY_B))) == [CONFLICT]
    assert len(it.one.wire.told) == told
    assert ended(it.two.register(KEY_B)) == [GOOD]
    assert ended(it.two.out(pr.RELEASE, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_B))) == [GOOD]
    assert len(it.two.wire.told) == 1


def test_who_begins_tells_what_its_last_life_may_not_have_told(it: Cluster) -> None:
    """Of whom that has preempted nobody knows any more: the others see who is gone."""
    it.one.register(KEY_A)
    it.two.register(KEY_B)
    running = it.two.hba.submit(write10(0, 1), early=BLOCK)
    untold(it, pr.PREEMPT_AND_ABORT, Type.EXCLUSIVE_ACCESS, pr.keys(KEY_A, KEY_B))
    it.one.unit.reservations = Reservations(it.one.unit)
    it.one.unit.reservations.keep_in(it.shared, it.shared.inner.kept)
    asked = it.one.hba.submit(pr.pr_in(pr.READ_KEYS))
    assert (asked.state, running.state) == (3, 3), "the store has it still"
    it.two.store.release_all()
    assert ended(asked) == [GOOD]
    assert running.state == 5
    it.two.hba.settle()
