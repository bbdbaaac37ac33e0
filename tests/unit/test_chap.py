"""CHAP: the exchange, its refusals, and what must never be seen."""

from __future__ import annotations

import copy
import hashlib
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.iscsi import text
from target.iscsi.authentication import SecurityStage
from target.iscsi.chap import (
    ALGORITHMS,
    ChapPolicy,
    ChapServer,
    Secret,
    platform_algorithms,
    respond,
    usable,
)
from target.iscsi.constants import LoginStatus
from target.iscsi.errors import ChapError, ConfigurationError, LoginRefused, ProtocolViolation
from tests.support.iscsi_login import counted_random

ALICE, BOB, OURS = "alice's secret", "bob's secret 2", "the target's own"
USERS = {"alice": Secret(ALICE), "bob": Secret(BOB)}
ONE_WAY = ChapPolicy(USERS)
MUTUAL = ChapPolicy(USERS, ("target", Secret(OURS)))


def server(policy: ChapPolicy = ONE_WAY) -> ChapServer:
    return ChapServer(policy, counted_random, ALGORITHMS)


def challenged(chap: ChapServer, algorithms: str = "5") -> dict[str, str]:
    return dict(chap.receive([("CHAP_A", algorithms)]))


def response(challenge: dict[str, str], secret: str) -> str:
    """The initiator's side, written down once more (RFC 1994 4.1)."""
    digest = hashlib.new(ALGORITHMS[int(challenge["CHAP_A"])])
    digest.update(bytes([int(challenge["CHAP_I"])]))
    digest.update(secret.encode())
    digest.update(bytes.fromhex(challenge["CHAP_C"][2:]))
    return "0x" + digest.hexdigest()


@pytest.mark.parametrize("number", sorted(ALGORITHMS))
def test_one_way_with_each_algorithm(number: int) -> None:
    chap = server()
    challenge = challenged(chap, str(number))
    assert challenge["CHAP_A"] == str(number)
    size = hashlib.new(ALGORITHMS[number]).digest_size
    assert len(text.binary(challenge["CHAP_C"], 1024)) >= size
    assert chap.receive([("CHAP_N", "bob"), ("CHAP_R", response(challenge, BOB))]) == []
    assert (chap.done, chap.user) == (True, "bob")


@pytest.mark.parametrize("number", sorted(ALGORITHMS))
def test_mutual_with_each_algorithm(number: int) -> None:
    chap = server(MUTUAL)
    challenge = challenged(chap, str(number))
    theirs = {"CHAP_A": str(number), "CHAP_I": "9", "CHAP_C": "0x" + "5a" * 24}
    answer = chap.receive(
        [
            ("CHAP_N", "alice"),
            ("CHAP_R", response(challenge, ALICE)),
            ("CHAP_I", theirs["CHAP_I"]),
            ("CHAP_C", theirs["CHAP_C"]),
        ]
    )
    assert answer == [("CHAP_N", "target"), ("CHAP_R", response(theirs, OURS))]
    assert chap.user == "alice"


def test_known_answers() -> None:
    """Over 01h, "secret", 00h..0Fh; computed with md5sum and openssl."""
    message = (1, b"secret", bytes(range(16)))
    assert respond("md5", *message).hex() == "740e86463bda3a4d7017d6e0fba0699d"
    assert respond("sha3_256", *message).hex() == (
        "bdceca071be509f41acf88309bb6d12e51526c23a2d18f22c2bb8ed199c36fd8"
    )


@pytest.mark.parametrize(
    ("offer", "chosen"),
    [("5", "5"), ("7,5", "7"), ("99,8,7,5", "8"), ("6,5", "6"), ("0x7", "7")],
)
def test_the_first_algorithm_of_the_list_that_we_have_wins(offer: str, chosen: str) -> None:
    assert challenged(server(), offer)["CHAP_A"] == chosen


def test_no_algorithm_in_common() -> None:
    with pytest.raises(LoginRefused) as caught:
        challenged(server(), "1,2,99")
    assert caught.value.status is LoginStatus.AUTHENTICATION_FAILURE


def test_without_md5_the_others_are_offered_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fips(name: str) -> object:
        if name == "md5":
            raise ValueError("disabled for FIPS")
        return hashlib.new(name)

    with caplog.at_level(logging.WARNING):
        able = usable(fips)
    assert sorted(able) == [6, 7, 8]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "md5" in caplog.text
    chap = ChapServer(ONE_WAY, counted_random, able)
    assert challenged(chap, "5,7")["CHAP_A"] == "7"


def test_the_platform_is_asked_once() -> None:
    assert platform_algorithms() is platform_algorithms()
    assert set(platform_algorithms()) <= set(ALGORITHMS)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "secret"), [("bob", ALICE), ("mallory", BOB), ("alice", "")])
def test_a_wrong_name_or_secret(name: str, secret: str) -> None:
    chap = server()
    answer = response(challenged(chap), secret)
    with pytest.raises(LoginRefused) as caught:
        chap.receive([("CHAP_N", name), ("CHAP_R", answer)])
    assert caught.value.status is LoginStatus.AUTHENTICATION_FAILURE
    assert not chap.done


def test_an_unknown_name_cannot_use_the_stand_in_secret() -> None:
    chap = server()
    answer = response(challenged(chap), "\0" * 16)
    with pytest.raises(LoginRefused):
        chap.receive([("CHAP_N", "nobody"), ("CHAP_R", answer)])


def mutual(chap: ChapServer, proof: str, identifier: str, challenge: str) -> text.Pairs:
    return chap.receive(
        [("CHAP_N", "bob"), ("CHAP_R", proof), ("CHAP_I", identifier), ("CHAP_C", challenge)]
    )


def test_our_own_challenge_back_is_refused() -> None:
    chap = server(MUTUAL)
    challenge = challenged(chap)
    with pytest.raises(LoginRefused, match="reflected"):
        mutual(chap, response(challenge, BOB), "77", challenge["CHAP_C"])
    assert not chap.done


def test_who_cannot_prove_its_name_gets_no_response_of_ours() -> None:
    chap = server(MUTUAL)
    challenged(chap)
    with pytest.raises(LoginRefused, match="wrong name or secret"):
        mutual(chap, "0x" + "00" * 16, "77", "0x" + "11" * 16)


def test_mutual_authentication_that_is_not_configured_is_refused() -> None:
    chap = server(ONE_WAY)
    challenge = challenged(chap)
    with pytest.raises(LoginRefused) as caught:
        mutual(chap, response(challenge, BOB), "77", "0x" + "11" * 16)
    assert caught.value.status is LoginStatus.AUTHENTICATION_FAILURE
    assert not chap.done


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("CHAP_N", "bob")],
        [("CHAP_R", "0x00")],
        [("CHAP_N", "bob"), ("CHAP_R", "0x00"), ("CHAP_I", "1")],
        [("CHAP_A", "5")],
        [("CHAP_N", "bob"), ("CHAP_N", "bob")],
        [("CHAP_N", "x" * 1025), ("CHAP_R", "0x00")],
        [("CHAP_N", "bob"), ("CHAP_R", "junk")],
        [("CHAP_N", "bob"), ("CHAP_R", "0x" + "00" * 1025)],
        [("CHAP_N", "bob"), ("CHAP_R", "0x00"), ("CHAP_I", "256"), ("CHAP_C", "0x00")],
        [("CHAP_N", "bob"), ("CHAP_R", "0x00"), ("CHAP_I", "1"), ("CHAP_C", "0x" + "1" * 2050)],
    ],
)
def test_steps_out_of_order_or_malformed(pairs: text.Pairs) -> None:
    chap = server(MUTUAL)
    challenged(chap)
    with pytest.raises(ProtocolViolation):
        chap.receive(pairs)
    assert not chap.done


def test_a_response_before_the_challenge() -> None:
    with pytest.raises(ChapError):
        server().receive([("CHAP_N", "bob"), ("CHAP_R", "0x00")])
    with pytest.raises(ChapError):
        mutual(server(MUTUAL), "0x00", "1", "0x00")


def test_a_key_twice() -> None:
    with pytest.raises(ChapError):
        server().receive([("CHAP_A", "5"), ("CHAP_A", "7")])


def test_a_second_proof_is_refused() -> None:
    chap = server()
    proof = [("CHAP_N", "bob"), ("CHAP_R", response(challenged(chap), BOB))]
    chap.receive(proof)
    with pytest.raises(ChapError):
        chap.receive(proof)


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]),
                st.one_of(st.text(max_size=40), st.sampled_from(["5", "bob", "0x00", "1"])),
            ),
            max_size=5,
        ),
        max_size=4,
    )
)
def test_nothing_but_a_proof_opens_the_door(steps: list[text.Pairs]) -> None:
    chap = server(MUTUAL)
    try:
        for step in steps:
            chap.receive(step)
    except (ProtocolViolation, LoginRefused):
        pass
    assert not chap.done


# --- the security stage --------------------------------------------------------------------------


def test_auth_method_is_what_the_policy_says() -> None:
    open_stage = SecurityStage(None, counted_random)
    assert open_stage.receive([("AuthMethod", "CHAP,None")], transit=True) == [
        ("AuthMethod", "None")
    ]
    assert open_stage.done
    closed = SecurityStage(ONE_WAY, counted_random)
    assert closed.receive([("AuthMethod", "None,CHAP")], transit=True) == [("AuthMethod", "CHAP")]
    assert not closed.done


@pytest.mark.parametrize(
    ("policy", "offer"), [(None, "CHAP"), (None, "KRB5"), (ONE_WAY, "None"), (ONE_WAY, "SRP,None")]
)
def test_an_auth_method_that_does_not_do(policy: ChapPolicy | None, offer: str) -> None:
    with pytest.raises(LoginRefused) as caught:
        SecurityStage(policy, counted_random).receive([("AuthMethod", offer)], transit=False)
    assert caught.value.status is LoginStatus.AUTHENTICATION_FAILURE


def test_leaving_without_an_auth_method_is_refused_where_chap_is_demanded() -> None:
    with pytest.raises(LoginRefused):
        SecurityStage(ONE_WAY, counted_random).receive([], transit=True)
    assert SecurityStage(ONE_WAY, counted_random).receive([], transit=False) == []


@pytest.mark.parametrize("policy", [None, ONE_WAY])
def test_chap_keys_need_auth_method_chap(policy: ChapPolicy | None) -> None:
    with pytest.raises(ProtocolViolation):
        SecurityStage(policy, counted_random).receive([("CHAP_A", "5")], transit=False)


def test_auth_method_twice() -> None:
    stage = SecurityStage(None, counted_random)
    stage.receive([("AuthMethod", "None")], transit=False)
    with pytest.raises(ProtocolViolation):
        stage.receive([("AuthMethod", "None")], transit=False)


# --- secrets -------------------------------------------------------------------------------------


def test_a_secret_is_not_shown() -> None:
    secret = Secret("do not print me")
    policy = ChapPolicy({"u": secret}, ("t", Secret("nor me, never")))
    shown = f"{secret} {secret!r} {policy} {[secret]} {secret.__reduce_ex__}"
    assert "print me" not in shown
    assert "nor me" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)


def test_secrets_are_equal_by_value() -> None:
    assert Secret("abc") == Secret(b"abc")
    assert Secret("abc") != Secret("abd")
    assert Secret("abc") != "abc"
    assert len({Secret("abc"), Secret("abc")}) == 1


def test_a_short_secret_is_warned_about_without_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        ChapPolicy({"dave": Secret("11 bytes!!!")})
    assert "dave" in caplog.text
    assert "bytes!!!" not in caplog.text
    caplog.clear()
    ChapPolicy({"dave": Secret("12 bytes!!!!")})
    assert not caplog.records


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        Secret("")
    with pytest.raises(ConfigurationError, match="no user"):
        ChapPolicy({})
    with pytest.raises(ConfigurationError, match="also the secret of a user"):
        ChapPolicy(USERS, ("target", Secret(BOB)))
    for name in ("", "x" * 1025, "a\0b"):
        with pytest.raises(ConfigurationError, match="name"):
            ChapPolicy({name: Secret(BOB)})
