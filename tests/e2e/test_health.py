"""The image's health check, whatever a node or worker is told; and ``serve --metrics``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.certificates import make_authority, make_certificate
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.scrape import page, scrape

HEALTHCHECK = PROJECT_ROOT / "deploy" / "container" / "healthcheck.py"


def healthy(*path: str) -> tuple[int, str]:
    """Exit status and line of the health check, which has nothing but its environment."""
    done = subprocess.run(
        [sys.executable, HEALTHCHECK, *path], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def closed(_folder: Path) -> list[str]:
    return ["--admin", "off"]


def elsewhere(_folder: Path) -> list[str]:
    return ["--admin", f"127.0.0.2:{free_port('127.0.0.2')}"]


def with_token(folder: Path) -> list[str]:
    file = folder / "token"
    file.write_text("sixteen-or-more-characters\n")
    return ["--admin-token-file", str(file)]


def mutual_tls(folder: Path) -> list[str]:
    authority = make_authority(folder, "ca")
    certificate, key = make_certificate(folder, authority, "admin")
    files = ["--admin-cert", str(certificate), "--admin-key", str(key)]
    return [*files, "--admin-client-ca", str(authority)]


@pytest.mark.parametrize("admin", [closed, elsewhere, with_token, mutual_tls])
def test_a_node_is_healthy_however_its_admin_api_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admin: Callable[[Path], list[str]]
) -> None:
    socket = tmp_path / "h"
    monkeypatch.setenv("LUNMESH_HEALTH", str(socket))
    with LunmeshServer(tmp_path / "a", ["disk0=1M"], arguments=admin(tmp_path)):
        assert healthy() == healthy("/readyz") == (0, "ok")
        assert healthy("/v1/volumes")[0] == 1, "the admin API is not there"
        assert socket.stat().st_mode & 0o022 == 0, "it is its owner's"


def test_a_worker_is_healthy_without_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "h"
    monkeypatch.setenv("LUNMESH_HEALTH", str(socket))
    with LunmeshWorker(tmp_path / "w") as worker:
        assert healthy() == healthy("/readyz") == (0, "ok")
        worker.kill()
        assert healthy() == (1, f"{socket}: [Errno 111] Connection refused")
        worker.start()  # the dead one's socket is no obstacle
        assert healthy() == (0, "ok")
    assert healthy()[0] == 1


def test_metrics_of_a_node_are_told_beside_its_admin_api(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    flags = ["--admin", "off", "--metrics", address]
    with LunmeshServer(tmp_path, ["disk0=16M"], arguments=flags):
        assert page(address, "/readyz").text == page(address, "/healthz").text == "ok\n"
        assert scrape(address).get("volume_bytes", lun="0", volume="disk0") == 16 << 20
        for closed in ("/", "/v1/volumes", "/v1/stats", "/openapi.json"):
            assert page(address, closed).status == 404
