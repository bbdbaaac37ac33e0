"""CHAP users that come and go while initiators are logged in, or about to be."""

from __future__ import annotations

import pytest

from target.iscsi.chap import ChapPolicy, Secret
from tests.support.initiator import FULL_FEATURE, OPERATIONAL, LoginRefused
from tests.support.wire import TARGET, Wire, wire

ALICE, BOB = ("alice", "alice-knows-it"), ("bob", "bob-knows-it-too")
OTHER_BOB = ("bob", "something-else")
AUTHENTICATION_FAILURE = (2, 1)


def policy(*users: tuple[str, str]) -> ChapPolicy:
    return ChapPolicy({name: Secret(secret) for name, secret in users})


def users_of(w: Wire) -> list[str | None]:
    return sorted((s.user for s in w.target.sessions.values()), key=str)


def test_whose_proof_does_not_stand_is_logged_out() -> None:
    in_force: list[int] = []
    with wire(chap=policy(ALICE, BOB)) as w:
        for number, chap in enumerate((ALICE, BOB)):
            w.initiator(name=f"iqn.x:{number}").login(chap=chap)
        w.target.set_chap(policy(ALICE, OTHER_BOB), lambda: in_force.append(0))
        assert users_of(w) == ["alice", "bob"], "who has proved it once has"
        with pytest.raises(LoginRefused):
            w.initiator(name="iqn.x:3").login(chap=BOB)
        w.target.set_chap(policy(ALICE, BOB), lambda: in_force.append(1), {"bob"})
        assert users_of(w) == ["alice"], "another user of the same name"
        w.target.set_chap(None, lambda: in_force.append(2))
        assert users_of(w) == []
        w.initiator(name="iqn.x:2").login()
        w.target.set_chap(policy(BOB), lambda: in_force.append(3))
        assert users_of(w) == []
    assert in_force == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("then", "made_anew", "stands"),
    [
        pytest.param([policy(ALICE)], "", False, id="gone"),
        pytest.param([policy(ALICE), policy(ALICE, OTHER_BOB)], "bob", False, id="another"),
        pytest.param([policy(ALICE, OTHER_BOB)], "", False, id="another secret"),
        pytest.param([None], "", False, id="nobody"),
        pytest.param([policy(BOB)], "", True, id="others"),
    ],
)
def test_a_login_that_has_begun_goes_by_the_users_that_there_are(
    then: list[ChapPolicy | None], made_anew: str, stands: bool
) -> None:
    with wire(chap=policy(ALICE, BOB)) as w:
        session = w.initiator()
        opening = {"InitiatorName": session.name, "TargetName": TARGET}
        session._authenticate(opening, BOB, None, "5")
        for chap in then:
            w.target.set_chap(chap, lambda: None, {made_anew})
        if stands:
            session.login_exchange(OPERATIONAL, {}, FULL_FEATURE)
            assert users_of(w) == ["bob"]
        else:
            with pytest.raises(LoginRefused) as refused:
                session.login_exchange(OPERATIONAL, {}, FULL_FEATURE)
            assert refused.value.status == AUTHENTICATION_FAILURE


def test_a_login_that_has_proved_nothing_is_refused_once_proof_is_asked_for() -> None:
    with wire() as w:
        session = w.initiator()
        opening = {"InitiatorName": session.name, "TargetName": TARGET}
        session.login_exchange(OPERATIONAL, opening)
        w.target.set_chap(policy(BOB), lambda: None)
        with pytest.raises(LoginRefused) as refused:
            session.login_exchange(OPERATIONAL, {}, FULL_FEATURE)
        assert refused.value.status == AUTHENTICATION_FAILURE
