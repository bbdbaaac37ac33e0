"""TLS between a target and its workers, as processes: who is let in, and what the log says else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.certificates import make_authority, make_certificate
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)
BLOCK = b"lunmesh!" * 64


def flags(ca: Path | None, pair: tuple[Path, Path] | None = None) -> list[str]:
    """Of `lunmesh serve`."""
    found = ["--worker-wait", "1", "--worker-timeout", "1"]
    if ca is not None:
        found += ["--worker-ca", str(ca)]
    if pair is not None:
        found += ["--worker-cert", str(pair[0]), "--worker-key", str(pair[1])]
    return found


def first_write(server: LunmeshServer) -> int:
    """The status of a write, which is read back if it is GOOD."""
    with Initiator(server.host, server.port, target=server.iqn, timeout=30) as iscsi:
        iscsi.login()
        while iscsi.command(cdb.TEST_UNIT_READY).sense_key == 6:
            pass
        status = iscsi.command(cdb.write16(0, 1), data_out=BLOCK).status
        if status == 0:
            assert iscsi.command(cdb.read16(0, 1), read_length=512).data_in == BLOCK
        return status


def test_a_worker_takes_certificates_with_the_name_of_nodes_alone(tmp_path: Path) -> None:
    """Another worker's is of the same authority, and good for nothing here."""
    ours = make_authority(tmp_path, "ours")
    certificate, key = make_certificate(tmp_path, ours, "worker", ",URI:lunmesh-node.x")
    node = make_certificate(tmp_path, ours, "node", ",DNS:a.Nodes.lunmesh")
    arguments = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(ours)]
    arguments += ["--tls-client-name", "*.nodes.lunmesh"]
    with LunmeshWorker(tmp_path / "w", listen="127.0.0.1:0", arguments=arguments) as worker:
        place = ["--worker", worker.address]
        for name, pair, good in (("n", node, True), ("w", (certificate, key), False)):
            given = [*flags(ours, pair), *place]
            with LunmeshServer(tmp_path / name, ["disk0=1M"], arguments=given) as server:
                assert (first_write(server) == 0) is good
                refused = "does not have the name *.nodes.lunmesh" in server.stderr()
                assert refused is not good


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_tls_end_to_end(tmp_path: Path, mutual: bool) -> None:
    ours, stranger = make_authority(tmp_path, "ours"), make_authority(tmp_path, "stranger")
    certificate, key = make_certificate(tmp_path, ours, "worker")
    node = make_certificate(tmp_path, ours, "node")
    strange = make_certificate(tmp_path, stranger, "strange")
    arguments = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    if mutual:
        arguments += ["--tls-ca", str(ours)]
    right = flags(ours, node if mutual else None)
    if mutual:
        wrong = [(flags(ours), "certificate"), (flags(ours, strange), "certificate")]
    else:
        wrong = [(flags(stranger, node), "certificate"), (flags(None), "worker-ca")]
    with LunmeshWorker(tmp_path / "w", listen="127.0.0.1:0", arguments=arguments) as worker:
        place = ["--worker", worker.address]
        folder = tmp_path / "right"
        with LunmeshServer(folder, ["disk0=1M"], arguments=[*right, *place]) as server:
            assert first_write(server) == 0
        for number, (refused, reason) in enumerate(wrong):
            folder = tmp_path / f"wrong{number}"
            with LunmeshServer(folder, ["disk0=1M"], arguments=[*refused, *place]) as server:
                assert first_write(server) != 0
                (line,) = [
                    line
                    for line in server.stderr().splitlines()
                    if "started without a worker" in line
                ]
                assert reason in line
                assert "not connected yet" not in line
                assert "Traceback" not in server.stderr()
                assert server.stop() == 0
