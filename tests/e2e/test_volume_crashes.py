"""The node is killed in the middle of a change, while it waits for a worker that is stopped.

Afterwards there is the old state or the new one, and nothing is left at any worker.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

pytestmark = pytest.mark.timeout(240)
MIB = 1 << 20
SIZE = 4 * MIB
BLOCK = 512
SECONDS_MAX = 60


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[LunmeshWorker]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(LunmeshWorker(tmp_path / f"worker{n}")) for n in range(3)]


@pytest.fixture
def server(tmp_path: Path, workers: list[LunmeshWorker]) -> Iterator[LunmeshServer]:
    # Long enough for it to be killed while it waits.
    flags = ["--worker-wait", str(SECONDS_MAX)]
    with LunmeshServer(tmp_path / "server", ["disk0=16M"], arguments=flags) as server:
        yield server


def share(worker: LunmeshWorker, name: str) -> Path:
    """What says that the worker has one."""
    return Path(worker.store.removeprefix("file:")) / "volumes" / name / "share.json"


def at(*workers: LunmeshWorker) -> list[str]:
    return [part for worker in workers for part in ("--worker", worker.address)]


def killed_during(
    server: LunmeshServer, stopped: LunmeshWorker, begun: Callable[[], bool], *arguments: str
) -> None:
    """Kill the node in the middle of ``lunmesh volume …``, and start it again."""
    stopped.signal(signal.SIGSTOP)
    command = [sys.executable, "-m", "target.cli", "volume", *arguments, "--admin", server.admin]
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asked:
        deadline = time.monotonic() + SECONDS_MAX
        while not begun() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert begun()
        assert asked.poll() is None, "it has not been in the middle of it"
        server.kill()
        assert asked.wait(SECONDS_MAX) == 1
    stopped.signal(signal.SIGCONT)
    server.start()


def read(server: LunmeshServer, lun: int) -> bytes:
    """All of a disk."""
    with Initiator(server.host, server.port, target=server.iqn) as session:
        session.login()
        while session.command(cdb.TEST_UNIT_READY, lun=lun).status:
            pass
        command = cdb.read10(0, SIZE // BLOCK)
        return bytes(session.command(command, lun=lun, read_length=SIZE).data_in)


def write(server: LunmeshServer, lun: int, data: bytes) -> None:
    with Initiator(server.host, server.port, target=server.iqn) as session:
        session.login()
        while session.command(cdb.TEST_UNIT_READY, lun=lun).status:
            pass
        command = cdb.write10(0, len(data) // BLOCK)
        assert session.command(command, lun=lun, data_out=data).status == 0


def test_a_volume_is_made_whole_by_the_next_start(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    volume = VolumeCommand(server)
    first, second, _ = workers
    killed_during(
        server, second, share(first, "db").exists,
        "create", "db", str(SIZE), "--chunk", "64K", *at(first, second),
    )  # fmt: skip
    made = volume.json("show", "db")
    assert [worker["served"] for worker in made["workers"]] == [True, True]
    assert share(second, "db").exists()
    data = random.Random(1).randbytes(SIZE)
    write(server, made["lun"], data)
    assert read(server, made["lun"]) == data
    volume.good("delete", "db", "--yes")
    until(lambda: [v["name"] for v in volume.json("list")] == ["disk0"])
    assert not share(first, "db").exists()
    assert not share(second, "db").exists()


def test_a_volume_that_was_about_to_move_has_not(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    volume = VolumeCommand(server)
    first, second, third = workers
    lun = volume.json("create", "db", str(SIZE), "--chunk", "64K", *at(first))["lun"]
    data = random.Random(2).randbytes(SIZE)
    write(server, lun, data)
    killed_during(
        server, third, share(second, "db").exists, "migrate", "db", *at(second, third)
    )  # fmt: skip
    until(lambda: not volume.json("show", "db")["retired"])
    found = volume.json("show", "db")
    assert found["migration"] is None
    assert [worker["address"] for worker in found["workers"]] == [first.address]
    assert not share(second, "db").exists()
    assert not share(third, "db").exists()
    assert read(server, lun) == data
    moved = volume.run("migrate", "db", *at(second, third))
    assert moved.status == 0, moved.error
    assert read(server, lun) == data
