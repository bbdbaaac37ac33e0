"""CHAP users of the catalog: what is taken, whose secret counts, and that none is shown."""

from __future__ import annotations

import msgspec
import pytest
import structlog

from target.chap_users import UserRecord, policy_of
from target.iscsi.chap import ChapPolicy, Secret
from target.shared_catalog import Catalog

ONE, TWO, OURS = "zebrazebrazebra", "giraffegiraffe", "elephantelephant"
LOG = structlog.get_logger()


def test_a_secret_does_not_show() -> None:
    assert ONE not in repr((UserRecord(name="alice", secret=ONE),))


@pytest.mark.parametrize(
    ("name", "secret"),
    [("", ONE), ("a:b", ONE), ("a\n", ONE), ("a" * 256, ONE), ("alice", "zebra"), ("alice", "")],
)
def test_what_is_refused_is_not_shown(name: str, secret: str) -> None:
    with pytest.raises(ValueError, match="bad CHAP") as refused:
        UserRecord(name=name, secret=secret).checked()
    assert not secret or secret not in str(refused.value)


def test_without_users_no_proof_is_asked_for() -> None:
    assert policy_of(None, (), LOG) is None


def test_a_configured_user_goes_first_and_our_own_secret_lets_nobody_in() -> None:
    configured = ChapPolicy({"alice": Secret(ONE)}, ("target", Secret(OURS)))
    users = [
        UserRecord(name=name, secret=secret)
        for name, secret in (("alice", TWO), ("bob", TWO), ("carol", OURS))
    ]
    policy = policy_of(configured, users, LOG)
    assert policy is not None
    assert policy.users == {"alice": Secret(ONE), "bob": Secret(TWO)}
    assert policy.mutual == configured.mutual


def test_a_document_of_a_version_without_users() -> None:
    old = b'{"id":"a","volumes":{},"access":[{"initiator":"iqn.x","user":"","volumes":{}}]}'
    assert msgspec.json.decode(old, type=Catalog).users is None
