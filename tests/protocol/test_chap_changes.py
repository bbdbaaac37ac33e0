"""CHAP users that come and go while initiators are logged in, or about to be."""

from __future__ import annotations

import pytest

from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.constants import LoginStatus
from target.iscsi.errors import LoginRefused
from target.iscsi.login_policy import LoginIdentity
from target.iscsi.parameters import SessionParameters
from tests.support.initiator import LoginRefused as LoginFailed
from tests.support.wire import TARGET, Wire, wire

ALICE, BOB = ("alice", "alice-knows-it"), ("bob", "bob-knows-it-too")
OTHER_BOB = ("bob", "something-else")


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
        with pytest.raises(LoginFailed):
            w.initiator(name="iqn.x:3").login(chap=BOB)
        w.target.set_chap(policy(ALICE, BOB), lambda: in_force.append(1), {"bob"})
        assert users_of(w) == ["alice"], "another user of the same name"
        w.target.set_chap(None, lambda: in_force.append(2))
        assert users_of(w) == []
        w.initiator(name="iqn.x:2").login()
        w.target.set_chap(policy(BOB), lambda: in_force.append(3))
        assert users_of(w) == []
    assert in_force == [0, 1, 2, 3]


def test_a_user_that_goes_during_its_login_is_refused() -> None:
    with wire(chap=policy(ALICE, BOB)) as w:
        w.target.set_chap(policy(BOB), lambda: None)
        identity = LoginIdentity(
            initiator="iqn.x:0", target=TARGET, isid=bytes(6), tsih=0, cid=0, user="alice"
        )
        with pytest.raises(LoginRefused) as refused:
            w.target.attach(identity, SessionParameters(), 1, None)  # type: ignore[arg-type]
        assert refused.value.status is LoginStatus.AUTHENTICATION_FAILURE
