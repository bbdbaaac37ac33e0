"""The operational negotiation: result functions, answers, errors; and the table behind it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from target.iscsi.constants import LoginStage
from target.iscsi.errors import ConfigurationError, NegotiationError
from target.iscsi.keys import KEYS, Rule, Scope, Sender, Use
from target.iscsi.negotiation import Negotiation, SessionParameters, TargetLimits

OPERATIONAL, SECURITY = LoginStage.OPERATIONAL, LoginStage.SECURITY
LIMITS = TargetLimits()


def answers(*pairs: tuple[str, str], limits: TargetLimits = LIMITS) -> dict[str, str]:
    return dict(Negotiation(limits).receive(OPERATIONAL, pairs))


def agreed(*pairs: tuple[str, str], limits: TargetLimits = LIMITS) -> SessionParameters:
    negotiation = Negotiation(limits)
    negotiation.receive(OPERATIONAL, pairs)
    return negotiation.parameters()


# --- the table -----------------------------------------------------------------------------------

# RFC 7143 chapter 13, typed in from the RFC: result function, default, range.
CHAPTER_13 = {
    "HeaderDigest": (Rule.LIST, "None"),
    "DataDigest": (Rule.LIST, "None"),
    "MaxConnections": (Rule.MINIMUM, "1", 1, 65535),
    "SendTargets": (Rule.REQUEST, None),
    "TargetName": (Rule.DECLARED, None),
    "InitiatorName": (Rule.DECLARED, None),
    "TargetAlias": (Rule.DECLARED, None),
    "InitiatorAlias": (Rule.DECLARED, None),
    "TargetAddress": (Rule.DECLARED, None),
    "TargetPortalGroupTag": (Rule.DECLARED, None),
    "InitialR2T": (Rule.OR, "Yes"),
    "ImmediateData": (Rule.AND, "Yes"),
    "MaxRecvDataSegmentLength": (Rule.DECLARED, "8192", 512, 0xFFFFFF),
    "MaxBurstLength": (Rule.MINIMUM, "262144", 512, 0xFFFFFF),
    "FirstBurstLength": (Rule.MINIMUM, "65536", 512, 0xFFFFFF),
    "DefaultTime2Wait": (Rule.MAXIMUM, "2", 0, 3600),
    "DefaultTime2Retain": (Rule.MINIMUM, "20", 0, 3600),
    "MaxOutstandingR2T": (Rule.MINIMUM, "1", 1, 65535),
    "DataPDUInOrder": (Rule.OR, "Yes"),
    "DataSequenceInOrder": (Rule.OR, "Yes"),
    "ErrorRecoveryLevel": (Rule.MINIMUM, "0", 0, 2),
    "SessionType": (Rule.DECLARED, "Normal"),
    "TaskReporting": (Rule.LIST, "RFC3720"),
    "iSCSIProtocolLevel": (Rule.MINIMUM, "1", 0, 31),
    "OFMarker": (Rule.OBSOLETE_BOOLEAN, None),
    "IFMarker": (Rule.OBSOLETE_BOOLEAN, None),
    "OFMarkInt": (Rule.OBSOLETE, None),
    "IFMarkInt": (Rule.OBSOLETE, None),
}
LEADING_ONLY = {
    *("MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength"),
    *("DefaultTime2Wait", "DefaultTime2Retain", "MaxOutstandingR2T", "DataPDUInOrder"),
    *("DataSequenceInOrder", "ErrorRecoveryLevel", "SessionType", "TaskReporting"),
    "iSCSIProtocolLevel",
}
IRRELEVANT_IN_DISCOVERY = LEADING_ONLY - {
    *("DefaultTime2Wait", "DefaultTime2Retain", "ErrorRecoveryLevel", "SessionType"),
}


def test_the_table_has_every_key_of_chapter_13() -> None:
    found = {name: key for name, key in KEYS.items() if key.use is not Use.SECURITY}
    assert set(found) == set(CHAPTER_13)
    for name, (rule, default, *bounds) in CHAPTER_13.items():
        key = found[name]
        assert (key.rule, key.default) == (rule, default), name
        assert [key.low, key.high] == (bounds or [0, 0]), name
    assert {name for name, key in found.items() if key.leading_only} == LEADING_ONLY
    irrelevant = {name for name, key in found.items() if key.irrelevant_in_discovery}
    assert irrelevant == IRRELEVANT_IN_DISCOVERY


def test_the_connections_own_keys() -> None:
    own = {name for name, key in KEYS.items() if key.scope is Scope.CONNECTION}
    assert {"HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength", "AuthMethod"} <= own
    assert "MaxBurstLength" not in own


# --- result functions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "offer", "answer"),
    [
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "CRC32C", "CRC32C"),
        ("DataDigest", "X-com.example.sum,CRC32C", "CRC32C"),
        ("DataDigest", "MD5", "Reject"),
        ("DataDigest", "", "Reject"),
        ("DataDigest", "None,,CRC32C", "Reject"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("MaxConnections", "65536", "Reject"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "Maybe", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxBurstLength", "16776192", "1048576"),
        ("MaxBurstLength", "0x1000", "4096"),
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("FirstBurstLength", "262144", "65536"),
        ("FirstBurstLength", "512", "512"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "5", "5"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxOutstandingR2T", "16", "8"),
        ("MaxOutstandingR2T", "1", "1"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("OFMarker", "No", "No"),
        ("IFMarker", "Yes", "No"),
        ("IFMarker", "2048", "Reject"),
        ("OFMarkInt", "2048~8192", "Reject"),
        ("IFMarkInt", "2048", "Reject"),
        ("X-com.example.key", "value", "NotUnderstood"),
        ("X#unregistered", "", "NotUnderstood"),
        ("Invented", "1", "NotUnderstood"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
    ],
)
def test_answers(key: str, offer: str, answer: str) -> None:
    assert answers((key, offer))[key] == answer


def test_results_have_types_and_units() -> None:
    found = agreed(
        ("HeaderDigest", "CRC32C"),
        ("DataDigest", "CRC32C,None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "No"),
        ("MaxRecvDataSegmentLength", "131072"),
        ("MaxBurstLength", "524288"),
        ("FirstBurstLength", "32768"),
        ("MaxOutstandingR2T", "4"),
        ("DefaultTime2Wait", "3"),
        ("DefaultTime2Retain", "0"),
    )
    assert found == SessionParameters(
        max_recv_data_segment_length=262144,
        max_send_data_segment_length=131072,
        header_digest=True,
        data_digest=True,
        max_burst_length=524288,
        first_burst_length=32768,
        initial_r2t=False,
        immediate_data=False,
        max_outstanding_r2t=4,
        default_time2wait=3,
        default_time2retain=0,
    )


def test_a_silent_initiator_gets_the_defaults_of_the_rfc() -> None:
    assert agreed() == SessionParameters(max_recv_data_segment_length=262144)


def test_a_login_without_the_operational_stage_has_declared_nothing() -> None:
    assert Negotiation(LIMITS).parameters() == SessionParameters()


def test_a_rejected_offer_leaves_the_default() -> None:
    found = agreed(("MaxBurstLength", "1"), ("HeaderDigest", "MD5"), ("InitialR2T", "perhaps"))
    assert (found.max_burst_length, found.header_digest, found.initial_r2t) == (262144, False, True)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_first_burst_stays_within_the_burst(swapped: bool) -> None:
    pairs = [("MaxBurstLength", "16384"), ("FirstBurstLength", "65536")]
    if swapped:
        pairs.reverse()
    assert answers(*pairs) | {"MaxBurstLength": "16384", "FirstBurstLength": "16384"} == answers(
        *pairs
    )
    assert agreed(*pairs).first_burst_length == 16384


def test_a_burst_that_shrinks_later_takes_the_first_burst_with_it() -> None:
    negotiation = Negotiation(LIMITS)
    negotiation.receive(OPERATIONAL, [("FirstBurstLength", "65536")])
    negotiation.receive(OPERATIONAL, [("MaxBurstLength", "4096")])
    assert negotiation.parameters().first_burst_length == 4096


def test_our_segment_length_is_declared_once() -> None:
    negotiation = Negotiation(LIMITS)
    first = negotiation.receive(OPERATIONAL, [])
    assert first == [("MaxRecvDataSegmentLength", "262144")]
    assert negotiation.receive(OPERATIONAL, []) == []
    assert Negotiation(LIMITS).receive(SECURITY, [("InitiatorName", "iqn.x")]) == []


def test_discovery_makes_keys_irrelevant_wherever_session_type_stands() -> None:
    found = answers(
        *((name, "1") for name in sorted(IRRELEVANT_IN_DISCOVERY)),
        ("ErrorRecoveryLevel", "0"),
        ("DefaultTime2Wait", "2"),
        ("HeaderDigest", "None"),
        ("SessionType", "Discovery"),
    )
    assert {name for name, value in found.items() if value == "Irrelevant"} == (
        IRRELEVANT_IN_DISCOVERY
    )
    assert found["ErrorRecoveryLevel"] == "0"
    assert found["HeaderDigest"] == "None"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs",
    [
        [("MaxBurstLength", "4096"), ("MaxBurstLength", "4096")],
        [("MaxBurstLength", "1"), ("MaxBurstLength", "4096")],
        [("MaxRecvDataSegmentLength", "8192"), ("MaxRecvDataSegmentLength", "4096")],
        [("InitiatorName", "iqn.a"), ("InitiatorName", "iqn.b")],
        [("X-a", "1"), ("X-a", "1")],
        [("HeaderDigest", "Reject")],
        [("X-a", "NotUnderstood")],
        [("InitialR2T", "Irrelevant")],
        [("MaxRecvDataSegmentLength", "511")],
        [("MaxRecvDataSegmentLength", "16777216")],
        [("MaxRecvDataSegmentLength", "many")],
        [("InitiatorAlias", "x" * 256)],
        [("TargetPortalGroupTag", "1")],
        [("TargetAddress", "10.0.0.1:3260,1")],
        [("TargetAlias", "x")],
        [("SendTargets", "All")],
        [("AuthMethod", "None")],
    ],
    ids=lambda pairs: "+".join(f"{key}={value[:8]}" for key, value in pairs),
)
def test_what_ends_a_login(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(NegotiationError):
        Negotiation(LIMITS).receive(OPERATIONAL, pairs)
    if len(pairs) == 2:
        negotiation = Negotiation(LIMITS)
        negotiation.receive(OPERATIONAL, pairs[:1])
        with pytest.raises(NegotiationError):
            negotiation.receive(OPERATIONAL, pairs[1:])


def test_the_same_name_again_is_let_pass() -> None:
    """libiscsi says its names in both stages."""
    negotiation = Negotiation(LIMITS)
    negotiation.receive(SECURITY, [("InitiatorName", "iqn.a")])
    negotiation.receive(OPERATIONAL, [("InitiatorName", "iqn.a")])
    assert negotiation.declared("InitiatorName") == "iqn.a"


def test_operational_keys_do_not_belong_into_the_security_stage() -> None:
    for name in ("MaxBurstLength", "HeaderDigest", "MaxRecvDataSegmentLength"):
        with pytest.raises(NegotiationError):
            Negotiation(LIMITS).receive(SECURITY, [(name, "1024")])


def test_a_further_connection_negotiates_its_own_keys_only() -> None:
    negotiation = Negotiation(LIMITS, leading=False)
    found = negotiation.receive(
        OPERATIONAL, [("HeaderDigest", "CRC32C"), ("MaxRecvDataSegmentLength", "4096")]
    )
    assert dict(found)["HeaderDigest"] == "CRC32C"
    with pytest.raises(NegotiationError):
        negotiation.receive(OPERATIONAL, [("MaxBurstLength", "4096")])
    session = SessionParameters(max_burst_length=77777, max_outstanding_r2t=5)
    joined = negotiation.parameters().joined_to(session)
    assert joined == dataclasses.replace(
        session,
        header_digest=True,
        max_send_data_segment_length=4096,
        max_recv_data_segment_length=262144,
    )


# --- our own offers ------------------------------------------------------------------------------

STRICT = TargetLimits(
    immediate_data=False,
    max_burst_length=65536,
    first_burst_length=16384,
    header_digests=("CRC32C",),
)


def test_limits_stricter_than_the_defaults_are_offered() -> None:
    negotiation = Negotiation(STRICT)
    unasked = dict(negotiation.receive(OPERATIONAL, []))
    assert unasked == {
        "MaxRecvDataSegmentLength": "262144",
        "HeaderDigest": "CRC32C",
        "ImmediateData": "No",
        "MaxBurstLength": "65536",
        "FirstBurstLength": "16384",
    }
    assert not negotiation.settled()
    negotiation.receive(
        OPERATIONAL,
        [
            ("HeaderDigest", "CRC32C"),
            ("ImmediateData", "No"),
            ("MaxBurstLength", "65536"),
            ("FirstBurstLength", "4096"),
        ],
    )
    assert negotiation.settled()
    found = negotiation.parameters()
    assert (found.header_digest, found.immediate_data) == (True, False)
    assert (found.max_burst_length, found.first_burst_length) == (65536, 4096)


def test_what_is_irrelevant_is_not_offered() -> None:
    discovery = Negotiation(STRICT)
    found = dict(discovery.receive(OPERATIONAL, [("SessionType", "Discovery")]))
    assert set(found) == {"MaxRecvDataSegmentLength", "HeaderDigest"}
    further = Negotiation(STRICT, leading=False)
    assert set(dict(further.receive(OPERATIONAL, []))) == set(found)
    further.receive(OPERATIONAL, [("HeaderDigest", "CRC32C")])
    assert further.parameters().header_digest


def test_a_small_burst_alone_makes_no_offer_of_ours() -> None:
    negotiation = Negotiation(LIMITS)
    found = negotiation.receive(OPERATIONAL, [("MaxBurstLength", "8192")])
    assert dict(found) == {"MaxBurstLength": "8192", "MaxRecvDataSegmentLength": "262144"}
    assert negotiation.settled()
    assert negotiation.parameters().first_burst_length == 8192


def test_nothing_is_offered_that_the_initiator_has_offered() -> None:
    negotiation = Negotiation(STRICT)
    found = negotiation.receive(
        OPERATIONAL,
        [
            ("HeaderDigest", "CRC32C,None"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
        ],
    )
    assert dict(found) == {
        "MaxRecvDataSegmentLength": "262144",
        "HeaderDigest": "CRC32C",
        "ImmediateData": "No",
        "MaxBurstLength": "65536",
        "FirstBurstLength": "16384",
    }
    assert negotiation.settled()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HeaderDigest", "None"),
        ("HeaderDigest", "Reject"),
        ("ImmediateData", "Yes"),
        ("ImmediateData", "Irrelevant"),
        ("MaxBurstLength", "65537"),
        ("MaxBurstLength", "1"),
        ("FirstBurstLength", "NotUnderstood"),
    ],
)
def test_an_answer_that_we_did_not_offer_ends_the_login(name: str, value: str) -> None:
    negotiation = Negotiation(STRICT)
    negotiation.receive(OPERATIONAL, [])
    with pytest.raises(NegotiationError):
        negotiation.receive(OPERATIONAL, [(name, value)])


@pytest.mark.parametrize("name", ["ImmediateData", "MaxBurstLength", "FirstBurstLength"])
def test_a_rejected_offer_does_not_bring_back_a_default_beyond_our_limit(name: str) -> None:
    negotiation = Negotiation(dataclasses.replace(STRICT, header_digests=("None",)))
    rest = {"ImmediateData": "No", "MaxBurstLength": "65536", "FirstBurstLength": "16384"}
    negotiation.receive(OPERATIONAL, (rest | {name: "nonsense"}).items())
    with pytest.raises(NegotiationError, match=name):
        negotiation.parameters()


def test_a_demanded_digest_that_was_not_agreed_on_ends_the_login() -> None:
    negotiation = Negotiation(TargetLimits(data_digests=("CRC32C",)))
    assert dict(negotiation.receive(OPERATIONAL, [("DataDigest", "None")]))["DataDigest"] == (
        "Reject"
    )
    with pytest.raises(NegotiationError):
        negotiation.parameters()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_recv_data_segment_length": 511},
        {"max_burst_length": 1 << 24},
        {"max_burst_length": 65536, "first_burst_length": 65537},
        {"max_outstanding_r2t": 0},
        {"error_recovery_level": 3},
        {"max_connections": 0},
        {"header_digests": ()},
        {"data_digests": ("MD5",)},
        {"task_reporting": ()},
        {"default_time2wait": -1},
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        TargetLimits(**changes)  # type: ignore[arg-type]


# --- properties ----------------------------------------------------------------------------------

numbers = st.one_of(
    st.sampled_from(["0", "1", "511", "512", "8192", "65536", "16777215", "16777216"]),
    st.integers(-1, 1 << 25).map(str),
    st.integers(0, 1 << 25).map(hex),
)
words = st.sampled_from(
    [
        *("Yes", "No", "None", "CRC32C", "None,CRC32C", "Reject", "Irrelevant", "NotUnderstood"),
        *("Normal", "Discovery", "RFC3720", "FastAbort,RFC3720", "a~b", "1~2", ""),
    ]
)
values = st.one_of(numbers, words, st.text(max_size=20))
offers = st.lists(st.tuples(st.sampled_from([*KEYS, "X-a", "Y"]), values), max_size=30)
limits = st.builds(
    TargetLimits,
    max_recv_data_segment_length=st.integers(512, 0xFFFFFF),
    max_burst_length=st.integers(65536, 0xFFFFFF),
    first_burst_length=st.integers(512, 65536),
    max_outstanding_r2t=st.integers(1, 65535),
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    default_time2wait=st.integers(0, 3600),
    default_time2retain=st.integers(0, 3600),
    error_recovery_level=st.integers(0, 2),
    max_connections=st.integers(1, 65535),
    protocol_level=st.integers(0, 31),
)


@given(limits, st.lists(offers, max_size=3))
@settings(max_examples=300)
def test_any_offers_end_in_sane_parameters_or_a_typed_error(
    ours: TargetLimits, requests: list[list[tuple[str, str]]]
) -> None:
    negotiation = Negotiation(ours)
    try:
        for request in requests:
            for name, value in negotiation.receive(OPERATIONAL, request):
                assert value
                sender = KEYS[name].sender if name in KEYS else Sender.BOTH
                assert Sender.INITIATOR in sender
        found = negotiation.parameters()
    except NegotiationError:
        return
    assert 512 <= found.first_burst_length <= found.max_burst_length <= 0xFFFFFF
    assert 512 <= found.max_send_data_segment_length <= 0xFFFFFF
    assert found.max_recv_data_segment_length in (8192, ours.max_recv_data_segment_length)
    assert 1 <= found.max_outstanding_r2t <= max(1, ours.max_outstanding_r2t)
    assert 1 <= found.max_connections <= max(1, ours.max_connections)
    assert 0 <= found.error_recovery_level <= ours.error_recovery_level
    assert 0 <= found.default_time2wait <= 3600
    assert 0 <= found.default_time2retain <= 3600
    assert found.data_pdu_in_order
    assert found.data_sequence_in_order
    if negotiation.settled() and not negotiation.discovery:
        assert found.immediate_data <= ours.immediate_data
        assert found.max_burst_length <= ours.max_burst_length
        assert found.first_burst_length <= ours.first_burst_length


@given(st.lists(st.sampled_from(["None", "CRC32C", "MD5", "X-y"]), min_size=1, max_size=6))
def test_of_any_list_the_first_supported_value_wins(offer: list[str]) -> None:
    expected = next((item for item in offer if item in ("None", "CRC32C")), "Reject")
    assert answers(("DataDigest", ",".join(offer)))["DataDigest"] == expected
