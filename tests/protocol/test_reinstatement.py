"""Sessions and connections that take the place of older ones (RFC 7143 6.3.4, 6.3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.parameters import TargetLimits
from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.initiator import LoginRefused
from tests.support.iscsi_pdu import Opcode, TaskFunction
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, sense_triple
from workers.memory_store import MemoryStore

ISID = b"\x80\1\2\3\4\5"
POWER_ON = (0x6, 0x29, 0x00)


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


def reconnected(w: Wire, old: WireInitiator, *, cid: int = 0) -> WireInitiator:
    """The same session on a new connection, not logged in yet."""
    new = w.initiator(old.name, isid=old.isid, tsih=old.tsih, cid=cid)
    new.cmd_sn = old.cmd_sn
    new.exp_cmd_sn, new.max_cmd_sn = old.exp_cmd_sn, old.max_cmd_sn
    return new


# --- session reinstatement


@pytest.mark.parametrize("spell", [str, str.upper])
def test_the_same_port_again_ends_the_old_session(w: Wire, spell: Callable[[str], str]) -> None:
    old = w.login(isid=ISID)
    new = w.login(isid=ISID, name=spell(old.name), settled=False)
    assert old.is_closed()
    assert new.tsih != old.tsih
    assert list(w.target.sessions) == [new.tsih]
    # A new I_T nexus, with everything that goes with one.
    assert sense_triple(new.one(new.scsi(cdb.TEST_UNIT_READY))) == POWER_ON


@pytest.mark.parametrize("different", ["isid", "name"])
def test_another_port_is_another_session(w: Wire, different: str) -> None:
    old = w.login(isid=ISID)
    if different == "isid":
        new = w.login(isid=ISID[:-1] + b"\6")
    else:
        new = w.login(isid=ISID, name=old.name + "2")
    for session in (old, new):
        assert session.nop(b"here") == b"here"
    assert len(w.target.sessions) == 2


def test_a_login_while_the_old_session_waits_for_its_store() -> None:
    """The usual way back after a connection was lost in the middle of I/O."""
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        old = w.login(isid=ISID)
        old.exchange(old.scsi(cdb.write10(0, 1), edtl=512, write=True, data=b"a" * 512))
        old.close()
        new = w.login(isid=ISID)
        # The same write again, and another: in this order, whenever the store gets to them.
        for data in (b"a", b"b"):
            new.exchange(new.scsi(cdb.write10(0, 1), edtl=512, write=True, data=data * 512))
        store.release_all()
        assert [pdu.status for pdu in new.incoming()] == [0, 0]
        read = new.scsi(cdb.read10(0, 1), edtl=512, read=True)
        new.exchange(read)
        store.release_all()
        assert bytes(new.incoming()[0].data) == b"b" * 512
        assert list(w.target.sessions) == [new.tsih]
        assert_idle(w.target)


def test_a_login_twice_while_the_oldest_waits_for_its_store() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        old = w.login(isid=ISID)
        old.exchange(old.scsi(cdb.read10(0, 1), edtl=512, read=True))
        second = w.login(isid=ISID)
        second.exchange(second.scsi(cdb.read10(0, 1), edtl=512, read=True))
        third = w.login(isid=ISID)
        assert old.is_closed()
        assert second.is_closed()
        assert len(w.target.sessions) == 3
        store.release_all()
        assert list(w.target.sessions) == [third.tsih]


def test_a_discovery_session_of_the_same_port_is_left_alone(w: Wire) -> None:
    discovery = w.initiator(target=None, isid=ISID)
    discovery.login(discovery=True)
    session = w.login(isid=ISID)
    again = w.initiator(target=None, isid=ISID)
    again.login(discovery=True)
    assert discovery.send_targets()
    assert again.send_targets()
    assert session.nop(b"here") == b"here"


def test_a_refused_login_leaves_the_old_session_alone(w: Wire) -> None:
    old = w.login(isid=ISID)
    new = w.initiator(isid=ISID, target="iqn.2026-11.io.lunmesh:nothing")
    with pytest.raises(LoginRefused):
        new.login()
    assert old.nop(b"here") == b"here"


# --- connection reinstatement


def test_a_new_connection_takes_the_session_over(w: Wire) -> None:
    old = w.login(isid=ISID)
    new = reconnected(w, old)
    new.login(defaults=False)
    assert old.is_closed()
    assert new.tsih == old.tsih
    assert list(w.target.sessions) == [old.tsih]
    # No new nexus, so no unit attention.
    assert new.one(new.scsi(cdb.TEST_UNIT_READY)).status == 0


def test_the_end_of_the_old_connection_does_not_touch_the_new_one() -> None:
    """Its socket may be closed long after."""
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        old = w.login(isid=ISID)
        old.socket.taking = 0  # so it is still hanging up
        old.exchange(old.ping(b"never taken"))
        new = reconnected(w, old)
        new.login(defaults=False)
        read = new.scsi(cdb.read10(0, 1), edtl=512, read=True)
        assert not new.exchange(read)
        old.socket.feed(old.scsi(cdb.TEST_UNIT_READY).encode())
        old.close()
        store.release_all()
        assert [pdu.itt for pdu in new.incoming()] == [read.itt]
        assert_idle(w.target)


def test_the_session_keeps_what_was_negotiated_for_it() -> None:
    limits = TargetLimits(max_burst_length=65536)
    with wire(limits=limits) as w:
        keys = {"InitialR2T": "No", "ImmediateData": "No", "MaxBurstLength": "4096"}
        old = w.login({**keys, "FirstBurstLength": "1024"}, isid=ISID)
        new = reconnected(w, old)
        new.login({"MaxRecvDataSegmentLength": "700", "DataDigest": "CRC32C"}, defaults=False)
        parameters = w.target.sessions[old.tsih].parameters
        assert parameters is not None
        assert (parameters.max_burst_length, parameters.first_burst_length) == (4096, 1024)
        assert not parameters.immediate_data
        assert parameters.max_send_data_segment_length == 700
        write = new.scsi(cdb.write10(0, 16), edtl=8192, write=True)
        (r2t,) = new.exchange(write)
        assert (r2t.buffer_offset, r2t.desired_length) == (0, 4096)


def test_numbers_go_on_where_they_were(w: Wire) -> None:
    old = w.login(isid=ISID)
    for _ in range(5):
        old.nop()
    held = old.scsi(cdb.TEST_UNIT_READY)
    held.cmd_sn += 1
    old.exchange(held)
    old.cmd_sn -= 1
    new = reconnected(w, old)
    new.login(defaults=False)
    assert new.exp_cmd_sn == old.cmd_sn
    # What the old connection held is gone with it.
    answers = new.exchange(new.scsi(cdb.TEST_UNIT_READY))
    assert [pdu.itt for pdu in answers] == [new._itt]
    assert new.nop(b"on") == b"on"


def test_numbers_that_were_aborted_ahead_of_their_turn_are_new_ones(w: Wire) -> None:
    old = w.login(isid=ISID)
    missing, held = (old.scsi(cdb.TEST_UNIT_READY) for _ in range(2))
    assert not old.exchange(held)
    assert old.one(old.tmf(TaskFunction.ABORT_TASK_SET)).response == 0
    old.cmd_sn = missing.cmd_sn
    new = reconnected(w, old)
    new.login(defaults=False)
    first, second = (new.scsi(cdb.TEST_UNIT_READY) for _ in range(2))
    assert not new.exchange(second)
    assert [pdu.itt for pdu in new.exchange(first)] == [first.itt, second.itt]


def test_a_session_that_there_is_not(w: Wire) -> None:
    session = w.initiator(tsih=77)
    with pytest.raises(LoginRefused) as refused:
        session.login(defaults=False)
    assert refused.value.status == (2, 0x0A)


@pytest.mark.parametrize("different", ["isid", "name"])
def test_somebody_elses_session(w: Wire, different: str) -> None:
    old = w.login(isid=ISID)
    name = old.name if different == "isid" else old.name + "2"
    isid = ISID if different == "name" else ISID[:-1] + b"\7"
    thief = w.initiator(name, isid=isid, tsih=old.tsih)
    with pytest.raises(LoginRefused) as refused:
        thief.login(defaults=False)
    assert refused.value.status == (2, 0x0A)
    assert old.nop(b"mine") == b"mine"


def test_a_session_is_taken_over_by_the_user_that_it_is_of_alone() -> None:
    users = {name: f"{name}-knows-it-well" for name in ("alice", "bob")}
    with wire(chap=ChapPolicy({name: Secret(secret) for name, secret in users.items()})) as w:
        session = w.initiator(isid=ISID)
        session.login(chap=("alice", users["alice"]))
        session.settle()
        with pytest.raises(LoginRefused) as refused:
            reconnected(w, session).login(chap=("bob", users["bob"]), defaults=False)
        assert refused.value.status == (2, 0x02)
        assert session.nop(b"mine") == b"mine"
        new = reconnected(w, session)
        new.login(chap=("alice", users["alice"]), defaults=False)
        assert new.one(new.scsi(cdb.TEST_UNIT_READY)).status == 0


def test_a_second_connection_is_one_too_many(w: Wire) -> None:
    old = w.login(isid=ISID)
    second = reconnected(w, old, cid=5)
    with pytest.raises(LoginRefused) as refused:
        second.login(defaults=False)
    assert refused.value.status == (2, 0x06)
    assert old.nop(b"mine") == b"mine"


def test_a_session_that_is_ending_cannot_be_joined() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        old = w.login(isid=ISID)
        old.exchange(old.scsi(cdb.read10(0, 1), edtl=512, read=True))
        old.close()
        late = reconnected(w, old)
        with pytest.raises(LoginRefused) as refused:
            late.login(defaults=False)
        assert refused.value.status == (2, 0x0A)
        store.release_all()


def test_a_logout_waits_for_what_the_store_has_of_the_old_connection() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        old = w.login(isid=ISID)
        old.exchange(old.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512)))
        new = reconnected(w, old)
        new.login(defaults=False)
        assert not new.exchange(new.leave())
        store.release_all()
        assert [pdu.opcode for pdu in new.incoming()] == [Opcode.LOGOUT_RESPONSE]


def test_r2ts_of_the_old_connection_are_void(w: Wire) -> None:
    keys = {"InitialR2T": "Yes", "ImmediateData": "No"}
    old = w.login(keys, isid=ISID)
    write = old.scsi(cdb.write10(0, 1), edtl=512, write=True)
    (r2t,) = old.exchange(write)
    new = reconnected(w, old)
    new.login(defaults=False)
    assert not new.exchange(new.data_out(write, bytes(512), ttt=r2t.ttt))
    again = new.scsi(cdb.write10(0, 1), edtl=512, write=True, itt=write.itt)
    (fresh,) = new.exchange(again)
    assert (fresh.opcode, fresh.r2t_sn) == (Opcode.R2T, 0)
    assert new.one(new.data_out(again, b"n" * 512, ttt=fresh.ttt)).status == 0
