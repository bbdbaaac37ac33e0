"""The order of commands and the command window (RFC 7143 4.2.2.1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.iscsi.session import IMMEDIATE_TASKS_MAX, MANAGEMENT_TASKS_MAX
from target.iscsi.target import TargetOptions
from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected
from workers.memory_store import MemoryStore

TUR = cdb.TEST_UNIT_READY


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


@pytest.fixture
def held() -> Iterator[tuple[Wire, HeldStore]]:
    """A target whose store does nothing until it is told to."""
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as it:
        yield it, store
        store.release_all()
        it.settle()
        assert_idle(it.target)


def tags(pdus: list[Pdu]) -> list[int]:
    return [pdu.itt for pdu in pdus]


def test_commands_run_in_the_order_of_their_numbers(w: Wire) -> None:
    session = w.login()
    pdus = [session.scsi(TUR) for _ in range(3)]
    assert not session.exchange(pdus[2])
    assert not session.exchange(pdus[1])
    assert tags(session.exchange(pdus[0])) == tags(pdus)


def test_numbers_wrap_around() -> None:
    with wire() as w:
        session = w.initiator()
        session.cmd_sn = 0xFFFFFFFE
        session.exp_cmd_sn = session.max_cmd_sn = session.cmd_sn
        session.login()
        session.settle()
        for _ in range(5):
            pdus = [session.scsi(TUR) for _ in range(2)]
            assert tags(session.exchange(*reversed(pdus))) == tags(pdus)
        assert session.cmd_sn < 100
        assert_idle(w.target)


def test_a_number_that_was_used_is_ignored(w: Wire) -> None:
    session = w.login()
    command = session.scsi(TUR)
    assert tags(session.exchange(command)) == [command.itt]
    assert not session.exchange(command)
    assert session.one(session.ping()).opcode == Opcode.NOP_IN


def test_a_number_that_is_held_already_is_ignored(w: Wire) -> None:
    session = w.login()
    first, second = session.scsi(TUR), session.scsi(TUR)
    again = session.scsi(TUR)
    again.cmd_sn = second.cmd_sn
    session.cmd_sn -= 1
    assert not session.exchange(second, again)
    assert tags(session.exchange(first)) == [first.itt, second.itt]


def test_a_number_outside_of_the_window_is_ignored(w: Wire) -> None:
    session = w.login()
    far = session.scsi(TUR)
    session.cmd_sn -= 1
    far.cmd_sn = session.max_cmd_sn + 1
    assert not session.exchange(far)
    far.cmd_sn = (session.exp_cmd_sn - 1) & 0xFFFFFFFF
    assert not session.exchange(far)
    far.cmd_sn = (session.exp_cmd_sn + (1 << 31)) & 0xFFFFFFFF
    assert not session.exchange(far)
    assert session.one(session.ping()).opcode == Opcode.NOP_IN


@pytest.mark.parametrize("make", ["ping", "scsi"])
def test_the_next_number_is_outside_of_a_closed_window(
    held: tuple[Wire, HeldStore], make: str
) -> None:
    w, store = held
    session = fill_the_window(w)
    extra = session.ping() if make == "ping" else session.scsi(TUR)
    assert not session.exchange(extra)
    store.release()
    session.incoming()
    assert [pdu.itt for pdu in session.exchange(extra)] == [extra.itt]


def fill_the_window(w: Wire) -> WireInitiator:
    session = w.login({"ImmediateData": "Yes"})
    while session.max_cmd_sn != session.cmd_sn - 1:
        answers = session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True))
        # The window may grow while it is used; only pings say so here.
        assert not answers
        session.exchange(session.ping(immediate=True))
    return session


def test_no_more_commands_are_taken_than_the_window_promised() -> None:
    """Each has first-burst buffers behind it; one too many would find none."""
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store], options=TargetOptions(queue_depth=8)) as w:
        session = w.login({"InitialR2T": "No", "FirstBurstLength": "65536"})
        nexus = w.target.sessions[session.tsih]
        for _ in range(40):
            session.cmd_sn = nexus.exp_cmd_sn
            write = session.scsi(cdb.write10(0, 128), edtl=65536, write=True, data=bytes(65536))
            assert not session.exchange(write)
        assert len(nexus.tasks) == 8
        store.release_all()
        assert len(session.incoming()) == 8
        assert_idle(w.target)


def test_max_cmd_sn_never_goes_back_whatever_is_sent_in_between() -> None:
    """An R2T goes out before its command has left its first pass."""
    with wire(options=TargetOptions(queue_depth=4)) as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        last = session.max_cmd_sn
        for _ in range(8):
            write = session.scsi(cdb.write10(0, 8), edtl=4096, write=True)
            read = session.scsi(cdb.read10(0, 4), edtl=2048, read=True)
            answers = session.exchange(write, read)
            r2t = next(pdu for pdu in answers if pdu.opcode == Opcode.R2T)
            answers += session.exchange(session.data_out(write, bytes(4096), ttt=r2t.ttt))
            for pdu in answers:
                assert pdu.max_cmd_sn >= last
                assert pdu.max_cmd_sn - pdu.exp_cmd_sn < 4
                last = pdu.max_cmd_sn


def test_a_window_of_one_works() -> None:
    with wire(options=TargetOptions(queue_depth=1)) as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        for _ in range(5):
            assert session.command(cdb.write10(0, 64), data_out=bytes(32768)).status == 0
        assert_idle(w.target)


def test_an_idle_window_grows_with_use_up_to_the_queue_depth() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store], options=TargetOptions(queue_depth=32)) as w:
        session = w.login()
        for _ in range(100):
            if session.max_cmd_sn == session.cmd_sn - 1:
                session.exchange(session.ping(immediate=True))
            if session.max_cmd_sn == session.cmd_sn - 1:
                break
            session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True))
        assert len(w.target.sessions[session.tsih].tasks) == 32
        store.release_all()


def test_a_large_window_shrinks_when_others_come() -> None:
    with wire(pool_bytes=8 << 20) as w:
        first = w.login({"FirstBurstLength": "16384"})
        for _ in range(20):
            first.exchange(*(first.ping() for _ in range(first.max_cmd_sn - first.cmd_sn + 1)))
        window = w.target.sessions[first.tsih].window
        assert window is not None
        before = window.credits
        others = [w.login({"FirstBurstLength": "16384"}) for _ in range(7)]
        assert window.credits == before  # a promise is a promise
        last = first.max_cmd_sn
        for _ in range(before):
            first.nop()
            assert first.max_cmd_sn >= last
            last = first.max_cmd_sn
        assert window.credits < before // 2
        assert first.nop(b"still") == b"still"
        for other in others:
            assert other.nop(b"too") == b"too"
        assert_idle(w.target)


def test_a_session_begins_whatever_others_have_of_the_pool() -> None:
    store = HeldStore(MemoryStore(8 << 20))
    with wire(stores=[store]) as w:
        sessions = [w.login() for _ in range(14)]
        for session in sessions:
            for _ in range(4):
                session.exchange(session.scsi(cdb.read10(0, 2048), edtl=1 << 20, read=True))
        assert w.pool.waiting
        assert w.login().nop(b"in") == b"in"
        for session in sessions:
            session.close()
        store.release_all()


def test_immediate_commands_are_outside_of_the_window(held: tuple[Wire, HeldStore]) -> None:
    w, store = held
    session = fill_the_window(w)
    read = [
        session.scsi(cdb.read10(0, 1), edtl=512, read=True, immediate=True)
        for _ in range(IMMEDIATE_TASKS_MAX)
    ]
    assert not session.exchange(*read)
    one_more = session.scsi(cdb.read10(0, 1), edtl=512, read=True, immediate=True)
    assert rejected(session.one(one_more), one_more) == 0x06
    store.release_all()
    ended = [pdu.itt for pdu in session.incoming() if pdu.status == 0]
    assert set(tags(read)) < set(ended)
    assert session.one(one_more := session.scsi(TUR, immediate=True)).itt == one_more.itt


def test_an_immediate_command_uses_no_number(w: Wire) -> None:
    session = w.login()
    number = session.cmd_sn
    answer = session.one(session.scsi(TUR, immediate=True))
    assert answer.exp_cmd_sn == number == session.cmd_sn


def test_an_immediate_command_overtakes_held_ones(w: Wire) -> None:
    session = w.login()
    first, second = session.scsi(TUR), session.scsi(TUR)
    assert not session.exchange(second)
    now = session.scsi(TUR, immediate=True)
    assert tags(session.exchange(now)) == [now.itt]
    assert tags(session.exchange(first)) == [first.itt, second.itt]


def test_task_management_that_waits_is_bounded(held: tuple[Wire, HeldStore]) -> None:
    w, _ = held
    session = w.login()
    assert not session.exchange(session.scsi(cdb.read10(0, 1), edtl=512, read=True))
    waiting = [session.tmf(2) for _ in range(MANAGEMENT_TASKS_MAX)]
    assert not session.exchange(*waiting)
    one_more = session.tmf(2)
    assert rejected(session.one(one_more), one_more) == 0x06
    numbered = session.tmf(2, immediate=False)
    assert rejected(session.one(numbered), numbered) == 0x0A


def test_held_commands_are_bounded(w: Wire) -> None:
    session = w.login({"FirstBurstLength": "65536"})
    for _ in range(6):
        session.exchange(*(session.ping() for _ in range(session.max_cmd_sn - session.cmd_sn + 1)))
    missing = session.scsi(TUR)
    ahead = [session.ping(bytes(200_000)) for _ in range(8)]
    for pdu in ahead:
        session.exchange(pdu)
    held = w.target.sessions[session.tsih].held
    assert len(held) == 5
    assert sum(h.nbytes for h in held.values()) <= 1 << 20
    answers = session.exchange(missing)
    assert [pdu.opcode for pdu in answers] == [Opcode.SCSI_RESPONSE] + [Opcode.NOP_IN] * 5
    # The others are as good as lost: they have to be sent again.
    assert len(session.exchange(*ahead[5:])) == 3


def test_unsolicited_data_of_a_held_command_is_held_with_it(w: Wire) -> None:
    session = w.login({"InitialR2T": "No", "FirstBurstLength": "65536"})
    first = session.scsi(TUR)
    data = bytes(range(256)) * 256
    write = session.scsi(cdb.write10(0, 128), edtl=65536, write=True, final=False, data=data[:512])
    second = session.data_out(write, data[512:1024], offset=512, final=False)
    third = session.data_out(write, data[1024:], offset=1024, sn=1)
    session.exchange(write, second)
    session.socket.pieces = lambda part: (part[i : i + 5000] for i in range(0, len(part), 5000))
    assert not session.exchange(third)
    session.socket.pieces = None
    assert tags(session.exchange(first)) == [first.itt, write.itt]
    task = session.command(cdb.read10(0, 128), read_length=65536)
    assert task.data_in == data


def test_an_aborted_number_is_counted_as_received(w: Wire) -> None:
    """RFC 7143 11.6.1: the command never arrived, those behind it need not wait for it."""
    session = w.login()
    lost, behind = session.scsi(TUR), session.scsi(TUR)
    assert not session.exchange(behind)
    done, answer = session.exchange(session.tmf(1, lost))
    assert (done.opcode, done.response) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)
    assert answer.itt == behind.itt
    assert not session.exchange(lost)


def test_only_numbers_below_its_own_are_aborted(w: Wire) -> None:
    session = w.login()
    abort = session.tmf(1, session.scsi(TUR))
    session.cmd_sn -= 1  # that command is not sent: its number is that of the next
    abort.bhs[24:28] = session.cmd_sn.to_bytes(4)
    assert session.one(abort).response == 1
    following = session.scsi(TUR)
    assert tags(session.exchange(following)) == [following.itt]


def test_an_abort_of_a_held_command_drops_it(w: Wire) -> None:
    session = w.login()
    first, held, last = (session.scsi(TUR) for _ in range(3))
    assert not session.exchange(held)
    assert session.one(session.tmf(1, held)).response == 0
    assert tags(session.exchange(first, last)) == [first.itt, last.itt]


def test_a_refused_pdu_uses_its_number_up(w: Wire) -> None:
    """It cannot be sent again (RFC 7143 11.17.1): what follows must not wait for it."""
    session = w.login()
    bad_flags = session.scsi(TUR)
    bad_flags.bhs[1] = 0x07 | 0x80
    assert rejected(session.one(bad_flags), bad_flags) == 0x09
    unknown = session.ping()
    unknown.bhs[0] = 0x1C
    assert rejected(session.one(unknown), unknown) == 0x05
    extended_ping = session.ping()
    extended_ping.ahs = bytes(4)
    assert rejected(session.one(extended_ping), extended_ping) == 0x09
    login = session.ping()
    login.bhs[0] = 0x03
    assert rejected(session.one(login), login) == 0x04
    assert session.nop(b"next") == b"next"
