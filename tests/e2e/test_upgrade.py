"""What earlier versions wrote is served, and what a later one wrote is refused, untouched.

``tests/fixtures/format-N`` is a node's data directory and a worker's store, as the version wrote
them that had format N.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from target.scsi.reservations.state import Type
from tests.support import reservations
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.tools import run_tool

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BYTES = 64 << 10
VOLUMES = ("local=64K", "remote=64K,chunk=64K")


def old(folder: Path, version: int) -> Path:
    """A copy of what that version has left, which may be changed."""
    shutil.copytree(FIXTURES / f"format-{version}", folder)
    catalog = folder / "node" / "catalog.json"
    text = catalog.read_text("utf-8")
    catalog.write_text(text.replace("unix:WORKER", f"unix:{folder}/worker.sock"), "utf-8")
    return folder


def worker_of(folder: Path) -> LunmeshWorker:
    return LunmeshWorker(
        folder / "run", listen=f"unix:{folder}/worker.sock", store=f"file:{folder}/worker"
    )


def server_of(folder: Path) -> LunmeshServer:
    server = LunmeshServer(folder, VOLUMES)
    (folder / "node").rename(server.data_dir)
    return server


@pytest.mark.parametrize("version", [1])
def test_what_it_left_is_served(tmp_path: Path, version: int) -> None:
    folder = old(tmp_path / "old", version)
    before = json.loads((folder / "node" / "catalog.json").read_text("utf-8"))["volumes"]
    with worker_of(folder), server_of(folder) as server:
        for lun, (name, pattern) in enumerate((("local", 0x4C), ("remote", 0x52))):
            url = f"iscsi://{server.host}:{server.port}/{server.iqn}/{lun}"
            said = run_tool(["qemu-io", "-f", "raw", "-r", "-c", f"read -P {pattern} 0 64k", url])
            assert f"read {BYTES}/{BYTES} bytes" in said
            assert "failed" not in said
            serial = run_tool(["iscsi-inq", "-e", "1", "-c", "131", url])
            assert before[name]["uuid"].replace("-", "") in serial.replace("-", "").lower()
        with Initiator(server.host, server.port, target=server.iqn) as client:
            client.login()
            read = reservations.pr_in(reservations.READ_RESERVATION, 64)
            held = [client.command(read, read_length=64) for _ in range(2)][
                -1
            ]  # after UNIT ATTENTION
            expected = reservations.reservation_data(0, 0xA, Type.WRITE_EXCLUSIVE)
            assert bytes(held.data_in)[8:] == expected[8:]
    kept = json.loads((server.data_dir / "node.json").read_text("utf-8"))
    assert kept["epoch"] == 3  # one more than it left


@pytest.mark.parametrize("file", ["catalog.json", "node.json"])
def test_a_node_refuses_what_a_later_version_wrote(tmp_path: Path, file: str) -> None:
    folder = old(tmp_path / "old", 1)
    later = _raise_format(folder / "node" / file)
    server = server_of(folder)
    with pytest.raises(ServerError, match="has format 99, this version knows 1"):
        server.start()
    assert (server.data_dir / file).read_bytes() == later


@pytest.mark.parametrize("file", ["catalog.json", "node.json", "reservations"])
def test_a_node_refuses_what_a_later_version_has_added(tmp_path: Path, file: str) -> None:
    folder = old(tmp_path / "old", 1)
    path = folder / "node" / file
    if path.is_dir():
        (path,) = path.iterdir()
    found = json.loads(path.read_bytes())
    path.write_text(json.dumps({**found, "later": True}), "utf-8")
    later = path.read_bytes()
    name = path.relative_to(folder / "node")
    server = server_of(folder)
    with pytest.raises(ServerError, match=rf"{name} cannot be read: .*unknown field `later`"):
        server.start()
    assert (server.data_dir / name).read_bytes() == later


def test_a_worker_refuses_fences_of_a_later_version(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", 1)
    later = _raise_format(folder / "worker" / "fences.json")
    with pytest.raises(WorkerProcessError, match="have format 99, this version knows 1"):
        worker_of(folder).start()
    assert (folder / "worker" / "fences.json").read_bytes() == later


def _raise_format(file: Path) -> bytes:
    """What it holds then."""
    found: dict[str, Any] = json.loads(file.read_bytes())
    file.write_text(json.dumps({**found, "format": 99, "later": True}), "utf-8")
    return file.read_bytes()
