"""``lunmesh volume`` on a node that runs, seen by initiators that are logged in."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.tools import require_tool
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

MIB = 1 << 20
TEST_UNIT_READY = bytes(6)
GOOD, CHECK_CONDITION = 0, 2
POWER_ON, CAPACITY_CHANGED, LUNS_CHANGED = (0x29, 0x00), (0x2A, 0x09), (0x3F, 0x0E)
NOT_SUPPORTED = (0x25, 0x00)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LunmeshServer]:
    with LunmeshServer(tmp_path / "server", ["disk0=64M"]) as server:
        yield server


@pytest.fixture
def volume(server: LunmeshServer) -> VolumeCommand:
    return VolumeCommand(server)


@contextlib.contextmanager
def logged_in(server: LunmeshServer, *luns: int) -> Iterator[Initiator]:
    """A session that knows that ``luns`` have been switched on."""
    with Initiator(server.host, server.port, target=server.iqn) as session:
        session.login()
        for lun in luns:
            assert news(session, lun) == [POWER_ON]
        yield session


def asc(task: Task) -> tuple[int, int]:
    assert task.status == CHECK_CONDITION
    return task.sense_triple[1:]


def news(session: Initiator, lun: int) -> list[tuple[int, int]]:
    """The unit attentions that are pending."""
    found = []
    while (task := session.command(TEST_UNIT_READY, lun=lun)).status != GOOD:
        found.append(asc(task))
    return found


def blocks(session: Initiator, lun: int) -> int:
    data = session.command(cdb.read_capacity16(), lun=lun, read_length=32).data_in
    last: int = struct.unpack_from(">Q", data)[0]
    return last + 1


def test_a_volume_is_made_found_and_deleted(server: LunmeshServer, volume: VolumeCommand) -> None:
    with logged_in(server, 0) as session:
        made = volume.json("create", "db", "32M", "--block", "4096")
        assert (made["lun"], made["size_bytes"], made["block_bytes"]) == (1, 32 * MIB, 4096)
        assert news(session, 0) == [LUNS_CHANGED]
        assert news(session, 1) == [POWER_ON]
        assert blocks(session, 1) == 32 * MIB // 4096
        luns = session.command(cdb.report_luns(), read_length=64).data_in
        assert luns[8:] == bytes(8) + b"\0\1" + bytes(6)
        assert [v["name"] for v in volume.json("list")] == ["disk0", "db"]
        assert "may be using" in volume.refused("delete", "db", "--yes")
        volume.good("delete", "db", "--yes", "--force")
        assert news(session, 0) == [LUNS_CHANGED]
        assert asc(session.command(TEST_UNIT_READY, lun=1)) == NOT_SUPPORTED
    assert not (server.data_dir / "volumes" / "db.raw").exists()
    assert volume.refused("show", "db") == "no volume 'db'"


def test_growth_is_told_and_is_there_after_a_restart(
    server: LunmeshServer, volume: VolumeCommand
) -> None:
    with logged_in(server, 0) as session:
        data = random.Random(1).randbytes(4096)
        assert session.command(cdb.write10(0, 8), data_out=data).status == GOOD
        assert volume.json("resize", "disk0", "96M")["size_bytes"] == 96 * MIB
        assert news(session, 0) == [CAPACITY_CHANGED]
        assert blocks(session, 0) == 96 * MIB // 512
        last = 96 * MIB // 512 - 8
        assert session.command(cdb.write10(last, 8), data_out=data).status == GOOD
        assert "cannot shrink" in volume.refused("resize", "disk0", "64M")
    server.stop()
    server.start()  # the command line still says 64M
    with logged_in(server, 0) as session:
        assert blocks(session, 0) == 96 * MIB // 512
        assert session.command(cdb.read10(last, 8), read_length=4096).data_in == data
        assert session.command(cdb.read10(0, 8), read_length=4096).data_in == data


def test_growth_under_a_client_that_writes(server: LunmeshServer, volume: VolumeCommand) -> None:
    """Nothing that runs is disturbed."""
    require_tool("qemu-img")
    done: list[subprocess.CompletedProcess[str]] = []
    bench = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-w", "-c", "20000", "-d", "16"]

    def write() -> None:
        done.append(
            subprocess.run(
                [*bench, "-s", "4096", server.url(0)], capture_output=True, text=True, timeout=100
            )
        )

    writer = threading.Thread(target=write)
    writer.start()
    for size in range(65, 73):
        volume.good("resize", "disk0", f"{size}M")
    writer.join()
    assert done[0].returncode == 0, done[0].stderr


def test_what_was_made_stays_where_it_was(server: LunmeshServer, volume: VolumeCommand) -> None:
    volume.good("create", "a", "16M", "--lun", "7")
    volume.good("create", "b", "16M", "--readonly")
    volume.good("create", "c", "16M")
    volume.good("delete", "b", "--yes")
    server.kill()
    server.start()
    found = {v["name"]: (v["lun"], v["read_only"]) for v in volume.json("list")}
    assert found == {"disk0": (0, False), "a": (7, False), "c": (2, False)}
    volume.good("create", "d", "16M")
    assert volume.json("show", "d")["lun"] == 1


def test_a_crash_in_the_middle_of_a_deletion(server: LunmeshServer, volume: VolumeCommand) -> None:
    """The catalog says that it is to go: the next start sees to it."""
    volume.good("create", "db", "16M")
    server.kill()
    catalog = server.data_dir / "catalog.json"
    kept = json.loads(catalog.read_text())
    kept["volumes"]["db"]["deleting"] = True
    catalog.write_text(json.dumps(kept))
    server.start()
    assert [v["name"] for v in volume.json("list") if v["lun"] is not None] == ["disk0"]
    volume.good("create", "other", "16M")
    server.stop()  # whatever was to be deleted has been, or is again at the next start
    assert "db" not in json.loads(catalog.read_text())["volumes"]
    assert not (server.data_dir / "volumes" / "db.raw").exists()


def test_volumes_on_workers(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(LunmeshWorker(tmp_path / f"w{n}")) for n in range(3)]
        flags = ["--worker", workers[0].address, "--worker-timeout", "5", "--worker-wait", "2"]
        server = LunmeshServer(tmp_path / "server", ["disk0=16M"], arguments=flags)
        stack.enter_context(server)
        volume = VolumeCommand(server)
        both = [part for worker in workers[1:] for part in ("--worker", worker.address)]
        made = volume.json("create", "wide", "16M", "--chunk", "1M", *both)
        assert [w["address"] for w in made["workers"]] == [w.address for w in workers[1:]]
        assert all(w["served"] for w in made["workers"])
        data = random.Random(2).randbytes(MIB)
        with logged_in(server, 0, 1) as session:
            for at in range(0, 16 * MIB // 512, MIB // 512):
                task = session.command(cdb.write10(at, MIB // 512), lun=1, data_out=data)
                assert task.status == GOOD
            volume.good("resize", "wide", "24M")
            assert news(session, 1) == [CAPACITY_CHANGED]
            at = 24 * MIB // 512 - 8
            assert session.command(cdb.write10(at, 8), lun=1, data_out=data[:4096]).status == GOOD
        shares = [tmp_path / f"w{n}" / "store" / "volumes" / "wide" for n in (1, 2)]
        assert all(share.exists() for share in shares)
        workers[1].kill()
        assert "worker" in volume.refused("resize", "wide", "32M")
        assert volume.json("show", "wide")["size_bytes"] == 24 * MIB
        assert "worker" in volume.refused("create", "more", "16M", "--worker", workers[1].address)
        volume.good("delete", "wide", "--yes")
        assert [v["lun"] for v in volume.json("list") if v["name"] == "wide"] == [None]
        until(lambda: volume.json("show", "wide")["deletion"]["trouble"] != "")
        left = volume.json("show", "wide")["deletion"]
        assert (left["workers_done"], left["workers_total"]) == (1, 2), "the others do not wait"
        assert workers[1].address in left["trouble"]
        assert [share.exists() for share in shares] == [True, False]
        assert "at 1 of 2 workers; worker" in volume.good("show", "wide")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(volume.json, "delete", "wide", "--yes", "--wait")
            workers[1].start()
            assert waiting.result() == {"deleted": "wide"}
        assert [v["name"] for v in volume.json("list")] == ["disk0"]
        assert not any(share.exists() for share in shares)


def test_the_first_worker_of_a_node_that_runs(
    server: LunmeshServer, volume: VolumeCommand, tmp_path: Path
) -> None:
    with LunmeshWorker(tmp_path / "worker") as worker:
        made = volume.json("create", "far", "16M", "--worker", worker.address)
        assert [w["served"] for w in made["workers"]] == [True]
        with logged_in(server, 0, 1) as session:
            assert session.command(cdb.write10(0, 8), lun=1, data_out=bytes(4096)).status == GOOD


def test_mistakes(server: LunmeshServer, volume: VolumeCommand) -> None:
    assert "smaller than one block" in volume.refused("create", "x", "12", status=2)
    assert "bad volume name" in volume.refused("create", "a/b", "1G", status=2)
    assert "no multiple" in volume.refused("create", "x", "1000001", status=2)
    assert "block must be 512 or 4096" in volume.refused(
        "create", "x", "1G", "--block", "777", status=2
    )
    assert "--lun" in volume.refused("create", "x", "1G", "--lun", "first", status=2)
    assert "LUN 0 is volume 'disk0'" in volume.refused("create", "x", "1G", "--lun", "0")
    assert "must be 0 to" in volume.refused("create", "x", "1G", "--lun", "99999")
    assert "bad worker" in volume.refused("create", "x", "1G", "--worker", "h:x", status=2)
    assert "is there already" in volume.refused("create", "disk0", "1G")
    assert "would come back empty" in volume.refused("delete", "disk0", "--yes")
    assert "needs a yes" in volume.refused("delete", "disk0", status=2)
    assert volume.refused("resize", "nope", "1G") == "no volume 'nope'"
    assert "bad size" in volume.refused("resize", "disk0", "much", status=2)
    server.stop()
    assert "is lunmesh serve running" in volume.refused("list")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/v1/volumes", {"Host": "evil.example"}, None, 403),
        ("POST", "/v1/volumes", {"Content-Type": "text/plain"}, b"{}", 415),
        ("POST", "/v1/volumes", {"Content-Type": "application/json"}, b"{", 400),
        ("POST", "/v1/volumes", {"Content-Type": "application/json"}, b"{}", 400),
        ("POST", "/v1/volumes", {"Content-Type": "application/json"}, b" " * 70000, 413),
        ("DELETE", "/v1/volumes/disk0?force=perhaps", {}, None, 400),
        ("GET", "/v1/volumes/%2e%2e%2fetc", {}, None, 404),
        ("PUT", "/v1/volumes", {}, None, 405),
        ("GET", "/nothing", {}, None, 404),
    ],
)
def test_requests_that_no_command_sends(
    server: LunmeshServer,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
) -> None:
    host, _, port = server.admin.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    said = json.loads(response.read())
    connection.close()
    assert response.status == status
    assert response.getheader("Content-Type") == "application/problem+json"
    assert (set(said), said["status"]) == ({"title", "status", "detail"}, status)
    assert "\n" not in said["detail"]
