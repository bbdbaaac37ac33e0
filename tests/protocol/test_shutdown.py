"""What initiators are told when the target goes, and what is left when they have gone."""

from __future__ import annotations

import pytest

from tests.support import cdb
from tests.support.clean import assert_clean
from tests.support.initiator import LoginRefused
from tests.support.iscsi_pdu import NO_TAG, Opcode
from tests.support.stores import HeldStore
from tests.support.wire import wire
from workers.memory_store import MemoryStore

LOGOUT_REQUESTED, SESSION_DROPPED = 1, 3


def test_every_session_is_asked_to_log_out() -> None:
    with wire() as w:
        sessions = [w.login() for _ in range(3)]
        w.target.ask_to_log_out(7)
        for session in sessions:
            (message,) = session.incoming()
            assert (message.opcode, message.itt) == (Opcode.ASYNC, NO_TAG)
            assert message.async_event == LOGOUT_REQUESTED
            # Parameter3: seconds to wait.
            assert message.bhs[42:44] == (7).to_bytes(2)
            assert session.logout() == 0
        assert not w.target.busy
        assert_clean(w.target)


@pytest.mark.parametrize("obeys", [True, False])
def test_one_session_is_asked_to_log_out_and_dropped_if_it_does_not(obeys: bool) -> None:
    with wire() as w:
        one, other = w.login(name="iqn.x:one"), w.login(name="iqn.x:other")
        (session,) = [it for it in w.target.sessions.values() if it.initiator == "iqn.x:one"]
        assert not w.target.end_nexus("iqn.x:one", session.isid, "elsewhere", 3)
        assert w.target.end_nexus("iqn.x:one", session.isid, "", 3)
        (message,) = one.incoming()
        assert message.async_event == LOGOUT_REQUESTED
        assert message.bhs[42:44] == (3).to_bytes(2)
        assert one.command(cdb.TEST_UNIT_READY).status == 0, "it has some time"
        if obeys:
            assert one.logout() == 0
        w.clock.now += 2.9
        w.tick()
        assert obeys or not one.is_closed()
        w.clock.now += 0.2
        w.tick()
        if not obeys:
            (message,) = one.incoming()
            assert message.async_event == SESSION_DROPPED
        assert one.is_closed()
        assert [it.initiator for it in w.target.sessions.values()] == ["iqn.x:other"]
        assert other.nop(b"still") == b"still"
        assert w.login(name="iqn.x:one").nop(b"back") == b"back", "nothing keeps it out"


def test_commands_go_on_until_the_logout() -> None:
    with wire() as w:
        session = w.login()
        w.target.ask_to_log_out(5)
        session.incoming()
        assert session.command(cdb.write10(0, 8), data_out=bytes(4096)).status == 0


@pytest.mark.parametrize("discovery", [False, True])
def test_nobody_new_is_let_in(discovery: bool) -> None:
    with wire() as w:
        w.target.ask_to_log_out(5)
        session = w.initiator()
        with pytest.raises(LoginRefused) as refused:
            session.login(discovery=discovery)
        assert refused.value.status == (3, 1)
        assert session.is_closed()


def test_the_target_is_busy_until_the_store_has_let_go() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        session = w.login()
        session.exchange(session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512)))
        ended: list[bool] = []
        w.target.on_session_end = lambda: ended.append(w.target.busy)
        session.close()
        assert w.target.busy
        store.release_all()
        assert ended == [False]


def test_sessions_past_the_bound_are_refused_and_old_ones_make_room() -> None:
    with wire() as w:
        most = w.target.options.sessions_max
        sessions = [w.login() for _ in range(most)]
        with pytest.raises(LoginRefused) as refused:
            w.login()
        assert refused.value.status == (3, 2)
        assert w.login(isid=sessions[0].isid).nop(b"again") == b"again"
        sessions[1].close()
        assert w.login().nop(b"in") == b"in"


def test_every_session_that_fits_can_use_its_first_burst_at_once() -> None:
    """The reservation of the pool covers what every session may send unasked."""
    store = HeldStore(MemoryStore(8 << 20))
    with wire(stores=[store], pool_bytes=8 << 20) as w:
        first_burst = w.target.limits.first_burst_length
        blocks = first_burst // 512
        sessions = []
        for _ in range(w.target.options.sessions_max):
            session = w.login({"FirstBurstLength": str(first_burst)})
            sessions.append(session)
        for session in sessions:
            while session.max_cmd_sn != session.cmd_sn - 1:
                session.exchange(
                    session.scsi(
                        cdb.write10(0, blocks),
                        edtl=first_burst,
                        write=True,
                        data=bytes(first_burst),
                    )
                )
            session.exchange(
                *(
                    session.scsi(
                        cdb.write10(0, blocks),
                        edtl=first_burst,
                        write=True,
                        data=bytes(first_burst),
                        immediate=True,
                    )
                    for _ in range(2)
                )
            )
        tasks = sum(len(s.tasks) for s in w.target.sessions.values())
        assert tasks >= 3 * len(sessions)
        assert w.pool.used <= w.pool.segments_total // 2
        store.release_all()
        assert sum(len(session.incoming()) for session in sessions) == tasks
