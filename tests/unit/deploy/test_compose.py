"""The compose files: what one adds to the other, and what is mounted is there."""

from __future__ import annotations

import shutil
import subprocess
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


def test_each_role_sees_its_own_key_alone(tmp_path: Path) -> None:
    """A worker that somebody has taken over cannot act as a node, nor as another worker."""
    made = make_secrets(tmp_path)
    for name, service in services("compose.yaml").items():
        seen = [it.split(":")[0] for it in service.get("volumes", ()) if it.startswith("./secrets")]
        role = name if name.startswith("worker-") else name.removesuffix("-a").removesuffix("-b")
        assert seen in ([], [f"./secrets/{role}"]), name
    for role in ("node", "worker-1", "worker-2", "worker-3"):
        (key,) = (made / role).glob("*.key")
        text = openssl("x509", "-in", key.with_suffix(".pem"), "-noout", "-ext", "subjectAltName")
        assert ("DNS:lunmesh-node" in text) is (role == "node"), text
        if role != "node":
            assert f"DNS:{role}" in text
            command = services("compose.yaml")[role]["command"]
            assert "--tls-client-name=lunmesh-node" in command
    assert list(made.rglob("ca.key")) == [made / "ca.key"], "no container sees the authority's key"


def test_secrets_stay_and_redis_keeps_what_it_is_told(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert make_secrets(tmp_path) == made
    assert {file: file.read_bytes() for file in made.rglob("*") if file.is_file()} == before
    conf = (made / "redis" / "redis.conf").read_text().splitlines()
    assert {"appendonly yes", "appendfsync always"} <= set(conf), "docs/operations.md asks for it"


def make_secrets(folder: Path) -> Path:
    (folder / "compose").mkdir(exist_ok=True)
    for name in ("certificates.sh", "compose/secrets.sh"):
        shutil.copyfile(COMPOSE.parent / name, folder / name)
    script = folder / "compose" / "secrets.sh"
    subprocess.run(["bash", script], check=True, capture_output=True, timeout=60)
    return folder / "compose" / "secrets"


def openssl(*args: str | Path) -> str:
    done = subprocess.run(["openssl", *args], check=True, capture_output=True, text=True)
    return done.stdout


def test_nodes_wait_for_a_redis_that_answers() -> None:
    found = services("compose.yaml")
    for node in ("node-a", "node-b"):
        assert found[node]["depends_on"]["redis"] == {"condition": "service_healthy"}
    assert "redis-cli ping" in found["redis"]["healthcheck"]["test"][1]
