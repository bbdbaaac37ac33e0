"""``lunmesh acl``, on a node alone and on two, and what an initiator of others makes of it."""

from __future__ import annotations

import json
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
ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"


def acl(node: LunmeshServer, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "target.cli", "acl", *arguments, "--admin", node.admin],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def may_log_in(node: LunmeshServer, name: str) -> bool:
    with Initiator(node.host, node.port, target=IQN, name=name) as initiator:
        try:
            initiator.login()
        except LoginRefused:
            return False
        return True


def test_a_node_alone(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["a=16M", "b=16M"]) as node:
        assert "everybody" in acl(node, "list")
        acl(node, "create", ONE, "--volume", "a", "--volume", "b:ro")
        entry = {"initiator": ONE, "user": "", "volumes": {"a": "rw", "b": "ro"}}
        assert json.loads(acl(node, "list", "--json")) == [entry]
        assert not may_log_in(node, OTHER)
        url = f"iscsi://{node.host}:{node.port}"
        shown = subprocess.run(
            ["iscsi-ls", "-s", "-i", ONE, url], capture_output=True, text=True, timeout=60
        )
        assert shown.stdout.count("Lun:") == 2, shown.stdout + shown.stderr
        node.restart()
        assert may_log_in(node, ONE)
        assert not may_log_in(node, OTHER)
        assert "no volume 'c'" in acl(node, "create", OTHER, "--volume", "c", status=1)
        assert "last entry" in acl(node, "delete", ONE, status=1)
        acl(node, "delete", ONE, "--everybody")
        assert may_log_in(node, OTHER)


@pytest.mark.slow
def test_two_nodes_and_one_that_is_away(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        with Initiator(other.host, other.port, target=IQN, name=OTHER) as there:
            there.login()
            acl(one, "create", ONE)
            with pytest.raises(Disconnected):
                there.command(cdb.TEST_UNIT_READY)
        assert not may_log_in(other, OTHER), "in force everywhere when it is answered"
        assert may_log_in(other, ONE)
        assert other.stop() == 0
        acl(one, "create", OTHER)
        acl(one, "delete", ONE)
        other.start()
        assert may_log_in(other, OTHER)
        assert not may_log_in(other, ONE), "it was away, and is right at once"
        acl(other, "create", ONE, "--volume", "a:ro")
        with Initiator(one.host, one.port, target=IQN, name=ONE) as reader:
            reader.login()
            while reader.command(cdb.TEST_UNIT_READY).sense_key:
                pass
            refused = reader.command(cdb.write10(0, 1), data_out=bytes(512))
            assert refused.sense_triple == (7, 0x27, 0)
