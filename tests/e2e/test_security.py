"""What a default install lets in, and what nobody must ever read: docs/security.md, tried."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import make_authority, make_certificate
from tests.support.initiator import Initiator, LoginRefused
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.redis_server import RedisServer
from tests.support.volume_command import Said, VolumeCommand

IQN = "iqn.2026-11.io.lunmesh:target"
LISTENING = "0A"
LOOPBACK = ("0100007F", "0" * 24 + "01000000")
CHAP, MUTUAL = "alice-knows-this-one", "the-target-knows-this"
CATALOG, TOKEN = "bob-knows-another-one", "correct-horse-battery-staple"
REDIS = "redis-knows-that"
SECRETS = (CHAP, MUTUAL, CATALOG, TOKEN, REDIS)
_ALL = ("~*", "&*", "+@all")
RIGHTS = ("--user", "lunmesh", "on", f">{REDIS}", *_ALL, "--user", "default", "off")


def sockets_of(pid: int) -> set[str]:
    """The inodes of its sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                found.add(match[1])
    return found


def listening(pid: int) -> Iterator[str]:
    """The addresses on which it listens, as the kernel writes them."""
    own = sockets_of(pid)
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own and (fields[3] == LISTENING or family.startswith("udp")):
                yield fields[1].partition(":")[0]


def test_a_default_install_listens_on_loopback_only(tmp_path: Path) -> None:
    """Nothing is said but where the data are, and ports that are free."""
    with (
        LunmeshServer(tmp_path / "node", []) as node,
        LunmeshWorker(tmp_path / "worker", arguments=["--metrics", str(free_port())]) as worker,
    ):
        for pid, doors in ((node.pid, 2), (worker.pid, 1)):
            addresses = list(listening(pid))
            assert len(addresses) >= doors
            assert set(addresses) <= set(LOOPBACK), addresses
    said = subprocess.run(
        [sys.executable, "-m", "target.cli", "config", "check", "/dev/null"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "on 127.0.0.1:3260" in said.stdout, said.stderr


def test_elsewhere_needs_to_be_said(tmp_path: Path) -> None:
    """A worker and an admin API that others reach without TLS or a token do not start."""
    for arguments, problem in (
        (["serve", "--admin", "0.0.0.0:0", "--data-dir", "data"], "token"),
        (["worker", "--listen", "0.0.0.0:0", "--store", "memory:"], "--insecure"),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "target.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{PROJECT_ROOT}:{PROJECT_ROOT}/proto/python"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert problem in done.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_shown_anywhere(tmp_path: Path, log_format: str) -> None:
    for name, text in (("chap", f"alice:{CHAP}\n"), ("mutual", f"it:{MUTUAL}\n"), ("token", TOKEN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    config = tmp_path / "lunmesh.toml"
    with (
        RedisServer(tmp_path / "redis", user=("lunmesh", REDIS), arguments=RIGHTS) as redis,
        LunmeshWorker(tmp_path / "worker") as worker,
    ):
        config.write_text(f'redis = "unix://lunmesh:{REDIS}@{redis.socket_path}"\n')
        arguments = [
            *("--config", str(config), "--worker", worker.address, "--node-id", "a"),
            *(
                "--chap-file",
                str(tmp_path / "chap"),
                "--mutual-chap-file",
                str(tmp_path / "mutual"),
            ),
            *("--admin-token-file", str(tmp_path / "token"), "--log-level", "debug"),
            *("--log-format", log_format),
        ]
        with LunmeshServer(tmp_path / "node", ["a=16M"], arguments=arguments) as node:
            told = [*provoked(node, tmp_path), *asked(node)]
            for pid in family(node.pid):
                told.append(Path(f"/proc/{pid}/cmdline").read_text())
        told += [file.read_text(errors="replace") for file in tmp_path.rglob("*.log")]
    for secret in SECRETS:
        for text in told:
            assert secret not in text, text[max(0, text.index(secret) - 200) :][:400]


def test_a_worker_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of Redis, from the environment, and its own private key."""
    authority = make_authority(tmp_path, "ca")
    certificate, key = make_certificate(tmp_path, authority, "worker")
    secrets = (REDIS, *key.read_text().splitlines()[1:-1])
    metrics = free_port()
    arguments = [
        *("--tls-cert", str(certificate), "--tls-key", str(key), "--metrics", str(metrics)),
        *("--log-level", "debug", "--log-format", "json"),
    ]
    with RedisServer(tmp_path / "redis", user=("lunmesh", REDIS), arguments=RIGHTS) as redis:
        monkeypatch.setenv("LUNMESH_REDIS", f"unix://lunmesh:{REDIS}@{redis.socket_path}")
        worker = LunmeshWorker(tmp_path / "worker", listen="127.0.0.1:0", arguments=arguments)
        with worker:
            told = [Path(f"/proc/{pid}/cmdline").read_text() for pid in family(worker.pid)]
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=30) as it:
                told.append(it.read().decode())
            worker.stop()
        told.append(worker.output)
        # And what it says where Redis does not let it in.
        monkeypatch.setenv("LUNMESH_REDIS", f"unix://nobody:{REDIS}@{redis.socket_path}")
        with contextlib.suppress(WorkerProcessError), worker:
            pass
        told.append(worker.output)
    log = worker.stderr_path.read_text()
    assert log
    for text in (*told, log):
        for secret in secrets:
            assert secret not in text, text[max(0, text.index(secret) - 200) :][:400]


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def provoked(node: LunmeshServer, folder: Path) -> list[str]:
    """What is said where something with a secret in it is wrong."""
    for chap in (("alice", CATALOG), (CHAP, CHAP), None):
        with (
            Initiator(node.host, node.port, target=IQN) as client,
            contextlib.suppress(LoginRefused),
        ):
            client.login(chap=chap)
    environ = {"LUNMESH_ADMIN_TOKEN_FILE": str(folder / "token"), "BOB": CATALOG, "SHORT": "x"}
    user = VolumeCommand(node, "user", environ)
    said = [user.run("create", "bob", "--secret-env", "BOB")]
    said.append(user.run("create", "bob", "--secret-env", "BOB"))
    said.append(user.run("create", f"b:{CATALOG}", "--secret-env", "SHORT"))
    said.append(user.run("change", "bob", "--secret-env", "BOB", "--json"))
    said.append(user.run("change", "bob", CATALOG, "--json"))
    said.append(user.run("mutual", "set", "san", "--secret-env", "BOB", "--json"))
    (folder / "wrong").write_text(TOKEN + "x")
    wrong = {"LUNMESH_ADMIN_TOKEN_FILE": str(folder / "wrong")}
    said.append(VolumeCommand(node, "user", wrong).run("list"))
    assert [it.status for it in said] == [0, 1, 2, 0, 2, 1, 1], said
    said.append(
        VolumeCommand(node, "doctor", environ).run("--output", str(folder / "report.tar.gz"))
    )
    bad = folder / "bad.toml"
    for line in (
        f'chap = ["alice{CHAP}"]',
        f'redis = "http://x:{REDIS}@h"',
        f'chap = ["a:{"x" * 300}{CHAP}"]',
    ):
        bad.write_text(line + "\n")
        done = subprocess.run(
            [sys.executable, "-m", "target.cli", "config", "check", str(bad)],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        said.append(Said(done.returncode, done.stdout, done.stderr))
    return [it.out + it.error for it in said]


def asked(node: LunmeshServer) -> list[str]:
    """All that the admin API tells."""
    found = []
    for path in (
        *("/metrics", "/v1/report", "/v1/users", "/v1/mutual-chap", "/v1/acls", "/v1/nodes"),
        *("/v1/sessions", "/v1/volumes", "/v1/targets", "/v1/tasks", "/v1/stats", "/openapi.json"),
    ):
        request = urllib.request.Request(f"http://{node.admin}{path}")
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found.append(answer.read().decode())
    return found
