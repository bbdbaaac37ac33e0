"""The compose files: what one adds to the other, and what is mounted is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parents[3] / "deploy" / "compose"


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text("utf-8"))["services"]
    return found


def test_over_ceph_workers_differ_in_their_store_alone() -> None:
    plain, ceph = services("compose.yaml"), services("ceph.yaml")
    assert set(ceph) == {name for name in plain if name.startswith("worker-")}
    for name, service in ceph.items():
        store = "--store=rados:${LUNMESH_POOL:-disks}?id=lunmesh"
        expected = [store if it == "--store=file:/data" else it for it in plain[name]["command"]]
        assert service["command"] == expected
        assert service["volumes"] == ["${LUNMESH_CEPH:-./ceph}:/etc/ceph:ro"]


def test_files_that_are_mounted_are_there_or_made_by_secrets_sh() -> None:
    for service in services("compose.yaml").values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./") and not source.startswith("./secrets"):
                assert (COMPOSE / source).exists(), source
