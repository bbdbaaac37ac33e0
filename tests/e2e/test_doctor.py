"""`lunmesh doctor`: what is in the file, and what must never be."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.volume_command import VolumeCommand

CHAP_SECRET = 'alice-knows-"this"'
MUTUAL_SECRET = "the-target-knows-this"
REDIS_PASSWORD = "p%40ss-of-redis"  # as the URL has it
CATALOG_SECRET = "bob-knows-that-one"
SECRETS = (
    *(CHAP_SECRET, MUTUAL_SECRET, CATALOG_SECRET),
    *(REDIS_PASSWORD, "p@ss-of-redis", "alice-knows-"),
)


def unpacked(archive: Path) -> dict[str, str]:
    """Its files, all in one folder that is named like it."""
    files = {}
    with tarfile.open(archive) as tar:
        for entry in tar.getmembers():
            folder, _, name = entry.name.partition("/")
            assert folder == archive.name.removesuffix(".tar.gz")
            file = tar.extractfile(entry)
            assert file is not None
            files[name] = file.read().decode()
    return files


def test_all_that_there_is_to_know_and_no_secret(tmp_path: Path) -> None:
    user = ("lunmesh", "p@ss-of-redis")
    rights = ["--user", user[0], "on", f">{user[1]}", "~*", "&*", "+@all"]
    out = tmp_path / "report.tar.gz"
    with (
        RedisServer(
            tmp_path / "redis", user=user, arguments=[*rights, "--user", "default", "off"]
        ) as redis,
        LunmeshWorker(tmp_path / "worker") as worker,
    ):
        url = f"unix://lunmesh:{REDIS_PASSWORD}@{redis.socket_path}"
        arguments = ["--redis", url, "--worker", worker.address, "--node-id", "a"]
        arguments += ["--chap", f"alice:{CHAP_SECRET}", "--mutual-chap", f"it:{MUTUAL_SECRET}"]
        arguments += ["--log-level", "debug"]
        with (
            LunmeshServer(tmp_path / "a", ["disk0=16M"], arguments=arguments) as server,
            # Who takes a secret for a name is told of in the log, the metrics, the lists …
            Initiator(
                server.host, server.port, target=server.iqn, name="iqn.x:the-target-knows-this"
            ) as session,
        ):
            session.login(chap=("alice", CHAP_SECRET))
            session.command(cdb.read10(0, 1), read_length=512)
            session.command(cdb.read10(0, 1), read_length=512)
            file = tmp_path / "secret"
            file.write_text(CATALOG_SECRET)
            users = VolumeCommand(server, "user")
            users.good("create", "bob", "--secret-file", str(file))
            users.good("create", CATALOG_SECRET, "--secret-file", str(file))  # … and in the audit
            users.refused("delete", f"x{CATALOG_SECRET}")
            said = VolumeCommand(server, "doctor").good("-o", str(out))
            assert f"wrote {out}" in said
            again = VolumeCommand(server, "doctor").refused("-o", str(out))
            assert "file exists" in again
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    files = unpacked(out)
    assert set(files) == {
        *("config.json", "ready.txt", "metrics.txt", "stats.json", "volumes.json"),
        *(
            "access.json",
            "targets.json",
            "sessions.json",
            "flights.txt",
            "nodes.json",
            "tasks.json",
            "log.txt",
            "stacks.txt",
            "machine.json",
        ),
    }
    config: Any = json.loads(files["config.json"])
    assert config["chap"] == ["alice"]
    assert config["cluster"]["url"] == f"unix://lunmesh:***@{redis.socket_path}"
    assert files["ready.txt"] == "ok\n"
    assert 'lunmesh_scsi_command_seconds_count{class="read",lun="0"} 2.0' in files["metrics.txt"]
    assert json.loads(files["nodes.json"])["nodes"][0]["id"] == "a"
    assert json.loads(files["sessions.json"])["sessions"][0]["initiator"] == "iqn.x:***"
    assert json.loads(files["volumes.json"])[0]["name"] == "disk0"
    assert json.loads(files["machine.json"])["version"]
    assert "logged in from" in files["log.txt"]
    assert "READ(10) lun=0" in files["flights.txt"]
    assert "thread MainThread" in files["stacks.txt"]
    assert "_serve_one_life" in files["stacks.txt"]
    everything = "\n".join(files.values()) + said
    for secret in SECRETS:
        assert secret not in everything


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    """What is known here is written all the same."""
    out = tmp_path / "report.tar.gz"
    command = [sys.executable, "-m", "target.cli", "doctor", "-o", str(out)]
    done = subprocess.run(
        [*command, "--admin", "127.0.0.1:1"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "no node answers at 127.0.0.1:1" in done.stderr
    files = unpacked(out)
    assert set(files) == {"machine.json", "node.txt"}
    assert "no node answers" in files["node.txt"]
