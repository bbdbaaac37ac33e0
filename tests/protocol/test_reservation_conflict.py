"""RESERVATION CONFLICT on the wire: no data moves, what is on its way is dropped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.scsi.reservations.state import Type
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.clean import assert_idle
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore

GOOD, CHECK_CONDITION, CONFLICT = 0x00, 0x02, 0x18
OTHER = "iqn.2026-11.io.lunmesh.test:other"
BLOCKS = 512  # 256 KiB: more than a first burst
DATA = bytes(range(256)) * 2 * BLOCKS


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as made:
        yield made
        assert_idle(made.target)


def reserve(session: WireInitiator) -> None:
    for action, data in ((pr.REGISTER, pr.keys(0, 1)), (pr.RESERVE, pr.keys(1))):
        command = pr.pr_out(action, Type.EXCLUSIVE_ACCESS)
        assert session.command(command, data_out=data).status == GOOD


@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
@pytest.mark.parametrize("immediate_data", ["Yes", "No"])
def test_a_write(w: Wire, initial_r2t: str, immediate_data: str) -> None:
    reserve(w.login(name=OTHER))
    session = w.login({"InitialR2T": initial_r2t, "ImmediateData": immediate_data})
    for _ in range(3):
        task = session.command(cdb.write10(0, BLOCKS), data_out=DATA)
        assert task.status == CONFLICT
        assert not task.r2ts
        assert session.command(cdb.TEST_UNIT_READY).status == GOOD
    assert session.command(pr.pr_in(pr.READ_KEYS), read_length=16).status == GOOD


def test_a_read(w: Wire) -> None:
    reserve(w.login(name=OTHER))
    session = w.login()
    task = session.command(cdb.read10(0, BLOCKS), read_length=len(DATA))
    assert task.status == CONFLICT
    assert not task.data_in
    assert (task.overflow, task.underflow) == (0, len(DATA))


def test_a_session_that_ends_lets_go_of_reserve_and_keeps_what_is_persistent(w: Wire) -> None:
    for reserve_it, status in (
        (lambda it: it.command(pr.RESERVE6), GOOD),
        (reserve, CONFLICT),
    ):
        one = w.login(name=OTHER)
        reserve_it(one)
        two = w.login()
        assert two.command(cdb.read10(0, 1), read_length=512).status == CONFLICT
        one.logout()
        assert two.command(cdb.read10(0, 1), read_length=512).status == status
        two.logout()


def test_a_reservation_of_the_new_session_outlives_the_old_one() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        one = w.login(name=OTHER, isid=b"\x80\0\0\0\0\7")
        one.start(cdb.write10(0, 1), data_out=bytes(512))
        again = w.login(name=OTHER, isid=b"\x80\0\0\0\0\7")
        assert again.command(pr.RESERVE6).status == GOOD
        store.release_all()
        w.settle()
        two = w.login()
        assert two.command(cdb.TEST_UNIT_READY).status == CONFLICT
        assert again.command(pr.RELEASE6).status == GOOD


def test_a_session_that_takes_the_place_of_its_old_one_holds_nothing_of_spc2(w: Wire) -> None:
    one = w.login(name=OTHER, isid=b"\x80\0\0\0\0\7")
    assert one.command(pr.RESERVE6).status == GOOD
    again = w.login(name=OTHER, isid=b"\x80\0\0\0\0\7")
    two = w.login()
    assert two.command(cdb.TEST_UNIT_READY).status == GOOD
    reserve(again)
    third = w.login(name=OTHER, isid=b"\x80\0\0\0\0\7")
    assert third.command(cdb.read10(0, 1), read_length=512).status == GOOD
    assert two.command(cdb.read10(0, 1), read_length=512).status == CONFLICT
