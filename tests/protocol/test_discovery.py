"""Discovery, SendTargets and other text (RFC 7143 4.3, 11.10, 11.11, Appendix C)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import NO_TAG, Opcode, Pdu
from tests.support.wire import TARGET, Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected

HERE = [(TARGET, ["192.0.2.1:3260,1"])]


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


@pytest.fixture
def discovery(w: Wire) -> WireInitiator:
    session = w.initiator(target=None)
    session.login(discovery=True)
    return session


def text(
    session: WireInitiator,
    data: bytes,
    *,
    itt: int = 40,
    ttt: int = NO_TAG,
    whole: bool = True,
    immediate: bool = False,
) -> Pdu:
    return raw.text_request(
        itt=itt,
        ttt=ttt,
        cmd_sn=session.next_cmd_sn(immediate=immediate),
        exp_stat_sn=session.exp_stat_sn,
        final=whole,
        more=not whole,
        immediate=immediate,
        data=data,
    )


@pytest.mark.parametrize("what", ["All", TARGET, TARGET.upper()])
def test_a_discovery_session_is_told_of_targets(discovery: WireInitiator, what: str) -> None:
    assert discovery.send_targets(what) == HERE


def test_a_discovery_session_is_told_nothing_of_what_is_not_there(
    discovery: WireInitiator,
) -> None:
    assert discovery.send_targets("iqn.2026-11.io.lunmesh:other") == []
    assert discovery.text({"SendTargets": ""}) == {"SendTargets": "Reject"}


@pytest.mark.parametrize("what", ["", TARGET])
def test_a_normal_session_is_told_of_its_own_target(w: Wire, what: str) -> None:
    assert w.login().send_targets(what) == HERE


@pytest.mark.parametrize("what", ["All", "iqn.2026-11.io.lunmesh:other"])
def test_a_normal_session_is_told_of_no_other(w: Wire, what: str) -> None:
    assert w.login().text({"SendTargets": what}) == {"SendTargets": "Reject"}


def test_every_portal_is_told_and_the_one_in_use_first(w: Wire, discovery: WireInitiator) -> None:
    w.target.addresses[:] = [
        ("2001:db8::1", 3261, ""),
        ("0.0.0.0", 9, ""),
        ("192.0.2.1", 3260, ""),
    ]
    assert discovery.send_targets() == [(TARGET, ["192.0.2.1:3260,1", "[2001:db8::1]:3261,1"])]


def test_other_nodes_are_told_with_their_tags(w: Wire, discovery: WireInitiator) -> None:
    w.target.other_portals = lambda _: [(3, [("192.0.2.3:3260", ""), ("[2001:db8::3]:3260", "")])]
    others = ["192.0.2.3:3260,3", "[2001:db8::3]:3260,3"]
    assert discovery.send_targets() == [(TARGET, ["192.0.2.1:3260,1", *others])]


def test_what_is_advertised_is_told_instead(w: Wire, discovery: WireInitiator) -> None:
    w.target.advertised = [("203.0.113.1:3260", "")]
    w.target.addresses[:] = [("192.0.2.1", 3260, "")]
    assert discovery.send_targets() == [(TARGET, ["203.0.113.1:3260,1"])]


def test_a_discovery_session_has_no_unit_and_takes_no_buffers(
    w: Wire, discovery: WireInitiator
) -> None:
    assert not w.bus.nexuses
    assert w.pool.reserved == 0
    assert not w.pool.shares
    assert discovery.max_cmd_sn == discovery.cmd_sn


def test_many_discovery_sessions_keep_nobody_out(w: Wire) -> None:
    for _ in range(3 * w.target.options.sessions_max):
        session = w.initiator(target=None)
        session.login(discovery=True)
    assert w.login().nop(b"in") == b"in"


def test_an_answer_of_several_pdus_is_fetched_with_its_tag(w: Wire) -> None:
    w.target.addresses[:] = [(f"192.0.2.{n}", 3260, "") for n in range(1, 255)]
    session = w.initiator(target=None)
    session.login({"MaxRecvDataSegmentLength": "512"}, discovery=True)
    ((name, addresses),) = session.send_targets()
    assert (name, len(addresses)) == (TARGET, 254)


def test_a_question_may_come_in_several_pdus(discovery: WireInitiator) -> None:
    first = text(discovery, b"SendTar", whole=False, itt=50)
    answer = discovery.one(first)
    assert (answer.opcode, answer.final, len(answer.data)) == (Opcode.TEXT_RESPONSE, False, 0)
    assert answer.ttt != NO_TAG
    rest = text(discovery, b"gets=All\0", itt=50, ttt=answer.ttt)
    assert bytes(discovery.one(rest).data).startswith(b"TargetName=")


def test_questions_are_answered_one_at_a_time(w: Wire, discovery: WireInitiator) -> None:
    w.target.addresses[:] = [(f"192.0.2.{n}", 3260, "") for n in range(1, 255)]
    questions = [text(discovery, b"SendTargets=All\0", itt=number) for number in (50, 51, 52)]
    answer, *rejects = discovery.exchange(*questions)
    assert (answer.opcode, answer.itt) == (Opcode.TEXT_RESPONSE, 50)
    assert [rejected(*pair) for pair in zip(rejects, questions[1:], strict=True)] == [0x04, 0x04]
    assert discovery.one(text(discovery, b"SendTargets=All\0")).opcode == Opcode.TEXT_RESPONSE


def test_a_redeclared_length_holds_from_then_on(w: Wire) -> None:
    session = w.login({"MaxRecvDataSegmentLength": "4096"})
    assert len(session.nop(bytes(2000))) == 2000
    assert session.text({"MaxRecvDataSegmentLength": "600"}) == {}
    assert len(session.nop(bytes(2000))) == 600
    answers = session.exchange(
        session.scsi(bytes.fromhex("28 00 00000000 00 0004 00"), edtl=2048, read=True)
    )
    assert [len(pdu.data) for pdu in answers] == [600, 600, 600, 248]


def test_text_may_be_immediate(w: Wire) -> None:
    session = w.login()
    answer = session.one(text(session, b"X-y=z\0", immediate=True))
    assert bytes(answer.data) == b"X-y=NotUnderstood\0"
    assert answer.exp_cmd_sn == session.cmd_sn


def test_a_new_question_forgets_the_old_one(w: Wire) -> None:
    session = w.login()
    first = session.one(text(session, b"X-a=", whole=False, itt=60))
    assert bytes(session.one(text(session, b"X-b=1\0", itt=61)).data) == b"X-b=NotUnderstood\0"
    late = text(session, b"1\0", itt=60, ttt=first.ttt)
    assert session.one(late).opcode == Opcode.REJECT
