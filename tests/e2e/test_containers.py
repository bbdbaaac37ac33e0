"""The image and ``deploy/compose``, as containers on a network of their own.

The recipe is built on a Debian that debootstrap has made, by buildah; podman-compose starts two
nodes, three workers and a Redis, as compose.yaml has them: unprivileged, read-only, mutual TLS and
CHAP.  QEMU's initiator writes and reads back while a worker, and then a node, is killed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import (
    IMAGE,
    PROJECT_ROOT,
    REDIS_IMAGE,
    ContainerError,
    Engine,
    missing,
)
from tests.support.tools import require_tool, run_tool

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(900)]

IQN = "iqn.2026-11.io.lunmesh:target"
SERVICES = ("redis", "worker-1", "worker-2", "worker-3", "node-a", "node-b")
HEALTHCHECK = ("python3", "/usr/local/lib/lunmesh/healthcheck.py", "3280")
TRIES = 60
BYTES = 64 << 10
CHUNK = 4 << 20


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
        subprocess.run([folder / "secrets.sh"], check=True, capture_output=True, timeout=60)
        self.chap = (folder / "secrets" / "node" / "chap").read_text().strip().replace(":", "%")
        self.ports = free_ports(2)
        self.env = {
            "LUNMESH_IMAGE": IMAGE,
            "REDIS_IMAGE": REDIS_IMAGE,
            "LUNMESH_PORT_A": str(self.ports[0]),
            "LUNMESH_PORT_B": str(self.ports[1]),
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


class Verified:
    """qemu-io in one session; blocks in many chunks are written and read back, and compared.

    Each of several at once has blocks of its own, those of its ``number``: one may be stopped
    between a write and the read that expects it.
    """

    def __init__(self, url: str, number: int = 0) -> None:
        # It waits for its input by poll: a line that stdio has read ahead would not be seen.
        self._process = subprocess.Popen(
            ["stdbuf", "-i0", "-oL", require_tool("qemu-io"), "-f", "raw", url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._said: list[str] = []
        self._asked = 0
        self._first = number * BYTES

    def ask(self, rounds: int) -> None:
        """Written and read one after the other, none is waited for here."""
        assert self._process.stdin is not None
        for _ in range(rounds):
            pattern = self._asked % 255 + 1
            offset = self._asked % 24 * CHUNK + self._first
            self._process.stdin.write(f"write -P {pattern} {offset} {BYTES}\n")
            self._process.stdin.write(f"read -P {pattern} {offset} {BYTES}\n")
            self._asked += 1
        self._process.stdin.flush()

    def wait(self, rounds: int) -> None:
        """Until so many of all rounds have ended."""
        assert self._process.stdout is not None
        while sum(f"read {BYTES}/{BYTES} bytes" in line for line in self._said) < rounds:
            line = self._process.stdout.readline()
            if not line:
                pytest.fail("qemu-io has ended:\n" + "".join(self._said[-20:]))
            assert "fail" not in line.lower(), line
            assert "error" not in line.lower(), line
            self._said.append(line)

    def __enter__(self) -> Verified:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            self._process.communicate("quit\n", timeout=5)
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def topology(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Topology:
    return Topology(engine, tmp_path_factory.mktemp("compose") / "compose")


def test_names_are_resolved_and_strangers_refused(topology: Topology) -> None:
    engine = topology.engine
    found = engine.podman("exec", topology.name("node-a"), "lunmesh", "node", "list")
    assert {"node-a", "node-b"} <= set(found.split())
    # node-a-metrics of compose.yaml: podman-compose 1.0 cannot join the network of a service.
    relay = ("--entrypoint", "python3", IMAGE, "/usr/local/lib/lunmesh/metrics.py", "9280")
    node_a = topology.name("node-a")
    engine.podman("run", "-d", "--name", "m", "--network", f"container:{node_a}", *relay)
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


def test_a_worker_and_a_node_are_killed(topology: Topology) -> None:
    engine = topology.engine
    with Verified(topology.url(0)) as client:
        client.ask(60)
        client.wait(20)
        engine.podman("kill", "--signal", "KILL", topology.name("worker-2"))
        client.ask(60)
        engine.podman("start", topology.name("worker-2"))
        client.wait(120)

        client.ask(60)
        client.wait(140)
        engine.podman("kill", "--signal", "KILL", topology.name("node-a"))
        # The other node serves all chunks, while the first is away.
        with Verified(topology.url(1), number=1) as other:
            other.ask(24)
            other.wait(24)
        client.ask(40)
        engine.podman("start", topology.name("node-a"))
        client.wait(220)
