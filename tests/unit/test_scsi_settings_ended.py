"""MODE SELECT that is aborted or fails, and what has to end meanwhile, on two nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.block.ranges import RangeTicket
from target.scsi import sense as s
from target.scsi.disk import DiskDevice
from target.scsi.request import SCSIRequest, State
from target.scsi.sense import Status
from tests.support.cdb import write10
from tests.support.recording_hba import RecordingHba
from tests.support.two_nodes import Cluster, Node
from workers.store import StoreIo

GOOD, BUSY = Status.GOOD, Status.BUSY
CACHE_OFF = bytes((0x08, 18, 0)) + bytes(17)
WRITE_PROTECT = bytes((0x0A, 10, 0, 0x10, 0x08)) + bytes(7)
STOP = bytes.fromhex("1b 00 00 00 01 00")
REQUEST_SENSE = bytes.fromhex("03 00 00 00 12 00")
REPORT_LUNS = bytes.fromhex("a0 00 00 00 00 00 00 00 10 00 00 00")


@pytest.fixture
def it() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    for node in (made.one, made.two):
        node.hba.settle()
    made.close()


def select(node: Node, *pages: bytes) -> SCSIRequest:
    data = bytes(4) + b"".join(pages)
    return node.hba.submit(bytes((0x15, 0x10, 0, 0, len(data), 0)), early=data)


def disk(node: Node) -> DiskDevice:
    assert isinstance(node.unit.device, DiskDevice)
    return node.unit.device


def caches(it: Cluster) -> tuple[bool, bool]:
    return disk(it.one).volume.write_cache, disk(it.two).volume.write_cache


def away_for_one_call(it: Cluster) -> None:
    it.settings.load_fails = True
    it.settings.held.popleft()()
    it.settings.load_fails = False


def test_one_that_never_began_undoes_nothing(it: Cluster) -> None:
    it.settings.hold = True
    first, second = select(it.one, CACHE_OFF), select(it.one, CACHE_OFF)
    second.abort()
    assert second.state == State.ABORTED
    it.settings.release()
    it.one.store.release_all()
    assert first.status == GOOD
    assert caches(it) == (False, False)


def test_one_that_could_not_be_kept_undoes_nothing(it: Cluster) -> None:
    it.settings.hold = True
    first, second = select(it.one, CACHE_OFF), select(it.one, CACHE_OFF)
    for _ in range(2):
        it.settings.held.popleft()()  # it is loaded, and kept
    it.one.store.release_all()
    assert first.status == GOOD
    away_for_one_call(it)
    it.settings.release()
    it.one.store.release_all()
    assert second.status == BUSY
    assert caches(it) == (False, False)


def test_one_that_another_was_faster_than_undoes_nothing(it: Cluster) -> None:
    it.settings.hold = True
    slow, fast = select(it.one, CACHE_OFF), select(it.two, CACHE_OFF)
    for _ in range(2):
        it.settings.held.popleft()()  # both have loaded
    it.settings.held.rotate(-1)
    it.settings.held.popleft()()
    it.two.store.release_all()
    assert fast.status == GOOD
    it.settings.held.popleft()()
    away_for_one_call(it)
    it.settings.release()
    it.one.store.release_all()
    assert slow.status == BUSY
    assert caches(it) == (False, False)


def test_what_another_was_answered_since_is_not_undone(it: Cluster) -> None:
    it.one.wire.hold = True
    told, answered = select(it.one, CACHE_OFF), select(it.two, CACHE_OFF)
    it.two.store.release_all()
    assert (told.state, answered.status) == (State.RUNNING, GOOD)
    told.abort()
    it.one.wire.hold = False
    for deliver in it.one.wire.held:
        deliver()
    it.one.store.release_all()
    assert caches(it) == (False, False)


def test_the_defaults_of_a_reset_are_not_undone(it: Cluster) -> None:
    kept = select(it.one, CACHE_OFF, WRITE_PROTECT)
    it.one.store.release_all()
    assert kept.status == GOOD
    it.two.hba.settle()
    again = select(it.one, CACHE_OFF, WRITE_PROTECT)
    done: list[bool] = []
    it.two.unit.reset(done.append)  # while it flushes
    it.one.store.release_all()
    assert again.state == State.ABORTED
    assert done == [True]
    assert caches(it) == (True, True)
    assert not disk(it.one).modes.software_write_protect


def test_a_reset_hurries_the_write_that_a_change_waits_for(it: Cluster) -> None:
    hurried: list[StoreIo] = []
    it.one.store.cancel = hurried.append  # type: ignore[method-assign,assignment]
    writing = it.one.hba.submit(write10(0, 1), early=bytes(512))
    changing = select(it.one, CACHE_OFF)
    done: list[bool] = []
    it.one.unit.reset(done.append)
    assert (writing.aborting, changing.aborting) == (True, True)
    assert hurried
    for _ in range(2):
        it.one.store.release_all()
    assert done == [True]


def test_a_chunk_that_moves_holds_up_no_change(it: Cluster) -> None:
    volume = disk(it.one).volume
    ticket = volume.hold(0).begin(lambda outcome: None)
    assert isinstance(ticket, RangeTicket)
    changing = select(it.one, CACHE_OFF)
    it.one.store.release_all()
    stopping = it.one.hba.submit(STOP)
    it.one.store.release_all()
    done: list[bool] = []
    it.one.unit.reset(done.append)
    assert (changing.status, stopping.status) == (GOOD, GOOD)
    assert done == [True]
    volume.let_go(ticket)


class _Crowded(RecordingHba):
    def crowded(self) -> bool:
        return True


def test_busy_tells_of_no_unit_attention(it: Cluster) -> None:
    hba = _Crowded(it.one.bus, it.one.pool, "crowded")
    attentions = hba.nexus.attachments[hba.lun].unit_attentions
    for told in (s.UA_POWER_ON, s.UA_LUNS_CHANGED):
        attentions[:] = [told]
        cdb = REQUEST_SENSE if told is s.UA_POWER_ON else REPORT_LUNS
        assert hba.submit(cdb).status == BUSY
        assert attentions == [told]
    hba.close()
