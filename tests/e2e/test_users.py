"""``lunmesh user``, on a node alone and on two: who may log in, and that no secret is shown."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected
from tests.support.lunmesh_server import LunmeshServer
from tests.support.node_cluster import NodeCluster

IQN = "iqn.2026-11.io.lunmesh:target"
SECRET, OTHER_SECRET = "zebrazebrazebra", "giraffegiraffe"


def user(node: LunmeshServer, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "target.cli", "user", *arguments, "--admin", node.admin],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "A_SECRET": SECRET, "OTHER_SECRET": OTHER_SECRET},
    )
    assert done.returncode == status, done.stderr
    said = done.stdout + done.stderr
    assert SECRET not in said
    assert OTHER_SECRET not in said
    return said


def may_log_in(node: LunmeshServer, chap: tuple[str, str] | None) -> bool:
    with Initiator(node.host, node.port, target=IQN) as initiator:
        try:
            initiator.login(chap=chap)
        except LoginRefused:
            return False
        return True


def test_a_node_alone(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["a=16M"]) as node:
        assert "not asked for" in user(node, "list")
        with Initiator(node.host, node.port, target=IQN) as unproved:
            unproved.login()
            user(node, "create", "alice", "--secret-env", "A_SECRET")
            with pytest.raises(Disconnected):
                unproved.command(cdb.TEST_UNIT_READY)
        assert not may_log_in(node, None)
        assert not may_log_in(node, ("alice", OTHER_SECRET))
        assert may_log_in(node, ("alice", SECRET))
        url = f"iscsi://alice%{SECRET}@{node.host}:{node.port}/{IQN}/0"
        shown = subprocess.run(["iscsi-inq", url], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        (tmp_path / "secret").write_text(OTHER_SECRET + "\n")
        user(node, "create", "bob", "--secret-file", str(tmp_path / "secret"))
        listed = json.loads(user(node, "list", "--json"))
        assert listed == {"users": ["alice", "bob"], "configured": []}
        assert "already" in user(node, "create", "bob", "--secret-env", "A_SECRET", status=1)
        user(node, "create", "carol", SECRET, status=2)
        catalogs = list(tmp_path.rglob("catalog.json"))
        assert [stat.S_IMODE(file.stat().st_mode) for file in catalogs] == [0o600]
        node.restart()
        with Initiator(node.host, node.port, target=IQN) as bob:
            bob.login(chap=("bob", OTHER_SECRET))
            user(node, "delete", "alice")
            assert not may_log_in(node, ("alice", SECRET))
            bob.command(cdb.TEST_UNIT_READY)  # whose proof stands stays
            assert "last user" in user(node, "delete", "bob", status=1)
            user(node, "delete", "bob", "--everybody")
            with pytest.raises(Disconnected):
                bob.command(cdb.TEST_UNIT_READY)
        assert may_log_in(node, None)
    logs = [f for f in tmp_path.rglob("*") if f.is_file() and "log" in f.name]
    for file in logs:
        text = file.read_text(errors="replace")
        assert SECRET not in text, file
        assert OTHER_SECRET not in text, file
    assert any("/v1/users" in file.read_text(errors="replace") for file in logs)


@pytest.mark.slow
def test_two_nodes_and_one_that_is_away(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        user(one, "create", "alice", "--secret-env", "A_SECRET")
        assert not may_log_in(other, None), "in force everywhere when it is answered"
        with Initiator(other.host, other.port, target=IQN) as alice:
            alice.login(chap=("alice", SECRET))
            assert other.stop() == 0
        user(one, "create", "bob", "--secret-env", "OTHER_SECRET")
        user(one, "delete", "alice")
        other.start()
        assert may_log_in(other, ("bob", OTHER_SECRET))
        assert not may_log_in(other, ("alice", SECRET)), "it was away, and is right at once"
        with Initiator(other.host, other.port, target=IQN) as bob:
            bob.login(chap=("bob", OTHER_SECRET))
            user(one, "delete", "bob", "--everybody")
            with pytest.raises(Disconnected):
                bob.command(cdb.TEST_UNIT_READY)
        assert may_log_in(other, None)
