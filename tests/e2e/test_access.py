"""``lunmesh acl``, on a node alone and on two, and what an initiator of others makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.logins import IQN, may_log_in
from tests.support.lunmesh_server import LunmeshServer
from tests.support.node_cluster import NodeCluster
from tests.support.tools import run_tool
from tests.support.volume_command import VolumeCommand

ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"


def test_a_node_alone(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["a=16M", "b=16M"]) as node:
        acl = VolumeCommand(node, "acl")
        assert "everybody" in acl.run("list").error
        key = {"initiator": ONE, "user": "", "target": ""}
        entry = key | {"luns": {}, "volumes": {"a": "rw", "b": "ro"}}
        assert acl.json("create", ONE, "--volume", "a", "--volume", "b:ro") == entry
        assert acl.json("list") == {"acls": [entry], "configured": []}
        assert not may_log_in(node, OTHER)
        url = f"iscsi://{node.host}:{node.port}"
        assert run_tool(["iscsi-ls", "-s", "-i", ONE, url]).count("Lun:") == 2
        node.restart()
        assert may_log_in(node, ONE)
        assert not may_log_in(node, OTHER)
        assert "no volume 'c'" in acl.refused("create", OTHER, "--volume", "c")
        assert "last entry" in acl.refused("delete", ONE)
        assert acl.json("delete", ONE, "--everybody") == {"deleted": key}
        assert may_log_in(node, OTHER)


@pytest.mark.slow
def test_two_nodes_and_one_that_is_away(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        acl = VolumeCommand(one, "acl")
        with Initiator(other.host, other.port, target=IQN, name=OTHER) as there:
            there.login()
            acl.good("create", ONE)
            with pytest.raises(Disconnected):
                there.command(cdb.TEST_UNIT_READY)
        assert not may_log_in(other, OTHER), "in force everywhere when it is answered"
        assert may_log_in(other, ONE)
        assert other.stop() == 0
        acl.good("create", OTHER)
        acl.good("delete", ONE)
        other.start()
        assert may_log_in(other, OTHER)
        assert not may_log_in(other, ONE), "it was away, and is right at once"
        VolumeCommand(other, "acl").good("create", ONE, "--volume", "a:ro")
        with Initiator(one.host, one.port, target=IQN, name=ONE) as reader:
            reader.login()
            while reader.command(cdb.TEST_UNIT_READY).sense_key:
                pass
            refused = reader.command(cdb.write10(0, 1), data_out=bytes(512))
            assert refused.sense_triple == (7, 0x27, 0)
        in_the_way = other.data_dir / "catalog.json.new"  # what it keeps cannot be written
        in_the_way.mkdir()
        assert "not on every node yet: node1 (in force, but not kept" in acl.refused("delete", ONE)
        assert not may_log_in(other, ONE)
        assert [entry["initiator"] for entry in acl.json("list")["acls"]] == [OTHER]
        nodes = VolumeCommand(one, "node")
        assert "access list" in nodes.run("list").error
        assert [set(it["behind"]) for it in nodes.json("list")] == [set(), {"access list"}]
        late = acl.run("create", ONE, "--json")
        problem = json.loads(late.error)
        assert (late.status, late.out, problem["status"]) == (1, "", 202)
        assert [it["node"] for it in problem["pending"]] == ["node1"]
        in_the_way.rmdir()
        while any(it["behind"] for it in nodes.json("list")):
            pass  # it tries again by itself
        acl.good("delete", ONE)
        acl.good("delete", OTHER, "--everybody")
