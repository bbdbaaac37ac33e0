"""The login phase: stages, statuses, continuation, bookkeeping."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from target.iscsi import limits, text
from target.iscsi.chap import ChapPolicy, Secret, respond
from target.iscsi.constants import LoginStatus
from target.iscsi.errors import LoginRefused
from target.iscsi.keys import KEYS
from target.iscsi.login import ExistingSession, LoginComplete, LoginFailure
from target.iscsi.parameters import TargetLimits
from target.iscsi.pdu import LoginRequest
from tests.support.iscsi_login import (
    FULL,
    INITIATOR,
    ISID,
    OPERATIONAL,
    SECURITY,
    TARGET,
    FakePolicy,
    Initiator,
    names,
)

SECRET = "correct horse battery"
CHAP = ChapPolicy({"bob": Secret(SECRET)})


# --- the ways through the stages -----------------------------------------------------------------


def test_direct_to_operational_in_one_request() -> None:
    host = Initiator()
    answer = host.send(OPERATIONAL, names(MaxBurstLength="16776192"), nsg=FULL)
    assert (answer.transit, answer.csg, answer.nsg) == (True, OPERATIONAL, FULL)
    assert host.keys() == {
        "TargetPortalGroupTag": "7",
        "MaxBurstLength": "1048576",
        "MaxRecvDataSegmentLength": "262144",
    }
    done = host.complete()
    assert done.identity.initiator == INITIATOR
    assert done.identity.target == TARGET
    assert (done.identity.isid, done.identity.cid, done.identity.tsih) == (ISID, 1, 0)
    assert not done.identity.discovery
    assert done.identity.user is None
    assert done.tsih == answer.tsih == 0x1234
    assert done.parameters.max_burst_length == 1048576


def test_security_then_operational() -> None:
    host = Initiator()
    first = host.send(SECURITY, names(AuthMethod="None"), nsg=OPERATIONAL)
    assert (first.transit, first.nsg, first.tsih) == (True, OPERATIONAL, 0)
    assert host.keys() == {"TargetPortalGroupTag": "7", "AuthMethod": "None"}
    host.send(OPERATIONAL, {"InitialR2T": "No"}, nsg=FULL)
    assert host.keys() == {"InitialR2T": "No", "MaxRecvDataSegmentLength": "262144"}
    assert not host.complete().parameters.initial_r2t


def test_security_straight_to_full_feature() -> None:
    """Nothing was declared: both sides keep to the defaults of the RFC."""
    host = Initiator()
    host.send(SECURITY, names(AuthMethod="None"), nsg=FULL)
    assert host.complete().parameters.max_recv_data_segment_length == 8192


def test_without_an_auth_method_where_none_is_demanded() -> None:
    host = Initiator()
    assert host.send(SECURITY, names(), nsg=OPERATIONAL).transit


def test_requests_without_t_stay_in_the_stage() -> None:
    host = Initiator()
    for key in ("InitialR2T", "ImmediateData"):
        answer = host.send(
            OPERATIONAL, names() | {key: "No"} if key == "InitialR2T" else {key: "No"}
        )
        assert not answer.transit
        assert host.login.outcome is None
    assert host.send(OPERATIONAL, {}, nsg=FULL).transit
    assert not host.complete().parameters.immediate_data


def test_discovery() -> None:
    host = Initiator()
    host.send(
        OPERATIONAL,
        {"InitiatorName": INITIATOR, "SessionType": "Discovery", "MaxConnections": "1"},
        nsg=FULL,
    )
    assert host.keys() == {
        "MaxConnections": "Irrelevant",
        "MaxRecvDataSegmentLength": "262144",
    }, "no TargetPortalGroupTag without a target"
    done = host.complete()
    assert done.identity.discovery
    assert done.identity.target is None


def test_session_type_is_normal_if_it_is_not_said() -> None:
    host = Initiator()
    host.send(OPERATIONAL, {"InitiatorName": INITIATOR, "TargetName": TARGET}, nsg=FULL)
    assert not host.complete().identity.discovery


def test_our_own_offers_hold_the_login_until_they_are_answered() -> None:
    host = Initiator(limits=TargetLimits(header_digests=("CRC32C",)))
    assert not host.send(OPERATIONAL, names(), nsg=FULL).transit
    assert host.keys()["HeaderDigest"] == "CRC32C"
    assert not host.send(OPERATIONAL, {}, nsg=FULL).transit
    assert host.send(OPERATIONAL, {"HeaderDigest": "CRC32C"}, nsg=FULL).transit
    assert host.complete().parameters.header_digest


# --- CHAP ----------------------------------------------------------------------------------------


def proof(challenge: dict[str, str], secret: str = SECRET) -> str:
    digest = respond(
        "sha256",
        int(challenge["CHAP_I"]),
        secret.encode(),
        text.binary(challenge["CHAP_C"], 1024),
    )
    return text.from_binary(digest)


def test_chap() -> None:
    host = Initiator(FakePolicy(chap=CHAP))
    assert not host.send(SECURITY, names(AuthMethod="CHAP,None"), nsg=OPERATIONAL).transit
    assert host.keys()["AuthMethod"] == "CHAP"
    assert not host.send(SECURITY, {"CHAP_A": "7"}).transit
    answer = host.send(SECURITY, {"CHAP_N": "bob", "CHAP_R": proof(host.keys())}, nsg=OPERATIONAL)
    assert answer.transit
    host.send(OPERATIONAL, {}, nsg=FULL)
    assert host.complete().identity.user == "bob"


def test_chap_with_a_wrong_secret() -> None:
    policy = FakePolicy(chap=CHAP)
    host = Initiator(policy)
    host.send(SECURITY, names(AuthMethod="CHAP"))
    host.send(SECURITY, {"CHAP_A": "7"})
    host.send(SECURITY, {"CHAP_N": "bob", "CHAP_R": proof(host.keys(), "guess")}, nsg=OPERATIONAL)
    assert host.failed() is LoginStatus.AUTHENTICATION_FAILURE
    assert policy.established == []


def test_chap_out_of_order_is_an_authentication_failure() -> None:
    host = Initiator(FakePolicy(chap=CHAP))
    host.send(SECURITY, names(AuthMethod="CHAP"))
    host.send(SECURITY, {"CHAP_N": "bob", "CHAP_R": "0x00"}, nsg=OPERATIONAL)
    assert host.failed() is LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize(
    ("csg", "keys", "nsg"),
    [
        (SECURITY, {"AuthMethod": "None"}, OPERATIONAL),
        (SECURITY, {}, OPERATIONAL),
        (SECURITY, {}, FULL),
        (OPERATIONAL, {}, FULL),
        (SECURITY, {"AuthMethod": "SRP"}, OPERATIONAL),
    ],
)
def test_no_way_around_chap(csg: int, keys: dict[str, str], nsg: int) -> None:
    host = Initiator(FakePolicy(chap=CHAP))
    host.send(csg, names(**keys), nsg=nsg)
    assert host.failed() is LoginStatus.AUTHENTICATION_FAILURE


def test_the_t_bit_is_not_granted_before_the_proof() -> None:
    host = Initiator(FakePolicy(chap=CHAP))
    assert not host.send(SECURITY, names(AuthMethod="CHAP"), nsg=FULL).transit
    assert not host.send(SECURITY, {}, nsg=FULL).transit
    assert not host.send(SECURITY, {"CHAP_A": "7"}, nsg=FULL).transit
    assert host.login.outcome is None
    host.send(OPERATIONAL, {}, nsg=FULL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def test_discovery_can_demand_chap_of_its_own() -> None:
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery", "AuthMethod": "None"}
    host = Initiator(FakePolicy(chap=CHAP))
    host.send(SECURITY, keys, nsg=FULL)
    assert host.complete().identity.discovery
    host = Initiator(FakePolicy(chap_discovery=CHAP))
    host.send(SECURITY, keys, nsg=FULL)
    assert host.failed() is LoginStatus.AUTHENTICATION_FAILURE


# --- statuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({}, LoginStatus.MISSING_PARAMETER),
        ({"TargetName": TARGET}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR, "SessionType": "Normal"}, LoginStatus.MISSING_PARAMETER),
        ({"SessionType": "Discovery"}, LoginStatus.MISSING_PARAMETER),
        (names(TargetName="iqn.2026-11.io.lunmesh:other"), LoginStatus.NOT_FOUND),
        (names(InitiatorName="iqn.barred"), LoginStatus.AUTHORIZATION_FAILURE),
        (names(SessionType="Strange"), LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        (names(InitiatorName="two words"), LoginStatus.INITIATOR_ERROR),
        (names(InitiatorName="x" * 224), LoginStatus.INITIATOR_ERROR),
        (names(TargetName=""), LoginStatus.INITIATOR_ERROR),
        (names(MaxRecvDataSegmentLength="0"), LoginStatus.INITIATOR_ERROR),
        (names(HeaderDigest="Reject"), LoginStatus.INITIATOR_ERROR),
        (names(AuthMethod="None"), LoginStatus.INITIATOR_ERROR),
        (b"InitiatorName", LoginStatus.INITIATOR_ERROR),
        (b"InitiatorName=x", LoginStatus.INITIATOR_ERROR),
        ([("InitialR2T", "No"), ("InitialR2T", "No")], LoginStatus.INITIATOR_ERROR),
    ],
)
def test_statuses_of_the_first_request(keys: dict[str, str] | bytes, status: LoginStatus) -> None:
    policy = FakePolicy()
    host = Initiator(policy)
    host.send(OPERATIONAL, keys, nsg=FULL)
    assert host.failed() is status
    assert policy.established == []


def test_the_failure_says_who_it_was() -> None:
    host = Initiator()
    host.send(OPERATIONAL, names(TargetName="iqn.nowhere"), nsg=FULL)
    outcome = host.login.outcome
    assert isinstance(outcome, LoginFailure)
    assert (outcome.initiator, outcome.target) == (INITIATOR, "iqn.nowhere")


def test_versions() -> None:
    host = Initiator()
    host.send(OPERATIONAL, names(), nsg=FULL, version_min=1, version_max=2)
    assert host.failed() is LoginStatus.UNSUPPORTED_VERSION
    host = Initiator()
    answer = host.send(OPERATIONAL, names(), nsg=FULL, version_min=0, version_max=2)
    assert (answer.version_max, answer.version_active) == (0, 0)
    host.complete()


@pytest.mark.parametrize(
    ("csg", "nsg"),
    [
        *((2, None), (3, None), (3, 3)),
        *((SECURITY, SECURITY), (SECURITY, 2)),
        *((OPERATIONAL, SECURITY), (OPERATIONAL, OPERATIONAL), (OPERATIONAL, 2)),
    ],
)
def test_illegal_stages(csg: int, nsg: int | None) -> None:
    host = Initiator()
    host.send(csg, names(), nsg=nsg)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def test_nsg_without_t_is_reserved() -> None:
    host = Initiator()
    request = dataclasses.replace(host.request, csg=1, nsg=2, data=text.encode(names().items()))
    (answer,) = host.login.receive(request)
    assert answer.status is LoginStatus.SUCCESS


@pytest.mark.parametrize("csg", [OPERATIONAL])
def test_a_stage_cannot_be_jumped_or_gone_back_to(csg: int) -> None:
    host = Initiator()
    host.send(SECURITY, names())
    host.send(csg, {}, nsg=FULL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR
    host = Initiator()
    host.send(SECURITY, names(), nsg=OPERATIONAL)
    host.send(SECURITY, {}, nsg=OPERATIONAL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    ("name", "value"), [("isid", bytes(6)), ("tsih", 9), ("cid", 2)], ids=["isid", "tsih", "cid"]
)
def test_the_identity_in_the_header_cannot_change(name: str, value: int | bytes) -> None:
    host = Initiator()
    host.send(SECURITY, names(), nsg=OPERATIONAL)
    host.request = dataclasses.replace(host.request, **{name: value})  # type: ignore[arg-type]
    host.send(OPERATIONAL, {}, nsg=FULL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def test_operational_keys_in_the_security_stage() -> None:
    host = Initiator()
    host.send(SECURITY, names(InitialR2T="No"), nsg=OPERATIONAL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    "status",
    [
        LoginStatus.OUT_OF_RESOURCES,
        LoginStatus.TARGET_REMOVED,
        LoginStatus.SERVICE_UNAVAILABLE,
        LoginStatus.TARGET_ERROR,
        LoginStatus.CANNOT_INCLUDE_IN_SESSION,
    ],
)
def test_the_policy_can_refuse_at_the_last_moment(status: LoginStatus) -> None:
    host = Initiator(FakePolicy(refusal=LoginRefused(status, "because")))
    answer = host.send(OPERATIONAL, names(), nsg=FULL)
    assert host.failed() is status
    assert answer.data == b""


def test_a_redirection_tells_the_address() -> None:
    moved = LoginRefused(LoginStatus.TARGET_MOVED_TEMPORARILY, moved_to="[2001:db8::1]:3260,1")
    host = Initiator(FakePolicy(refusal=moved))
    host.send(OPERATIONAL, names(), nsg=FULL)
    assert host.failed() is LoginStatus.TARGET_MOVED_TEMPORARILY
    assert host.keys() == {"TargetAddress": "[2001:db8::1]:3260,1"}


def test_refused_from_outside() -> None:
    host = Initiator()
    assert host.login.refuse(LoginStatus.INVALID_DURING_LOGIN, "a NOP-Out") == []
    assert isinstance(host.login.outcome, LoginFailure)
    host = Initiator()
    host.send(SECURITY, names())
    (answer,) = host.login.refuse(LoginStatus.INVALID_DURING_LOGIN, "a NOP-Out")
    assert answer.status is LoginStatus.INVALID_DURING_LOGIN
    assert (answer.isid, answer.initiator_task_tag) == (ISID, 0xABCD)
    host = Initiator()
    (answer,) = host.login.refuse(LoginStatus.SERVICE_UNAVAILABLE, "throttled", host.request)
    assert answer.status is LoginStatus.SERVICE_UNAVAILABLE


# --- sessions that exist -------------------------------------------------------------------------


def joining(cids: set[int], *, maximum: int = 1, cid: int = 1, tsih: int = 5) -> Initiator:
    session = ExistingSession(
        connections=cids, max_connections=maximum, exp_cmd_sn=900, max_cmd_sn=931
    )
    return Initiator(FakePolicy(sessions={5: session}), tsih=tsih, cid=cid)


def test_a_session_that_does_not_exist() -> None:
    host = joining({1}, tsih=6)
    host.send(OPERATIONAL, names(), nsg=FULL)
    assert host.failed() is LoginStatus.SESSION_DOES_NOT_EXIST


def test_one_connection_too_many() -> None:
    host = joining({1}, cid=2)
    host.send(OPERATIONAL, names(), nsg=FULL)
    assert host.failed() is LoginStatus.TOO_MANY_CONNECTIONS


@pytest.mark.parametrize(("cids", "maximum", "cid"), [({1}, 1, 1), ({1}, 2, 2), (set(), 1, 3)])
def test_a_connection_joins_or_is_reinstated(cids: set[int], maximum: int, cid: int) -> None:
    host = joining(cids, maximum=maximum, cid=cid)
    host.send(SECURITY, names(), nsg=OPERATIONAL)
    answer = host.send(OPERATIONAL, {"HeaderDigest": "CRC32C"}, nsg=FULL)
    assert (answer.tsih, answer.exp_cmd_sn, answer.max_cmd_sn) == (5, 900, 931)
    done = host.complete()
    assert (done.identity.tsih, done.exp_cmd_sn) == (5, 900)
    assert done.parameters.header_digest


def test_a_session_that_ends_during_the_login() -> None:
    host = joining({1})
    assert host.send(SECURITY, names(), nsg=OPERATIONAL).transit
    host.policy.sessions.clear()
    host.send(OPERATIONAL, {}, nsg=FULL)
    assert host.failed() is LoginStatus.SESSION_DOES_NOT_EXIST
    assert host.policy.established == []


def test_leading_keys_are_refused_on_a_further_connection() -> None:
    host = joining({1})
    host.send(OPERATIONAL, names(MaxBurstLength="65536"), nsg=FULL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


# --- numbers -------------------------------------------------------------------------------------


def test_every_response_takes_a_stat_sn_and_none_a_cmd_sn() -> None:
    host = Initiator(stat_sn=0xFFFFFFFF, cmd_sn=77)
    first = host.send(SECURITY, names(), nsg=OPERATIONAL)
    second = host.send(OPERATIONAL, {"InitialR2T": "No"})
    last = host.send(OPERATIONAL, {}, nsg=FULL)
    assert [first.stat_sn, second.stat_sn, last.stat_sn] == [0xFFFFFFFF, 0, 1]
    assert {answer.exp_cmd_sn for answer in host.responses} == {77}
    assert last.max_cmd_sn == 77 + 31
    done = host.complete()
    assert (done.stat_sn, done.exp_cmd_sn, done.max_cmd_sn) == (2, 77, 108)
    assert host.login.stat_sn == 2


def test_the_task_tag_of_each_request_is_answered() -> None:
    host = Initiator()
    assert host.send(SECURITY, names(), initiator_task_tag=3).initiator_task_tag == 3
    assert host.send(SECURITY, {}, nsg=FULL, initiator_task_tag=4).initiator_task_tag == 4


def test_establish_is_asked_once_and_last() -> None:
    policy = FakePolicy()
    host = Initiator(policy, cmd_sn=55)
    host.send(SECURITY, names(), nsg=OPERATIONAL)
    assert policy.established == []
    host.send(OPERATIONAL, {"InitiatorAlias": "a host"}, nsg=FULL)
    ((identity, parameters, exp_cmd_sn),) = policy.established
    done = host.complete()
    assert (identity, parameters, exp_cmd_sn) == (done.identity, done.parameters, 55)
    assert identity.initiator_alias == "a host"


# --- continuation --------------------------------------------------------------------------------


def test_a_request_in_pieces() -> None:
    host = Initiator()
    raw = text.encode(names(InitialR2T="No").items())
    for at in range(0, len(raw) - 10, 10):
        answer = host.send(OPERATIONAL, raw[at : at + 10], continued=True)
        assert (answer.data, answer.transit, answer.continued) == (b"", False, False)
        done = at + 10
    host.send(OPERATIONAL, raw[done:], nsg=FULL)
    assert not host.complete().parameters.initial_r2t


def test_t_and_c_exclude_each_other() -> None:
    host = Initiator()
    host.send(OPERATIONAL, names(), nsg=FULL, continued=True)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def many(count: int = 120) -> list[tuple[str, str]]:
    return [*names().items(), *((f"X-{n:03}." + "k" * 57, "v") for n in range(count))]


def test_a_long_answer_in_pieces() -> None:
    """120 unknown keys are answered by more than 8192 bytes."""
    host = Initiator()
    raw = text.encode(many())
    assert len(raw) <= limits.LOGIN_DATA_SEGMENT_BYTES_MAX
    answer = host.send(OPERATIONAL, raw, nsg=FULL)
    assert (answer.continued, answer.transit) == (True, False)
    assert len(answer.data) <= limits.LOGIN_DATA_SEGMENT_BYTES_MAX
    got = bytes(answer.data)
    assert host.login.outcome is None
    answer = host.send(OPERATIONAL, b"", nsg=FULL)
    assert (answer.continued, answer.transit) == (False, True)
    found = dict(text.decode(got + bytes(answer.data)))
    assert sum(value == "NotUnderstood" for value in found.values()) == 120
    host.complete()


def test_text_while_our_answer_is_being_fetched() -> None:
    host = Initiator()
    host.send(OPERATIONAL, many())
    host.send(OPERATIONAL, {"InitialR2T": "No"}, nsg=FULL)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def test_a_login_does_not_go_on_for_ever() -> None:
    host = Initiator()
    host.send(OPERATIONAL, names())
    for _ in range(limits.LOGIN_PDUS_MAX - 1):
        host.send(OPERATIONAL, {})
    assert host.login.outcome is None
    host.send(OPERATIONAL, {})
    assert host.failed() is LoginStatus.INITIATOR_ERROR


def test_text_is_bounded() -> None:
    host = Initiator()
    host.send(OPERATIONAL, b"x" * (limits.LOGIN_DATA_SEGMENT_BYTES_MAX + 1), continued=True)
    assert host.failed() is LoginStatus.INITIATOR_ERROR
    host = Initiator()
    for _ in range(limits.TEXT_REQUEST_BYTES_MAX // limits.LOGIN_DATA_SEGMENT_BYTES_MAX):
        host.send(OPERATIONAL, b"x" * limits.LOGIN_DATA_SEGMENT_BYTES_MAX, continued=True)
    host.send(OPERATIONAL, b"x", continued=True)
    assert host.failed() is LoginStatus.INITIATOR_ERROR


# --- properties ----------------------------------------------------------------------------------

values = st.one_of(
    st.sampled_from(
        ["Yes", "No", "None", "CHAP", "CRC32C", "5,7", "0", "8192", "Discovery", "0x1"]
    ),
    st.sampled_from([TARGET, INITIATOR, "bob", "Reject"]),
    st.text(max_size=10),
)
some_keys = st.lists(st.tuples(st.sampled_from([*KEYS, "X-a"]), values), max_size=6)
requests = st.builds(
    LoginRequest,
    isid=st.just(ISID),
    tsih=st.sampled_from([0, 0, 0, 5]),
    initiator_task_tag=st.just(1),
    cid=st.just(1),
    cmd_sn=st.integers(0, 0xFFFFFFFF),
    exp_stat_sn=st.just(0),
    csg=st.integers(0, 3),
    nsg=st.integers(0, 3),
    transit=st.booleans(),
    continued=st.booleans(),
    version_min=st.sampled_from([0, 0, 0, 1]),
    data=st.one_of(
        some_keys.map(text.encode),
        some_keys.map(lambda keys: text.encode([*names().items(), *keys])),
        st.binary(max_size=50),
    ),
)


@given(st.lists(requests, min_size=1, max_size=6), st.booleans())
@settings(max_examples=400)
def test_any_requests_end_in_a_response_each_and_never_get_past_chap(
    sent: list[LoginRequest], guarded: bool
) -> None:
    policy = FakePolicy(
        chap=CHAP if guarded else None,
        chap_discovery=CHAP if guarded else None,
    )
    host = Initiator(policy)
    for request in sent:
        (answer,) = host.login.receive(request)
        assert len(answer.data) <= limits.LOGIN_DATA_SEGMENT_BYTES_MAX
        assert not (answer.transit and answer.continued)
        if host.login.outcome is not None:
            break
    if guarded:
        assert not isinstance(host.login.outcome, LoginComplete)
        assert policy.established == []
