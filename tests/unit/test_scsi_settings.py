"""What MODE SELECT and START STOP UNIT change, on two nodes that serve one disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.scsi import sense as s
from target.scsi.documents import Kept
from target.scsi.request import SCSIRequest
from target.scsi.sense import Sense, Status
from target.scsi.settings import TRIES_MAX, SettingsChange
from target.scsi.unit_events import ResetUnit
from tests.support.cdb import write10
from tests.support.two_nodes import Cluster, Node
from workers.store import IoKind

GOOD, BUSY = Status.GOOD, Status.BUSY
SELECT = bytes.fromhex("15 10 00 00 18 00")
SELECT_OFF = bytes(4) + bytes((0x08, 18, 0)) + bytes(17)  # WCE
START, STOP = bytes.fromhex("1b 00 00 00 01 00"), bytes.fromhex("1b 00 00 00 00 00")
WCE = 0x04
BLOCK = bytes(512)


@pytest.fixture
def it() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def select_cache(node: Node, wce: int) -> SCSIRequest:
    req = node.hba.submit(SELECT, early=bytes(4) + bytes((0x08, 18, wce)) + bytes(17))
    node.store.release_all()
    return req


def caches(it: Cluster) -> tuple[bool, bool]:
    return tuple(node.unit.device.volume.write_cache for node in (it.one, it.two))  # type: ignore


def attentions(node: Node) -> list[Sense]:
    return node.hba.nexus.attachments[node.hba.lun].unit_attentions


def test_a_write_cache_is_off_on_every_node_before_the_answer(it: Cluster) -> None:
    it.one.wire.hold = True
    req = select_cache(it.one, 0)
    assert req.state == 3
    assert caches(it) == (False, True)
    it.one.wire.held.pop()()
    it.one.store.release_all()
    assert (req.state, req.status) == (4, GOOD)
    assert caches(it) == (False, False)
    assert attentions(it.one) == []
    assert attentions(it.two) == [s.UA_MODE_PARAMETERS_CHANGED]
    it.two.hba.settle()


def test_what_another_node_writes_meanwhile_is_written_before_the_flush(it: Cluster) -> None:
    running = it.two.hba.submit(write10(0, 1), early=BLOCK)
    req = select_cache(it.one, 0)
    assert (running.state, req.state) == (3, 3)
    assert not it.one.store.held
    it.two.store.release_all()
    it.one.store.release_all()
    assert (running.status, req.status) == (GOOD, GOOD)
    it.two.hba.settle()


def test_what_this_node_writes_meanwhile_is_written_before_the_flush(it: Cluster) -> None:
    running = it.one.hba.submit(write10(0, 1), early=BLOCK)
    req = it.one.hba.submit(SELECT, early=SELECT_OFF)
    later = it.one.hba.submit(write10(8, 1), early=BLOCK)
    it.one.store.release()
    assert (running.state, req.state) == (4, 3)
    it.one.store.release_all()
    assert (req.status, later.status) == (GOOD, GOOD)
    log = [(kind, fua) for kind, _, _, fua in it.one.store.log]
    assert log == [(IoKind.WRITE, False), (IoKind.WRITE, True), (IoKind.FLUSH, False)]
    it.two.hba.settle()


def flushed(node: Node) -> bool:
    return any(kind is IoKind.FLUSH for kind, *_ in node.store.log)


@pytest.mark.parametrize("begun", [False, True])
def test_a_cache_that_nobody_has_come_to_flush_is_on_again(it: Cluster, begun: bool) -> None:
    """MODE SELECT is aborted while it is kept, or told."""
    assert it.one.status(write10(0, 1), BLOCK) is GOOD
    it.settings.hold, it.one.wire.hold = not begun, begun
    req = it.one.hba.submit(SELECT, early=SELECT_OFF)
    req.abort()
    it.settings.release()
    it.one.wire.hold = False
    for deliver in it.one.wire.held:
        deliver()
    assert req.state == 5
    assert not flushed(it.one)
    assert caches(it) == (True, True)
    it.two.hba.settle()


def test_a_cache_that_is_off_and_perhaps_not_flushed_is_flushed_by_who_asks_again(
    it: Cluster,
) -> None:
    assert it.one.status(write10(0, 1), BLOCK) is GOOD
    req = it.two.hba.submit(SELECT, early=SELECT_OFF)
    assert (caches(it), req.state) == ((False, False), 3)
    assert not flushed(it.one)
    it.one.hba.settle()
    assert select_cache(it.one, 0).status == GOOD
    assert flushed(it.one)
    it.two.store.release_all()


def test_a_write_whose_data_do_not_come_holds_up_no_change(it: Cluster) -> None:
    stuck = [node.hba.submit(write10(0, 1)) for node in (it.one, it.two)]
    assert it.one.status(STOP) is GOOD
    assert it.one.status(START) is GOOD
    assert select_cache(it.one, 0).status == GOOD
    it.two.hba.settle()
    for node, req in zip((it.one, it.two), stuck, strict=True):
        assert req.state == 3
        node.hba.deliver(req, BLOCK)
        node.store.release_all()
        assert (req.status, node.store.log[-1][3]) == (GOOD, True), "the cache is off by now"


def test_a_reset_does_not_wait_for_what_it_ends(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.two.hba.settle()
    stuck = it.two.hba.submit(write10(0, 1))
    writing = it.two.hba.submit(write10(8, 1), early=BLOCK)
    done: list[bool] = []
    it.one.unit.reset(done.append)
    assert (stuck.state, done) == (5, []), "the store has the other one still"
    it.two.store.release_all()
    assert (writing.state, done) == (5, [True])
    for node in (it.one, it.two):
        node.hba.settle()


def test_a_disk_is_stopped_and_started_through_any_node(it: Cluster) -> None:
    assert it.one.status(STOP) is GOOD
    assert it.two.status(write10(0, 1), BLOCK) is Status.CHECK_CONDITION
    assert it.two.status(START) is GOOD
    assert it.one.status(write10(0, 1), BLOCK) is GOOD
    assert it.two.status(write10(0, 1), BLOCK) is GOOD


def test_changes_of_two_nodes_are_both_in_force(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.two.hba.settle()
    assert it.two.status(STOP) is GOOD
    for node in (it.one, it.two):
        assert node.unit.device.stopped  # type: ignore[attr-defined]
    assert caches(it) == (False, False)
    it.one.status(START)


def test_a_reset_sets_the_defaults_for_who_comes_later_as_well(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.two.unit.reset(lambda sure: None)
    assert caches(it) == (True, True)
    late = Node(3, it.shared, it.settings)
    assert late.unit.device.volume.write_cache  # type: ignore[attr-defined]
    assert it.settings.inner.kept.version == 2
    for node in (it.one, it.two):
        assert attentions(node)[-1] == s.UA_DEVICE_RESET
        node.hba.settle()


def test_what_is_set_while_a_reset_is_told_is_set_on_every_node(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.two.hba.settle()
    it.one.wire.hold = True
    it.one.unit.reset(lambda sure: None)
    it.one.wire.held.pop(0)()
    assert isinstance(it.one.wire.told[-1], ResetUnit)
    assert select_cache(it.two, 0).status == GOOD
    it.one.wire.held.pop(0)()
    it.one.wire.hold = False
    late = Node(3, it.shared, it.settings)
    assert (*caches(it), late.unit.device.volume.write_cache) == (False,) * 3  # type: ignore
    for node in (it.one, it.two):
        node.hba.settle()


def test_a_reset_while_redis_is_away_leaves_what_was_set(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.settings.load_fails = True
    done: list[bool] = []
    it.two.unit.reset(done.append)
    assert done == [False]
    assert caches(it) == (False, False), "as it is kept, for who comes later"
    for node in (it.one, it.two):
        node.hba.settle()


def test_a_reset_of_what_nobody_has_changed_asks_nobody(it: Cluster) -> None:
    it.one.unit.reset(lambda sure: None)
    assert it.settings.loads == 0
    for node in (it.one, it.two):
        node.hba.settle()


def test_who_comes_later_has_what_was_set(it: Cluster) -> None:
    select_cache(it.one, 0)
    it.two.hba.settle()
    late = Node(3, it.shared, it.settings)
    assert not late.unit.device.volume.write_cache  # type: ignore[attr-defined]


def test_a_change_that_was_kept_and_not_told_is_found(it: Cluster) -> None:
    """Its node has died in between."""
    it.one.wire.hold = True
    req = select_cache(it.one, 0)
    looked: list[bool] = []
    it.two.unit.settings.look(looked.append)
    assert looked == [True]
    assert caches(it)[1] is False
    assert attentions(it.two) == [s.UA_MODE_PARAMETERS_CHANGED]
    it.two.hba.settle()
    it.one.wire.held.pop()()
    it.one.store.release_all()
    assert req.status == GOOD
    assert attentions(it.two) == [], "it knows"


@pytest.mark.parametrize("when", ["before", "after"])
def test_nobody_knows_whether_it_was_kept(it: Cluster, when: str) -> None:
    it.settings.replace_fails = when
    assert select_cache(it.one, 0).status == BUSY
    it.settings.replace_fails = ""
    assert select_cache(it.one, 0).status == GOOD, "the initiator tries again"
    assert caches(it) == (False, False)
    it.two.hba.settle()


def test_redis_is_away(it: Cluster) -> None:
    it.settings.load_fails = True
    assert select_cache(it.one, 0).status == BUSY
    looked: list[bool] = []
    it.one.unit.settings.look(looked.append)
    assert looked == [False]
    assert caches(it) == (True, True)
    it.settings.load_fails = False


def test_nobody_knows_whether_all_nodes_have_heard(it: Cluster) -> None:
    it.one.wire.sure = False
    assert select_cache(it.one, 0).status == BUSY
    it.two.hba.settle()


def test_others_are_always_faster(it: Cluster) -> None:
    it.settings.beaten = TRIES_MAX
    assert select_cache(it.one, 0).status == BUSY
    assert select_cache(it.one, 0).status == GOOD
    it.two.hba.settle()


def test_what_is_kept_cannot_be_read(it: Cluster) -> None:
    it.settings.inner.kept = Kept(1, b"?")
    assert select_cache(it.one, 0).status == BUSY
    with pytest.raises(ValueError, match="JSON"):
        it.one.unit.settings.keep_in(it.settings, it.settings.inner.kept)


def test_one_change_at_a_time(it: Cluster) -> None:
    it.settings.hold = True
    outcomes: list[Exception | None] = []
    for stopped in (True, False, True, False):
        it.one.unit.settings.change(SettingsChange(stopped=stopped), outcomes.append)
    assert len(it.settings.held) == 1
    it.settings.release()
    assert outcomes == [None] * 4
    assert it.one.status(write10(0, 1), BLOCK) is GOOD


@pytest.mark.parametrize("begun", [False, True])
def test_a_change_that_is_aborted_waits_for_no_other_node(it: Cluster, begun: bool) -> None:
    it.one.wire.hold = True
    it.settings.hold = not begun
    req = it.one.hba.submit(STOP, early=b"")
    it.one.store.release_all()
    queued = it.one.hba.submit(START)
    req.abort()
    queued.abort()
    assert queued.state == 5
    it.settings.release()
    assert req.state == 5
    assert not it.two.unit.device.stopped  # type: ignore[attr-defined]
    it.one.wire.held.pop()()
    assert it.two.unit.device.stopped  # type: ignore[attr-defined]
    it.one.wire.hold = False
    assert it.two.status(START) is GOOD


def test_a_change_that_is_over_lets_the_reset_behind_it_end_its_command(it: Cluster) -> None:
    it.one.wire.hold = True
    req = it.one.hba.submit(STOP)
    it.one.store.release_all()
    done: list[bool] = []
    it.one.unit.reset(done.append)
    it.one.wire.hold = False
    for deliver in it.one.wire.held:
        deliver()
    assert (req.state, done) == (5, [True])
    for node in (it.one, it.two):
        assert not node.unit.device.stopped  # type: ignore[attr-defined]
        node.hba.settle()
