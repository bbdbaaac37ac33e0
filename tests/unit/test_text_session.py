"""Text exchanges in the full feature phase."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from target.iscsi import limits, text
from target.iscsi.constants import RESERVED_TAG, RejectReason
from target.iscsi.errors import PduError
from target.iscsi.keys import KEYS
from target.iscsi.pdu import TextRequest
from target.iscsi.text_session import Portals, TextReply, TextSession

A, B = "iqn.2026-11.io.lunmesh:a", "iqn.2026-11.io.lunmesh:b"
PORTALS: Portals = [("10.0.0.1:3260", 1), ("[2001:db8::1]:3260", 2)]
ADDRESSES = [("TargetAddress", "10.0.0.1:3260,1"), ("TargetAddress", "[2001:db8::1]:3260,2")]


def targets(name: str | None) -> list[tuple[str, Portals]]:
    return [(iqn, PORTALS) for iqn in (A, B) if name in (None, iqn)]


def discovery() -> TextSession:
    return TextSession(targets, discovery=True, target=None)


def normal() -> TextSession:
    return TextSession(targets, discovery=False, target=A)


def ask(
    session: TextSession,
    data: bytes,
    *,
    tag: int = RESERVED_TAG,
    final: bool = True,
    continued: bool = False,
    itt: int = 1,
    size_max: int = 8192,
) -> TextReply:
    request = TextRequest(
        initiator_task_tag=itt,
        cmd_sn=1,
        exp_stat_sn=1,
        target_transfer_tag=tag,
        final=final,
        continued=continued,
        data=data,
    )
    return session.receive(request, size_max)


def send_targets(session: TextSession, value: str) -> text.Pairs:
    reply = ask(session, text.encode([("SendTargets", value)]))
    assert reply.final
    assert not reply.continued
    assert reply.target_transfer_tag == RESERVED_TAG
    return text.decode(reply.data)


# --- SendTargets (RFC 7143 appendix C) -----------------------------------------------------------


def test_all_targets_in_discovery() -> None:
    expected = [("TargetName", A), *ADDRESSES, ("TargetName", B), *ADDRESSES]
    assert send_targets(discovery(), "All") == expected


def test_one_target_by_its_name() -> None:
    assert send_targets(discovery(), B) == [("TargetName", B), *ADDRESSES]
    assert send_targets(discovery(), "iqn.unknown") == []
    assert send_targets(normal(), A) == [("TargetName", A), *ADDRESSES]


def test_a_normal_session_learns_of_its_own_target_only() -> None:
    assert send_targets(normal(), "") == [("TargetName", A), *ADDRESSES]
    for value in ("All", B):
        assert send_targets(normal(), value) == [("SendTargets", "Reject")]
    assert send_targets(discovery(), "") == [("SendTargets", "Reject")]


# --- long answers --------------------------------------------------------------------------------


def many(count: int) -> TextSession:
    return TextSession(
        lambda name: [(f"{A}.{n}", PORTALS) for n in range(count)], discovery=True, target=None
    )


def fetch(session: TextSession, size_max: int, final: bool = True) -> list[TextReply]:
    replies = [ask(session, b"SendTargets=All\0", size_max=size_max, final=final)]
    while replies[-1].continued:
        replies.append(
            ask(
                session,
                b"",
                tag=replies[-1].target_transfer_tag,
                size_max=size_max,
                final=final,
            )
        )
    return replies


@pytest.mark.parametrize("size_max", [512, 8192, 32768])
def test_a_long_answer_comes_in_parts_that_the_initiator_can_take(size_max: int) -> None:
    session = many(500)
    replies = fetch(session, size_max)
    whole = b"".join(reply.data for reply in replies)
    assert whole.count(b"TargetName=") == 500
    assert len(replies) > 1
    for reply in replies[:-1]:
        assert 0 < len(reply.data) <= size_max
        assert reply.data.endswith(b"\0"), "cut behind a pair"
        assert (reply.final, reply.continued) == (False, True)
        assert reply.target_transfer_tag != RESERVED_TAG
    assert (replies[-1].final, replies[-1].target_transfer_tag) == (True, RESERVED_TAG)


def test_final_is_not_said_to_a_request_that_was_not() -> None:
    last = fetch(many(500), 8192, final=False)[-1]
    assert (last.final, last.continued) == (False, False)
    assert last.target_transfer_tag != RESERVED_TAG


def test_an_answer_past_the_bound_is_refused() -> None:
    with pytest.raises(PduError) as caught:
        ask(many(40_000), b"SendTargets=All\0")
    assert caught.value.reason is RejectReason.LONG_OPERATION_REJECT


def test_a_new_exchange_forgets_the_old_one() -> None:
    session = many(500)
    first = ask(session, b"SendTargets=All\0")
    assert first.continued
    again = ask(session, b"X-key=1\0", itt=2)
    assert (again.final, again.data) == (True, b"X-key=NotUnderstood\0")
    with pytest.raises(PduError):
        ask(session, b"", tag=first.target_transfer_tag)


@pytest.mark.parametrize("wrong", ["tag", "itt", "replayed"])
def test_tags_that_belong_to_no_exchange(wrong: str) -> None:
    session = many(500)
    tag = ask(session, b"SendTargets=All\0").target_transfer_tag
    if wrong == "replayed":
        ask(session, b"", tag=tag)
    with pytest.raises(PduError) as caught:
        ask(session, b"", tag=tag + (wrong == "tag"), itt=1 + (wrong == "itt"))
    assert caught.value.reason is RejectReason.INVALID_PDU_FIELD


def test_text_while_our_answer_is_being_fetched() -> None:
    session = many(500)
    tag = ask(session, b"SendTargets=All\0").target_transfer_tag
    with pytest.raises(PduError) as caught:
        ask(session, b"X-a=1\0", tag=tag)
    assert caught.value.reason is RejectReason.PROTOCOL_ERROR


# --- long requests -------------------------------------------------------------------------------


def test_a_request_in_parts() -> None:
    session = discovery()
    reply = ask(session, b"SendTar", final=False, continued=True)
    assert (reply.final, reply.continued, reply.data) == (False, False, b"")
    reply = ask(session, b"gets=", tag=reply.target_transfer_tag, final=False, continued=True)
    reply = ask(session, B.encode() + b"\0", tag=reply.target_transfer_tag)
    assert text.decode(reply.data)[0] == ("TargetName", B)


def test_an_exchange_of_several_requests() -> None:
    session = normal()
    reply = ask(session, b"MaxRecvDataSegmentLength=4096\0", final=False)
    assert reply.max_send_data_segment_length is None
    reply = ask(session, b"X-a=1\0", tag=reply.target_transfer_tag)
    assert (reply.final, reply.max_send_data_segment_length) == (True, 4096)


def test_requests_are_bounded() -> None:
    session = discovery()
    tag = RESERVED_TAG
    for _ in range(limits.TEXT_REQUEST_BYTES_MAX // 8192):
        tag = ask(session, b"x" * 8192, tag=tag, final=False, continued=True).target_transfer_tag
    with pytest.raises(PduError):
        ask(session, b"x", tag=tag, final=False, continued=True)
    tag = RESERVED_TAG
    for n in range(limits.TEXT_KEYS_MAX):
        tag = ask(session, f"X-{n}=1\0".encode(), tag=tag, final=False).target_transfer_tag
    with pytest.raises(PduError):
        ask(session, b"X-more=1\0", tag=tag)


@pytest.mark.parametrize(
    "data",
    [b"SendTargets", b"SendTargets=All", b"X-a=1\0X-a=1\0", b"X-a=Reject\0", b"\xff=1\0"],
)
def test_malformed_text_is_rejected_and_forgotten(data: bytes) -> None:
    session = discovery()
    with pytest.raises(PduError) as caught:
        ask(session, data)
    assert caught.value.reason is RejectReason.PROTOCOL_ERROR
    assert len(send_targets(session, "All")) == 6


def test_f_and_c_exclude_each_other() -> None:
    with pytest.raises(PduError):
        ask(discovery(), b"X", continued=True)


# --- other keys ----------------------------------------------------------------------------------


def test_the_segment_length_is_declared_anew() -> None:
    reply = ask(normal(), b"MaxRecvDataSegmentLength=65536\0InitiatorAlias=me\0")
    assert (reply.data, reply.max_send_data_segment_length) == (b"", 65536)
    reply = ask(normal(), b"MaxRecvDataSegmentLength=511\0")
    assert reply.data == b"MaxRecvDataSegmentLength=Reject\0"
    assert reply.max_send_data_segment_length is None


def test_what_belongs_to_the_login_is_rejected() -> None:
    for name in KEYS:
        if name in ("SendTargets", "MaxRecvDataSegmentLength", "InitiatorAlias"):
            continue
        found = text.decode(ask(normal(), text.encode([(name, "1")])).data)
        assert found == [(name, "Reject")], name


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=30),
                st.lists(
                    st.tuples(st.sampled_from([*KEYS, "X-a"]), st.text(max_size=5)), max_size=3
                ).map(text.encode),
                st.sampled_from([b"SendTargets=All\0", b""]),
            ),
            st.booleans(),
            st.booleans(),
            st.sampled_from([RESERVED_TAG, 1, 2, 3]),
        ),
        max_size=8,
    )
)
@settings(max_examples=200)
def test_any_requests_get_a_reply_or_a_reject(
    requests: list[tuple[bytes, bool, bool, int]],
) -> None:
    session = many(20)
    for data, final, continued, tag in requests:
        try:
            reply = ask(session, data, final=final, continued=continued, tag=tag, size_max=512)
        except PduError:
            continue
        assert len(reply.data) <= 512
        assert reply.final == (reply.target_transfer_tag == RESERVED_TAG)
        assert not (reply.final and (reply.continued or not final))
