"""``lunmesh user``, on a node alone and on two: who may log in, and that no secret is shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected
from tests.support.logins import IQN, may_log_in
from tests.support.lunmesh_server import LunmeshServer
from tests.support.node_cluster import NodeCluster
from tests.support.tools import run_tool
from tests.support.volume_command import VolumeCommand

SECRET, OTHER_SECRET, OUR_SECRET = "zebrazebrazebra", "giraffegiraffe", "elephantelephant"


def users(node: LunmeshServer) -> VolumeCommand:
    return VolumeCommand(
        node, "user", {"A_SECRET": SECRET, "OTHER_SECRET": OTHER_SECRET, "OUR_SECRET": OUR_SECRET}
    )


def said(user: VolumeCommand, *arguments: str, status: int = 0) -> str:
    """What a command prints, in which there is no secret."""
    done = user.run(*arguments)
    assert done.status == status, done.error
    text = done.out + done.error
    assert SECRET not in text
    assert OTHER_SECRET not in text
    assert OUR_SECRET not in text
    return text


def test_a_node_alone(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["a=16M"]) as node:
        user = users(node)
        assert "not asked for" in said(user, "list")
        with Initiator(node.host, node.port, target=IQN) as unproved:
            unproved.login()
            said(user, "create", "alice", "--secret-env", "A_SECRET")
            with pytest.raises(Disconnected):
                unproved.command(cdb.TEST_UNIT_READY)
        assert not may_log_in(node)
        assert not may_log_in(node, chap=("alice", OTHER_SECRET))
        assert may_log_in(node, chap=("alice", SECRET))
        url = f"iscsi://alice%{SECRET}@{node.host}:{node.port}/{IQN}/0"
        run_tool(["iscsi-inq", url])
        (tmp_path / "secret").write_text(OTHER_SECRET + "\n")
        said(user, "create", "bob", "--secret-file", str(tmp_path / "secret"))
        listed = json.loads(said(user, "list", "--json"))
        assert listed == {"users": ["alice", "bob"], "configured": []}
        assert "already" in said(user, "create", "bob", "--secret-env", "A_SECRET", status=1)
        carol = ("carol", "--secret-env", "A_SECRET", "--json")
        assert json.loads(said(user, "create", *carol)) == {"name": "carol", "source": "catalog"}
        problem = json.loads(said(user, "create", *carol, status=1))
        assert (problem["title"], problem["status"]) == ("Conflict", 409)
        assert json.loads(said(user, "delete", "carol", "--json")) == {"deleted": "carol"}
        said(user, "create", "carol", SECRET, status=2)
        catalogs = list(tmp_path.rglob("catalog.json"))
        assert [stat.S_IMODE(file.stat().st_mode) for file in catalogs] == [0o600]
        node.restart()
        with Initiator(node.host, node.port, target=IQN) as bob:
            bob.login(chap=("bob", OTHER_SECRET))
            said(user, "delete", "alice")
            assert not may_log_in(node, chap=("alice", SECRET))
            bob.command(cdb.TEST_UNIT_READY)  # whose proof stands stays
            assert "last user" in said(user, "delete", "bob", status=1)
            said(user, "delete", "bob", "--everybody")
            with pytest.raises(Disconnected):
                bob.command(cdb.TEST_UNIT_READY)
        assert may_log_in(node)
    logs = [f for f in tmp_path.rglob("*") if f.is_file() and "log" in f.name]
    for file in logs:
        text = file.read_text(errors="replace")
        assert SECRET not in text, file
        assert OTHER_SECRET not in text, file
    assert any("/v1/users" in file.read_text(errors="replace") for file in logs)


def test_another_secret_and_mutual_chap_on_two_nodes(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        user = users(one)
        assert "no CHAP user" in said(
            user, "mutual", "set", "san", "--secret-env", "OUR_SECRET", status=1
        )
        said(user, "create", "alice", "--secret-env", "A_SECRET")
        with Initiator(other.host, other.port, target=IQN) as alice:
            alice.login(chap=("alice", SECRET))
            said(user, "change", "alice", "--secret-env", "OTHER_SECRET")
            assert not may_log_in(other, chap=("alice", SECRET))
            assert may_log_in(other, chap=("alice", OTHER_SECRET))
            while alice.command(cdb.TEST_UNIT_READY).status:
                pass  # it is still logged in
            mutual = ("mutual", "set", "san", "--secret-env", "OUR_SECRET", "--json")
            assert json.loads(said(user, *mutual)) == {"name": "san", "source": "catalog"}
            alice.command(cdb.TEST_UNIT_READY)
        for node in cluster.nodes:
            with Initiator(node.host, node.port, target=IQN, name="iqn.x:m") as proves:
                proves.login(chap=("alice", OTHER_SECRET), mutual=("san", OUR_SECRET))
        other.restart()
        with Initiator(other.host, other.port, target=IQN, name="iqn.x:m") as proves:
            proves.login(chap=("alice", OTHER_SECRET), mutual=("san", OUR_SECRET))
        assert "san  catalog" in said(users(other), "mutual", "show")
        said(user, "mutual", "delete")
        with (
            Initiator(other.host, other.port, target=IQN, name="iqn.x:m") as proves,
            pytest.raises(LoginRefused),
        ):
            proves.login(chap=("alice", OTHER_SECRET), mutual=("san", OUR_SECRET))
    shown = [f.read_text(errors="replace") for f in tmp_path.rglob("*.log")]
    assert any("/v1/mutual-chap" in text for text in shown)
    for secret in (SECRET, OTHER_SECRET, OUR_SECRET):
        assert not any(secret in text for text in shown)


@pytest.mark.slow
def test_two_nodes_and_one_that_is_away(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        user = users(one)
        said(user, "create", "alice", "--secret-env", "A_SECRET")
        assert not may_log_in(other), "in force everywhere when it is answered"
        with Initiator(other.host, other.port, target=IQN) as alice:
            alice.login(chap=("alice", SECRET))
            assert other.stop() == 0
        said(user, "create", "bob", "--secret-env", "OTHER_SECRET")
        said(user, "delete", "alice")
        other.start()
        assert may_log_in(other, chap=("bob", OTHER_SECRET))
        assert not may_log_in(other, chap=("alice", SECRET)), "it was away, and is right at once"
        with Initiator(other.host, other.port, target=IQN) as bob:
            bob.login(chap=("bob", OTHER_SECRET))
            said(user, "delete", "bob", "--everybody")
            with pytest.raises(Disconnected):
                bob.command(cdb.TEST_UNIT_READY)
        assert may_log_in(other)
