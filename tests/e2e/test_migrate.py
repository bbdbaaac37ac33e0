"""``lunmesh volume migrate`` with real workers: while it is written, and while things die."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.until import until

MIB = 1 << 20
CHUNKS = 64
SIZE = CHUNKS * MIB
SECONDS_MAX = 100
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[LunmeshWorker]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                LunmeshWorker(
                    tmp_path / f"worker{n}",
                    # The one that comes is slow, so that there is a middle to kill things in.
                    arguments=("--fault", "delay=200ms") if n == 2 else (),
                )
            )
            for n in range(3)
        ]


@pytest.fixture
def server(tmp_path: Path, workers: list[LunmeshWorker]) -> Iterator[LunmeshServer]:
    flags = ["--worker", workers[0].address, "--worker", workers[1].address]
    with LunmeshServer(tmp_path / "server", [f"disk0={SIZE},chunk=1M"], arguments=flags) as running:
        yield running


def qemu_img(*arguments: str) -> None:
    done = subprocess.run(
        ["qemu-img", *arguments], capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write(image: Path, server: LunmeshServer) -> None:
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", str(image), server.url())


def compare(image: Path, server: LunmeshServer) -> None:
    qemu_img("compare", "-f", "raw", "-F", "raw", str(image), server.url())


def command(server: LunmeshServer, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "target.cli", "volume", *arguments, "--admin", server.admin]


def volume(server: LunmeshServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX
    )


def shown(server: LunmeshServer) -> dict[str, Any]:
    done = volume(server, "show", "disk0", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def to(workers: list[LunmeshWorker]) -> list[str]:
    return [part for worker in workers for part in ("--worker", worker.address)]


def in_the_middle(server: LunmeshServer, done: int) -> None:
    until(lambda: shown(server)["migration"]["chunks_done"] >= done)


def shares(worker: LunmeshWorker) -> list[Path]:
    return list(Path(worker.store.removeprefix("file:")).rglob("*.raw"))


def allocated_bytes(worker: LunmeshWorker) -> int:
    return sum(path.stat().st_blocks * 512 for path in shares(worker))


@pytest.mark.timeout(300)
def test_a_worker_comes_and_one_goes_while_it_is_written_and_all_are_killed(
    tmp_path: Path, workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(random.Random(1).randbytes(SIZE))
    goal = to(workers[1:])
    write(image, server)
    begun = volume(server, "migrate", "disk0", *goal, "--detach", "--json")
    assert begun.returncode == 0, begun.stderr
    assert json.loads(begun.stdout)["migration"]["chunks_total"] == CHUNKS
    other = volume(server, "migrate", "disk0", *to(workers[:1]), "--detach")
    assert other.returncode == 1
    assert "is moving to" in other.stderr

    in_the_middle(server, 8)
    server.kill()
    server.start()
    assert shown(server)["migration"]["chunks_done"] >= 8

    half = SIZE // 2  # of what was there, the other half has to survive all that follows
    writes = [f"write -P 0x5a {at} {4 * MIB}" for at in range(half, SIZE, 4 * MIB)]
    commands = [part for write in writes for part in ("-c", write)]
    with image.open("r+b") as stream:
        stream.seek(half)
        stream.write(b"\x5a" * half)
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", *commands, server.url()], stdout=subprocess.PIPE, text=True
    ) as writer:
        workers[2].kill()
        workers[2].start()
        workers[0].kill()
        workers[0].start()
        said, _ = writer.communicate(timeout=SECONDS_MAX)
        assert writer.returncode == 0
    assert "failed" not in said
    assert shown(server)["migration"] is not None, "too fast for this test"

    followed = volume(server, "migrate", "disk0", *goal)
    assert followed.returncode == 0, followed.stderr
    assert "64/64" in followed.stderr
    compare(image, server)
    until(lambda: not shown(server)["retired"])
    assert shares(workers[0]) == []
    assert [w["address"] for w in shown(server)["workers"]] == [w.address for w in workers[1:]]
    for worker in workers[1:]:
        assert SIZE / 4 < allocated_bytes(worker) < SIZE * 3 / 4
    assert sum(map(allocated_bytes, workers[1:])) < SIZE + SIZE / 16
    server.restart()
    compare(image, server)


def test_a_retired_worker_that_is_away_deletes_its_share_when_it_is_back(
    tmp_path: Path, workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    """Nothing has been written: nothing has to be copied, but its worker has to say so."""
    begun = volume(server, "migrate", "disk0", *to(workers[1:2]), "--json")
    assert begun.returncode == 0, begun.stderr
    until(lambda: not shown(server)["retired"])
    workers[1].kill()
    back = volume(server, "migrate", "disk0", *to(workers[:1]), "--detach")
    assert back.returncode == 0, back.stderr
    until(lambda: shown(server)["migration"]["trouble"] != "")
    workers[1].start()
    until(lambda: shown(server)["migration"] is None and not shown(server)["retired"])
    assert shares(workers[1]) == []
    assert len(shares(workers[0])) == 1


def test_a_worker_that_does_not_answer_is_moved_nothing_to(
    tmp_path: Path, workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    refused = volume(server, "migrate", "disk0", "--worker", f"unix:{tmp_path}/nobody")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert shown(server)["migration"] is None
    assert len(shown(server)["workers"]) == 2


def test_ctrl_c_detaches_and_the_volume_goes_on_moving(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    workers[0].signal(signal.SIGSTOP)
    terminal, its_end = pty.openpty()  # where progress is shown as it goes
    with subprocess.Popen(
        command(server, "migrate", "disk0", *to(workers[1:])),
        cwd=ROOT,
        stderr=its_end,
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        os.close(its_end)
        said = ""
        while "chunks" not in said:
            said += os.read(terminal, 4096).decode()
        follower.send_signal(signal.SIGINT)
        while "detached" not in said:
            said += os.read(terminal, 4096).decode()
        assert follower.wait(SECONDS_MAX) == 0, said
    os.close(terminal)
    assert shown(server)["migration"] is not None
    workers[0].signal(signal.SIGCONT)
    until(lambda: shown(server)["migration"] is None)
