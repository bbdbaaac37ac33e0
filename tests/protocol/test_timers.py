"""Pings, dead peers, logins that take too long: on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.iscsi.channel import HANG_UP_SECONDS_MAX
from target.iscsi.target import TargetOptions
from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import NO_TAG, Opcode, Pdu
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator

LOGIN_SECONDS, INTERVAL_SECONDS, TIMEOUT_SECONDS = 15.0, 10.0, 7.0
OPTIONS = TargetOptions(
    login_timeout_seconds=LOGIN_SECONDS,
    nop_interval_seconds=INTERVAL_SECONDS,
    nop_timeout_seconds=TIMEOUT_SECONDS,
)


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire(options=OPTIONS) as it:
        yield it
        assert_idle(it.target)


def later(w: Wire, seconds: float) -> None:
    w.clock.now += seconds
    w.tick()


def pinged(session: WireInitiator) -> Pdu:
    (ping,) = session.incoming()
    assert (ping.opcode, ping.itt) == (Opcode.NOP_IN, NO_TAG)
    assert ping.ttt != NO_TAG
    return ping


# --- the initiator's pings


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 100, 8191])
@pytest.mark.parametrize("immediate", [False, True])
def test_a_ping_comes_back_with_its_data(w: Wire, size: int, immediate: bool) -> None:
    session = w.login()
    data = bytes(range(256)) * 32
    answer = session.one(session.ping(data[:size], immediate=immediate))
    assert bytes(answer.data) == data[:size]
    assert (answer.ttt, answer.opcode) == (NO_TAG, Opcode.NOP_IN)


def test_a_ping_longer_than_the_initiator_takes_is_cut(w: Wire) -> None:
    session = w.login({"MaxRecvDataSegmentLength": "512"})
    assert session.nop(bytes(range(256)) * 4) == bytes(range(256)) * 2


def test_a_ping_that_wants_no_answer_gets_none(w: Wire) -> None:
    session = w.login()
    silent = session.ping(b"x", immediate=True)
    silent.itt = NO_TAG
    assert not session.exchange(silent)


# --- ours


def test_a_silent_initiator_is_pinged(w: Wire) -> None:
    session = w.login()
    later(w, INTERVAL_SECONDS)
    assert not session.incoming()
    later(w, 0.5)
    ping = pinged(session)
    assert ping.stat_sn == session.exp_stat_sn
    session.answer_ping(ping)
    later(w, INTERVAL_SECONDS)
    assert not session.incoming()
    later(w, 0.5)
    assert pinged(session).ttt != ping.ttt


def test_an_initiator_that_does_not_answer_is_dropped(w: Wire) -> None:
    session = w.login()
    later(w, INTERVAL_SECONDS + 1)
    pinged(session)
    later(w, TIMEOUT_SECONDS)
    assert not session.is_closed()
    later(w, 0.5)
    assert session.is_closed()
    assert session.socket.drop_reason == "no answer to a ping"
    assert not w.target.sessions


def test_whatever_comes_is_a_sign_of_life(w: Wire) -> None:
    session = w.login()
    later(w, INTERVAL_SECONDS + 1)
    pinged(session)
    for _ in range(5):
        later(w, TIMEOUT_SECONDS - 1)
        session.one(session.scsi(cdb.TEST_UNIT_READY))
    assert not session.is_closed()


def test_a_part_of_a_pdu_is_a_sign_of_life(w: Wire) -> None:
    session = w.login()
    for byte in session.ping(b"slow").encode():
        later(w, INTERVAL_SECONDS - 1)
        session.socket.feed(bytes([byte]))
    assert [pdu.opcode for pdu in session.incoming()] == [Opcode.NOP_IN]


def test_an_initiator_that_takes_its_data_slowly_is_alive(w: Wire) -> None:
    """The ping is behind the data: it cannot have been answered yet."""
    session = w.login()
    session.socket.taking = 0
    session.start(cdb.read10(0, 1024), read_length=524288)
    for _ in range(30):
        later(w, TIMEOUT_SECONDS - 1)
        session.socket.taking = 1000
        session.socket.pump()
        session.channel.progressed()  # as the portal says when a blocked socket takes bytes again
    assert not session.is_closed()
    session.socket.taking = None
    session.wait(*session.tasks.values())


@pytest.mark.parametrize("arrives", [False, True], ids=["nothing", "a byte at a time"])
def test_who_takes_nothing_is_dropped_whatever_it_sends(w: Wire, arrives: bool) -> None:
    """What it has asked for is in buffers, which others wait for."""
    session = w.login()
    session.socket.taking = 1000
    session.exchange(session.scsi(cdb.read10(0, 1024), edtl=524288, read=True))
    assert w.pool.used
    update = session.ping(immediate=True)
    update.itt = NO_TAG
    seconds = INTERVAL_SECONDS - 1
    for undelivered in range(500, 400, -1):  # of the thousand that have gone
        if session.is_closed():
            break
        session.exchange(update)
        w.clock.now += seconds
        session.socket.tick(undelivered if arrives else 500)
    assert session.is_closed() is not arrives
    if not arrives:
        assert session.socket.drop_reason == "what it has asked for is not taken"
        assert not w.pool.used
        assert undelivered == 497, "within the time of a ping and its answer"
    session.socket.taking = None
    session.socket.pump()


def test_the_answer_may_ask_for_a_ping_itself(w: Wire) -> None:
    session = w.login()
    later(w, INTERVAL_SECONDS + 1)
    ping = pinged(session)
    both = session.ping(b"and you", immediate=True)
    both.ttt = ping.ttt
    assert bytes(session.one(both).data) == b"and you"
    later(w, TIMEOUT_SECONDS + 1)
    assert not session.is_closed()


def test_an_answer_to_no_ping_of_ours_is_ignored(w: Wire) -> None:
    session = w.login()
    later(w, INTERVAL_SECONDS + 1)
    ping = pinged(session)
    wrong = raw.nop_out(
        itt=NO_TAG, ttt=ping.ttt + 1, cmd_sn=session.cmd_sn, exp_stat_sn=0, immediate=True
    )
    assert not session.exchange(wrong)
    later(w, TIMEOUT_SECONDS + 1)
    assert session.is_closed()


def test_pings_can_be_turned_off() -> None:
    with wire(options=TargetOptions(nop_interval_seconds=0)) as w:
        session, discovery = w.login(), w.initiator(target=None)
        discovery.login(discovery=True)
        later(w, 1e6)
        assert not session.incoming()
        assert not session.is_closed()
        assert not discovery.is_closed()


def test_a_discovery_session_is_not_pinged_but_not_kept_for_ever(w: Wire) -> None:
    session = w.initiator(target=None)
    session.login(discovery=True)
    later(w, INTERVAL_SECONDS + TIMEOUT_SECONDS)
    assert not session.incoming()
    session.send_targets()
    later(w, INTERVAL_SECONDS + TIMEOUT_SECONDS)
    assert not session.is_closed()
    later(w, 0.5)
    assert session.is_closed()


# --- logins and hang-ups


@pytest.mark.parametrize("said", ["nothing", "half a header", "one stage", "stage after stage"])
def test_a_login_that_takes_too_long_is_dropped(w: Wire, said: str) -> None:
    session = w.initiator()
    names = {"InitiatorName": session.name, "SessionType": "Discovery"}
    if said == "half a header":
        session.socket.feed(session.login_request(1, 3).encode()[:20])
    elif said == "one stage":
        session.login_exchange(0, names)
    later(w, LOGIN_SECONDS - 1)
    if said == "stage after stage":
        session.login_exchange(0, names, 1)
        session.login_exchange(1, {})
    assert not session.is_closed()
    later(w, 1.5)
    assert session.is_closed()
    assert session.socket.drop_reason == "login timeout"


def test_a_login_in_time_is_not_dropped(w: Wire) -> None:
    session = w.initiator()
    later(w, LOGIN_SECONDS)
    session.login()
    later(w, 5)
    assert not session.is_closed()


def test_last_bytes_that_are_not_taken_are_waited_for_in_vain_only_so_long(w: Wire) -> None:
    session = w.login()
    session.socket.taking = 0
    session.exchange(session.leave())
    later(w, HANG_UP_SECONDS_MAX)
    assert not session.is_closed()
    later(w, 0.5)
    assert session.is_closed()
    assert session.socket.drop_reason == "the last bytes were not taken"
