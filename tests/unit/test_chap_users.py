"""CHAP users of the catalog: what is taken, whose secret counts, and that none is shown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from target.chap_users import UserInfo, UserRecord, UserSecret, policy_of
from target.datadir import DataDir
from target.iscsi.chap import ChapPolicy, Secret
from target.shared_catalog import Catalog
from target.user_changes import MutualChanges, UserChanges
from target.volume_errors import VolumeError
from tests.support.wire import Wire, wire

ONE, TWO, OURS = "zebrazebrazebra", "giraffegiraffe", "elephantelephant"
LOG = structlog.get_logger()
Changing = tuple[Wire, UserChanges, MutualChanges]


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
    assert policy_of(None, (), (), LOG) is None


def test_a_configured_user_goes_first_and_our_own_secret_lets_nobody_in() -> None:
    configured = ChapPolicy({"alice": Secret(ONE)}, ("target", Secret(OURS)))
    users = [
        UserRecord(name=name, secret=secret)
        for name, secret in (("alice", TWO), ("bob", TWO), ("carol", OURS))
    ]
    policy = policy_of(configured, users, (), LOG)
    assert policy is not None
    assert policy.users == {"alice": Secret(ONE), "bob": Secret(TWO)}
    assert policy.mutual == configured.mutual


def test_the_catalogs_mutual_chap_gives_way_to_what_is_configured() -> None:
    kept = (UserSecret(name="san", secret=OURS),)
    users = [UserRecord(name="alice", secret=ONE), UserRecord(name="carol", secret=OURS)]
    policy = policy_of(None, users, kept, LOG)
    assert policy is not None
    assert policy.mutual == ("san", Secret(OURS))
    assert set(policy.users) == {"alice"}, "a secret of ours lets nobody in"
    mine = ChapPolicy({"bob": Secret(ONE)}, ("it", Secret(TWO)))
    policy = policy_of(mine, (), kept, LOG)
    assert policy is not None
    assert policy.mutual == mine.mutual
    with structlog.testing.capture_logs() as lines:
        policy = policy_of(ChapPolicy({"bob": Secret(OURS)}), (), kept, LOG)
    assert policy is not None
    assert (policy.mutual, set(policy.users)) == (None, {"bob"})
    assert [line["log_level"] for line in lines] == ["error"]
    assert policy_of(None, (), kept, LOG) is None


@contextlib.contextmanager
def changing(folder: Path, configured: ChapPolicy | None = None) -> Iterator[Changing]:
    data = DataDir(folder)
    with wire() as w:
        users = UserChanges(data, w.target, configured, None, LOG)
        yield w, users, MutualChanges(data, users, None, LOG)
    data.close()


def test_a_user_made_again_is_another_even_if_both_are_heard_at_once(tmp_path: Path) -> None:
    """What a node follows that was busy meanwhile."""
    alice = UserRecord(name="alice", secret=ONE, id="a")
    with changing(tmp_path) as (w, users, _):

        def follow(user: UserRecord) -> None:
            users._data.keep_part("users", (user,))
            users.apply((user,), lambda: None)

        follow(alice)
        session = w.initiator()
        session.login(chap=("alice", ONE))
        follow(msgspec.structs.replace(alice, secret=TWO))
        assert not session.is_closed(), "another secret"
        follow(msgspec.structs.replace(alice, id="b"))
        assert session.is_closed(), "another user"
        w.initiator().login(chap=("alice", ONE))


def test_what_secrets_may_not_be(tmp_path: Path) -> None:
    async def story(users: UserChanges, mutual: MutualChanges) -> None:
        ours = UserSecret(name="san", secret=OURS)
        with pytest.raises(VolumeError, match="no CHAP user"):
            await mutual.put(ours)
        await users.create(UserSecret(name="alice", secret=ONE))
        with pytest.raises(ValueError, match="must differ"):
            await mutual.put(UserSecret(name="san", secret=ONE))
        assert await mutual.put(ours) == users.mutual
        for change in (users.create, users.set_secret):
            with pytest.raises(ValueError, match="must differ"):
                await change(UserSecret(name="bob", secret=OURS))
        with pytest.raises(VolumeError, match="no user 'bob'"):
            await users.set_secret(UserSecret(name="bob", secret=TWO))
        with pytest.raises(ValueError, match="12 to 255 bytes"):
            await users.set_secret(UserSecret(name="alice", secret="short"))
        assert sorted(users.secrets) == sorted([ONE, OURS]), "to be struck out of reports"
        await mutual.delete()
        assert not users.mutual
        with pytest.raises(VolumeError, match="no mutual CHAP"):
            await mutual.delete()

    with changing(tmp_path) as (_, users, mutual):
        asyncio.run(story(users, mutual))


def test_what_is_configured_is_not_changed(tmp_path: Path) -> None:
    async def story(users: UserChanges, mutual: MutualChanges) -> None:
        assert users.mutual == UserInfo(name="it", source="configuration")
        with pytest.raises(VolumeError, match="configured here"):
            await mutual.put(UserSecret(name="san", secret=OURS))
        with pytest.raises(VolumeError, match="configured here"):
            await users.set_secret(UserSecret(name="alice", secret=OURS))
        with pytest.raises(ValueError, match="must differ"):
            await users.create(UserSecret(name="bob", secret=TWO))

    configured = ChapPolicy({"alice": Secret(ONE)}, ("it", Secret(TWO)))
    with changing(tmp_path, configured) as (_, users, mutual):
        asyncio.run(story(users, mutual))


def test_a_document_of_a_version_without_users() -> None:
    old = b'{"id":"a","volumes":{},"access":[{"initiator":"iqn.x","user":"","volumes":{}}]}'
    assert msgspec.json.decode(old, type=Catalog).users is None
