"""``lunmesh target`` and ``volume map``, on a node alone and on two, as initiators see it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import DEFAULT_NAME, Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.logins import IQN, may_log_in
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.node_cluster import NodeCluster
from tests.support.tools import run_tool
from tests.support.volume_command import VolumeCommand

OTHER, SAN = "iqn.2026-11.io.lunmesh:other", "iqn.2026-11.io.lunmesh:san"
INITIATOR = "iqn.2026-11.test:one"
WRITTEN = "wrote 65536/65536 bytes"


def found(portal: str, initiator: str = INITIATOR) -> dict[str, list[int]]:
    """What iscsi-ls shows there: by target, its LUNs."""
    shown = run_tool(["iscsi-ls", "-s", "-i", initiator, f"iscsi://{portal}"])
    targets: dict[str, list[int]] = {}
    name = ""
    for line in shown.splitlines():
        if match := re.match(r"Target:(\S+) Portal:(\S+),", line):
            # Of each portal; a session goes to the one that was asked.
            name = match[1]
            targets[name] = []
        elif match := re.match(r"Lun:(\d+) ", line):
            targets[name].append(int(match[1]))
    return targets


def qemu_io(node: LunmeshServer, target: str, lun: int, command: str) -> str:
    said = run_tool(
        ["qemu-io", "-f", "raw", "-c", command, f"iscsi://{node.portal}/{target}/{lun}"]
    )
    assert "failed" not in said
    return said


def test_a_node_alone(tmp_path: Path) -> None:
    san_port = free_port()
    arguments = ["--portal", f"127.0.0.1:{san_port},group=san"]
    with LunmeshServer(tmp_path, ["disk0=16M"], arguments=arguments) as node:
        target, volume = VolumeCommand(node, "target"), VolumeCommand(node)
        target.good("create", OTHER)
        target.good("create", SAN, "--portal-group", "san")
        made = volume.json("create", "b", "16M", "--target", OTHER)
        assert (made["target"], made["lun"]) == (OTHER, 0)
        volume.good("create", "c", "16M", "--target", SAN, "--lun", "5")
        assert found(node.portal) == {IQN: [0], OTHER: [0]}
        assert found(f"127.0.0.1:{san_port}")[SAN] == [5]
        assert not may_log_in(node, target=SAN)
        with Initiator(node.host, node.port, target=OTHER) as client:
            client.login()
            changed = target.json("change", OTHER, "--portal-group", "san")
            assert (changed["portal_groups"], changed["sessions"]) == (["san"], 0)
            with pytest.raises(Disconnected):
                client.command(cdb.TEST_UNIT_READY)
        assert not may_log_in(node, target=OTHER)
        target.good("change", IQN, "--portal-group", "san")
        assert found(node.portal) == {}
        assert "there anyway" in target.refused("delete", IQN)
        assert {*found(f"127.0.0.1:{san_port}")} == {IQN, OTHER, SAN}
        for name in (IQN, OTHER):
            target.good("change", name, "--all-portals")
        assert "no target" in target.refused("change", f"{IQN}x", "--all-portals")
        assert WRITTEN in qemu_io(node, OTHER, 0, "write -P 7 0 64k")
        names = run_tool(["iscsi-inq", "-e", "1", "-c", "131", f"iscsi://{node.portal}/{OTHER}/0"])
        assert f"{OTHER},t,0x0001" in names
        assert "no target" in volume.refused("create", "d", "16M", "--target", f"{IQN}x")
        with Initiator(node.host, node.port, target=OTHER) as client:
            client.login()
            assert "logged in" in volume.refused("map", "b", "--lun", "7")
            moved = volume.json("map", "b", "--lun", "7", "--force")
            assert (moved["target"], moved["lun"]) == (IQN, 7)
            assert client.command(cdb.TEST_UNIT_READY).sense_triple == (5, 0x25, 0)
            rows = {it["name"]: it for it in target.json("list")}
            assert (rows[OTHER]["sessions"], rows[OTHER]["volumes"]) == (1, 0)
            assert target.json("delete", OTHER) == {"deleted": OTHER}
            with pytest.raises(Disconnected):
                client.command(cdb.TEST_UNIT_READY)
        assert "'c' is in target" in target.refused("delete", SAN)
        node.restart()
        assert found(node.portal) == {IQN: [0, 7]}
        qemu_io(node, IQN, 7, "read -P 7 0 64k")
        acl = VolumeCommand(node, "acl")
        acl.good("create", INITIATOR, "--volume", "b:ro:0", "--volume", "disk0:rw:200")
        assert found(node.portal) == {IQN: [0, 200]}
        assert not may_log_in(node), "who has no entry"


def configured(path: Path, lines: Sequence[str]) -> list[str]:
    path.write_text("\n".join(lines))
    return ["--config", str(path)]


def test_targets_of_the_configuration(tmp_path: Path) -> None:
    file = configured(
        tmp_path / "lunmesh.toml",
        [
            "[[target]]",
            f'name = "{OTHER}"',
            "[[volume]]",
            'name = "a"',
            'size = "16M"',
            "[[volume]]",
            'name = "b"',
            'size = "16M"',
            f'target = "{OTHER}"',
            "[[volume]]",
            'name = "c"',
            'size = "16M"',
            f'target = "{OTHER}"',
            "[[acl]]",
            'initiator = "iqn.2026-11.test:*"',
            "[[acl]]",
            'initiator = "iqn.2026-11.other:*"',
            'volume = "c:ro:0"',
        ],
    )
    with LunmeshServer(tmp_path, [], arguments=file) as node:
        assert found(node.portal) == {IQN: [0], OTHER: [0, 1]}
        assert found(node.portal, "iqn.2026-11.other:two") == {OTHER: [0]}
        assert not may_log_in(node)
        acl = VolumeCommand(node, "acl")
        acl.good("create", DEFAULT_NAME)
        assert may_log_in(node)
        acl.good("delete", DEFAULT_NAME)
        assert not may_log_in(node)
        target, volume = VolumeCommand(node, "target"), VolumeCommand(node)
        assert [it["source"] for it in target.json("list")] == ["node", "configuration"]
        assert "in target" in target.refused("delete", OTHER)
        assert "configuration" in volume.refused("map", "b", "--lun", "9")
        assert "already" in target.refused("create", OTHER)
        assert "configured here" in target.refused("change", OTHER, "--portal-group", "a")


@pytest.mark.slow
def test_two_nodes_and_one_that_is_away(tmp_path: Path) -> None:
    with NodeCluster(tmp_path, ["a=16M"], workers=1) as cluster:
        one, other = cluster.nodes
        target, volume = VolumeCommand(one, "target"), VolumeCommand(one)
        target.good("create", OTHER)
        for lun, name in enumerate("bcd"):
            volume.good("create", name, "16M", "--target", OTHER, "--lun", str(lun))
        assert found(other.portal) == {IQN: [0], OTHER: [0, 1, 2]}
        assert WRITTEN in qemu_io(other, OTHER, 1, "write -P 9 0 64k")
        with Initiator(other.host, other.port, target=OTHER) as client:
            client.login()
            while client.command(cdb.TEST_UNIT_READY).status:
                pass
            # Where all nodes look, three change places: that takes a fourth.
            volume.good("map", "b", "--target", OTHER, "--lun", "3", "--force")
            volume.good("map", "c", "--target", OTHER, "--lun", "0")
            assert client.command(cdb.TEST_UNIT_READY).sense_key == 6
        assert other.stop() == 0
        volume.good("map", "d", "--target", OTHER, "--lun", "1")
        volume.good("map", "b", "--target", OTHER, "--lun", "2")
        volume.good("create", "e", "16M", "--target", OTHER, "--lun", "3")
        made = target.json("create", SAN, "--portal-group", "san")
        assert (made["name"], made["portal_groups"]) == (SAN, ["san"])
        target.good("change", SAN, "--all-portals")
        volume.good("map", "e", "--target", SAN, "--lun", "0")
        other.start()
        assert found(other.portal) == {IQN: [0], OTHER: [0, 1, 2], SAN: [0]}
        qemu_io(other, OTHER, 0, "read -P 9 0 64k")
        there = VolumeCommand(other)
        shown = {it["name"]: (it["target"], it["lun"]) for it in there.json("list")}
        assert shown == {
            "a": (IQN, 0),
            "c": (OTHER, 0),
            "d": (OTHER, 1),
            "b": (OTHER, 2),
            "e": (SAN, 0),
        }
        assert there.json("delete", "e", "--yes") == {"deleted": "e"}
        VolumeCommand(other, "target").good("delete", SAN)
        assert found(one.portal) == {IQN: [0], OTHER: [0, 1, 2]}
