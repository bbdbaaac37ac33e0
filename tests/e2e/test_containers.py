"""The image and ``deploy/compose``, as containers on a network of their own.

The recipe is built on a Debian that debootstrap has made, by buildah; podman-compose starts two
nodes, three workers, a Redis, Prometheus and Alertmanager, as compose.yaml has them: unprivileged,
read-only, mutual TLS and CHAP.  Linux's initiator mounts the disk over both nodes, and fio verifies
what it has written while a worker, and then a node, is killed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import kernel_log
from tests.e2e.multipath import Multipath, verified_writes
from tests.e2e.vm import VirtualMachine
from tests.support.containers import (
    ALERTMANAGER_IMAGE,
    IMAGE,
    PROJECT_ROOT,
    PROMETHEUS_IMAGE,
    REDIS_IMAGE,
    ContainerError,
    Engine,
    missing,
)
from tests.support.prometheus import Prometheus
from tests.support.tools import run_tool

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.vm, pytest.mark.timeout(900)]

IQN = "iqn.2026-11.io.lunmesh:target"
SERVICES = (
    *("redis", "worker-1", "worker-2", "worker-3", "node-a", "node-b"),
    *("prometheus", "alertmanager"),
)
HEALTHCHECK = ("python3", "/usr/local/lib/lunmesh/healthcheck.py")
TRIES = 60


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with Engine() as engine:
        engine.build_images()
        yield engine


def wait_healthy(engine: Engine, name: str, path: str = "/readyz") -> None:
    """Until it answers, or was asked TRIES times; podman's own time between them is the pace."""
    for _ in range(TRIES):
        with contextlib.suppress(ContainerError):
            engine.podman("exec", name, *HEALTHCHECK, path)
            return
    pytest.fail(f"{name} is not healthy:\n{engine.podman('logs', '--tail', '20', name)}")


def test_unprivileged_and_read_only(engine: Engine) -> None:
    engine.podman(
        "run", "-d", "--name", "one", "--read-only", "--cap-drop", "all",
        "--security-opt", "no-new-privileges", IMAGE,
    )  # fmt: skip
    wait_healthy(engine, "one")
    status = engine.podman("exec", "one", "cat", "/proc/1/status")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == ["3260"] * 4
    assert {found[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"
    with pytest.raises(ContainerError, match="Read-only file system"):
        engine.podman("exec", "one", "touch", "/opt/lunmesh/x")
    (image,) = json.loads(engine.podman("image", "inspect", IMAGE))
    assert "healthcheck.py" in " ".join(image["Healthcheck"]["Test"])
    python = ["exec", "one", "/opt/lunmesh/bin/python", "-c"]
    hot = engine.podman(*python, "import target.iscsi.sender as it; print(it.__file__)")
    assert hot.strip().endswith(".so"), "the hot path is compiled"
    for absent in ("pip", "setuptools", "mypy"):
        with pytest.raises(ContainerError, match="No module named"):
            engine.podman(*python, f"import {absent}")
    engine.podman("stop", "--time", "20", "one")
    assert engine.podman("inspect", "one", "--format", "{{.State.ExitCode}}") == "0"
    engine.podman("rm", "one")


class Topology:
    """compose.yaml's services, started; prefix ``lm`` and an underscore before their names."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        shutil.copytree(
            PROJECT_ROOT / "deploy" / "compose", folder, ignore=shutil.ignore_patterns("secrets")
        )
        shutil.copyfile(
            PROJECT_ROOT / "deploy" / "certificates.sh", folder.parent / "certificates.sh"
        )
        subprocess.run([folder / "secrets.sh"], check=True, capture_output=True, timeout=60)
        self.chap = (folder / "secrets" / "node" / "chap").read_text().strip().replace(":", "%")
        *self.ports, told, alerts = free_ports(4)
        self.prometheus = Prometheus(f"127.0.0.1:{told}")
        self.alertmanager = f"127.0.0.1:{alerts}"
        self.env = {
            "LUNMESH_IMAGE": IMAGE,
            "REDIS_IMAGE": REDIS_IMAGE,
            "PROMETHEUS_IMAGE": PROMETHEUS_IMAGE,
            "ALERTMANAGER_IMAGE": ALERTMANAGER_IMAGE,
            "LUNMESH_PORT_A": str(self.ports[0]),
            "LUNMESH_PORT_B": str(self.ports[1]),
            "PROMETHEUS_PORT": str(told),
            "ALERTMANAGER_PORT": str(alerts),
        }
        engine.compose(
            folder / "compose.yaml", "-p", "lm", "up", "-d", "--no-deps", *SERVICES, env=self.env
        )
        for node in ("node-a", "node-b"):
            wait_healthy(engine, self.name(node))

    def name(self, service: str) -> str:
        return f"lm_{service}_1"

    def url(self, node: int, user: str | None = None) -> str:
        who = self.chap if user is None else user
        return f"iscsi://{who}@127.0.0.1:{self.ports[node]}/{IQN}/0"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.fixture(scope="module")
def topology(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Topology:
    return Topology(engine, tmp_path_factory.mktemp("compose") / "compose")


def test_names_are_resolved_and_strangers_refused(topology: Topology) -> None:
    engine = topology.engine
    engine.podman("healthcheck", "run", topology.name("redis"))
    found = engine.podman("exec", topology.name("node-a"), "lunmesh", "node", "list")
    assert {"node-a", "node-b"} <= set(found.split())
    read = (
        "import urllib.request as u; [print(len(u.urlopen(x, timeout=9).read())) for x in"
        " ('http://node-a:9280/metrics', 'http://worker-1:3280/metrics')]"
    )
    sizes = engine.podman("exec", topology.name("worker-3"), "python3", "-c", read)
    assert all(int(size) > 1000 for size in sizes.split())
    admin = "import urllib.request as u; u.urlopen('http://node-a:9280/v1/volumes', timeout=9)"
    with pytest.raises(ContainerError, match="404"):
        engine.podman("exec", topology.name("worker-3"), "python3", "-c", admin)
    said = run_tool(["iscsi-inq", topology.url(0, "lunmesh%not-the-secret")], check=False)
    assert "LUNMESH" not in said
    assert "LUNMESH" in run_tool(["iscsi-inq", topology.url(0)]).upper()


def test_prometheus_reads_all_and_has_what_grafana_draws(topology: Topology) -> None:
    """With prometheus.yml and alerts.yml as they are; nothing that the dashboard asks lacks."""
    prometheus = topology.prometheus
    assert len(prometheus.ask("targets", state="active")["activeTargets"]) == 5
    prometheus.until_told("sum(up) == 5")
    for node in range(2):
        said = run_tool(["iscsi-perf", "-r", "-t", "1", topology.url(node)])
        assert "iops" in said, said
    prometheus.until_all_drawn()
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
    assert not any(rule.get("lastError") for rule in rules), rules


def test_linux_mounts_the_disk_while_a_worker_and_a_node_are_killed(
    topology: Topology, vm: VirtualMachine
) -> None:
    """The kernel's initiator, logged in to both nodes by CHAP, a file system over multipath."""
    engine, prometheus = topology.engine, topology.prometheus
    user, secret = topology.chap.split("%")
    auth = {"authmethod": "CHAP", "username": user, "password": secret}
    settings = {f"node.session.auth.{name}": value for name, value in auth.items()}
    multipath = Multipath(vm)
    kernel_log.begin(vm)
    with multipath.joined(topology.ports, IQN, settings) as disk:
        vm.sh(f"mkfs.ext4 -q {disk.device}; mkdir -p /mnt/d; mount {disk.device} /mnt/d")
        with verified_writes(vm, disk, "/mnt/d/file"), kernel_log.path_outage(vm):
            engine.podman("kill", "--signal", "KILL", topology.name("worker-2"))
            # Its chunks are waited for meanwhile, and somebody is told.
            prometheus.until_firing("LunmeshWorkerAway", "LunmeshDown")
            until_told_of(topology, "LunmeshWorkerAway")
            engine.podman("start", topology.name("worker-2"))
            disk.wait_for_progress()

            engine.podman("kill", "--signal", "KILL", topology.name("node-a"))
            disk.wait_for_paths(active=1, failed=1)
            disk.wait_for_progress()
            engine.podman("start", topology.name("node-a"))
            disk.wait_for_paths(active=2)
            disk.wait_for_progress()
        vm.sh(f"umount /mnt/d; e2fsck -fn {disk.device}")
    found = kernel_log.complaints(vm)
    assert not found, "the guest's kernel complains:\n" + "\n".join(found)


def until_told_of(topology: Topology, alert: str) -> None:
    """Until Alertmanager has it; the test's timeout is the bound."""
    url = f"http://{topology.alertmanager}/api/v2/alerts"
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=60) as answer:
            if any(it["labels"]["alertname"] == alert for it in json.load(answer)):
                return
