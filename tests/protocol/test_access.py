"""LUN masking as initiators see it: logins, discovery, LUNs that are not there, read-only ones."""

from __future__ import annotations

import pytest

from target.scsi.access_list import AccessEntry, AccessList
from target.scsi.lun import LunAddress
from tests.support import cdb
from tests.support.initiator import LoginRefused
from tests.support.stores import HeldStore
from tests.support.wire import TARGET, Wire, wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore

ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"
AUTHORIZATION_FAILURE = (2, 2)
DATA_PROTECT, LUN_NOT_SUPPORTED = (7, 0x27, 0), (5, 0x25, 0)
WP = 0x80


def allow(w: Wire, **volumes: str) -> None:
    """ONE sees those, and nobody else anything."""
    entry = AccessEntry(initiator=ONE, volumes=volumes)  # type: ignore[arg-type]
    in_force: list[bool] = []
    w.target.set_access(AccessList((entry,)), lambda: in_force.append(True))
    assert in_force


def luns(session: WireInitiator) -> list[int]:
    data = session.command(cdb.report_luns(), read_length=4096).data_in
    return [data[at + 1] for at in range(8, len(data), 8)]


def test_who_has_no_entry_may_not_log_in_and_finds_nothing() -> None:
    with wire() as w:
        allow(w)
        assert luns(w.login(name=ONE)) == [0]
        with pytest.raises(LoginRefused) as refused:
            w.login(name=OTHER)
        status = refused.value.pdu
        assert (status.status_class, status.status_detail) == AUTHORIZATION_FAILURE
        for name, found in ((ONE, [TARGET]), (OTHER, [])):
            discovery = w.initiator(name, target=None)
            discovery.login(discovery=True)
            assert [target for target, _ in discovery.send_targets()] == found


def test_a_lun_that_is_masked_is_not_there() -> None:
    with wire(luns=2) as w:
        allow(w, disk1="rw")
        session = w.login(name=ONE, settled=False)
        while session.command(cdb.TEST_UNIT_READY, lun=1).status:
            pass
        assert luns(session) == [1]
        assert session.command(cdb.TEST_UNIT_READY).sense_triple == LUN_NOT_SUPPORTED
        assert session.command(cdb.inquiry(), read_length=255).data_in[0] == 0x7F
        written = session.command(cdb.write10(0, 1), data_out=bytes(512), lun=1)
        assert written.status == 0


def test_read_only_for_one_initiator() -> None:
    with wire() as w:
        allow(w, disk0="ro")
        session = w.login(name=ONE)
        refused = session.command(cdb.write10(0, 1), data_out=bytes(512))
        assert refused.sense_triple == DATA_PROTECT
        assert session.command(cdb.read10(0, 1), read_length=512).status == 0
        assert session.command(cdb.synchronize_cache10()).status == 0
        sense = session.command(cdb.mode_sense10(0x3F), read_length=255).data_in
        assert sense[3] & WP
        allow(w, disk0="rw")
        assert session.command(cdb.write10(0, 1), data_out=bytes(512)).status == 0
        sense = session.command(cdb.mode_sense10(0x3F), read_length=255).data_in
        assert not sense[3] & WP


def test_what_is_changed_is_in_force_at_once() -> None:
    with wire(luns=2) as w:
        one, other = w.login(name=ONE), w.login(name=OTHER)
        allow(w, disk0="rw")
        assert one.command(cdb.TEST_UNIT_READY).sense_triple == (6, 0x3F, 0x0E)
        assert luns(one) == [0]
        assert one.command(cdb.TEST_UNIT_READY, lun=1).sense_triple == LUN_NOT_SUPPORTED
        w.settle()
        assert other.socket.at_end
        allow(w)
        assert one.command(cdb.TEST_UNIT_READY).sense_triple == (6, 0x3F, 0x0E)
        assert luns(one) == [0, 1]


def test_a_reservation_of_an_initiator_that_may_not_see_the_disk_any_more_is_over() -> None:
    with wire(luns=2) as w:
        one, other = w.login(name=ONE), w.login(name=OTHER)
        assert one.command(bytes.fromhex("160000000000")).status == 0
        assert other.command(cdb.read10(0, 1), read_length=512).status == 0x18
        both = (
            AccessEntry(initiator=ONE, volumes={"disk1": "rw"}),
            AccessEntry(initiator=OTHER),
        )
        w.target.set_access(AccessList(both), lambda: None)
        assert other.command(cdb.read10(0, 1), read_length=512).status == 0


def in_the_store(session: WireInitiator, op: str) -> None:
    """A command of a block that the store is busy with."""
    if op == "read":
        command = session.scsi(cdb.read10(0, 1), edtl=512, read=True)
    else:
        command = session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512))
    assert not session.exchange(command)


def test_a_session_that_is_ending_does_not_keep_others_their_rights() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store, MemoryStore(1 << 20)]) as w:
        ending, other = w.login(name=ONE), w.login(name=OTHER)
        in_the_store(ending, "write")
        ending.close()
        entries = (
            AccessEntry(initiator=ONE, volumes={"disk1": "rw"}),
            AccessEntry(initiator=OTHER, volumes={"disk1": "ro"}),
        )
        in_force: list[bool] = []
        w.target.set_access(AccessList(entries), lambda: in_force.append(True))
        refused = other.command(cdb.write10(0, 1), data_out=bytes(512), lun=1)
        assert refused.sense_triple == (6, 0x3F, 0x0E)
        refused = other.command(cdb.write10(0, 1), data_out=bytes(512), lun=1)
        assert refused.sense_triple == DATA_PROTECT
        assert not in_force, "a write of the one that ends may still happen"
        store.release_all()
        assert in_force


def test_what_is_in_force_waits_for_a_session_that_ends() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        session = w.login(name=OTHER)
        in_the_store(session, "write")
        session.close()
        in_force: list[bool] = []
        w.target.set_access(
            AccessList((AccessEntry(initiator=ONE),)), lambda: in_force.append(True)
        )
        assert not in_force
        store.release_all()
        assert in_force


@pytest.mark.parametrize("how", ["masked", "removed"])
@pytest.mark.parametrize("op", ["read", "write"])
def test_a_session_may_end_while_a_disk_is_taken_from_it(op: str, how: str) -> None:
    """What it has of the pool goes back when the store has done with it, not before."""
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store, MemoryStore(1 << 20)]) as w:
        session = w.login(name=ONE)
        in_the_store(session, op)
        gone: list[bool] = []
        if how == "masked":
            entry = AccessEntry(initiator=ONE, volumes={"disk1": "rw"})
            w.target.set_access(AccessList((entry,)), lambda: gone.append(True))
        else:
            w.bus.remove(LunAddress("", 0), lambda: gone.append(True))
        session.close()
        assert w.target.sessions
        assert not gone
        store.release_all()
        assert gone
        assert not w.target.sessions
