"""One target, three workers in processes of their own: a real client, and workers that die."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from target.block.placement import Placement
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

MIB = 1 << 20
SIZE = 96 * MIB
QEMU_SECONDS = 100
CHUNKS_TRIED = 16


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[LunmeshWorker]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(LunmeshWorker(tmp_path / f"worker{n}")) for n in range(3)]


@pytest.fixture
def server(tmp_path: Path, workers: list[LunmeshWorker]) -> Iterator[LunmeshServer]:
    with LunmeshServer(
        tmp_path / "server", [f"disk0={SIZE},chunk=1M"], arguments=flags(workers)
    ) as server:
        yield server


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    path.write_bytes(random.Random(7).randbytes(SIZE))
    return path


def flags(workers: list[LunmeshWorker]) -> list[str]:
    return [part for worker in workers for part in ("--worker", worker.address)]


def qemu_img(*arguments: str) -> None:
    done = subprocess.run(
        ["qemu-img", *arguments], capture_output=True, text=True, timeout=QEMU_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write(image: Path, server: LunmeshServer) -> None:
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", str(image), server.url())


def compare(image: Path, server: LunmeshServer) -> None:
    qemu_img("compare", "-f", "raw", "-F", "raw", str(image), server.url())


def test_an_image_through_three_workers(
    workers: list[LunmeshWorker], server: LunmeshServer, image: Path
) -> None:
    write(image, server)
    compare(image, server)
    for worker in workers:
        assert SIZE / 6 < allocated_bytes(worker) < SIZE / 2
    server.restart()  # placement and shares are found again
    compare(image, server)
    for worker in workers:
        assert worker.stop() == 0
    for worker in reversed(workers):
        worker.start()
    compare(image, server)


@pytest.mark.timeout(200)
def test_workers_are_killed_in_the_middle_of_writes(
    workers: list[LunmeshWorker], server: LunmeshServer, image: Path
) -> None:
    killed = 0
    over = threading.Event()

    def kill_in_turn() -> None:
        nonlocal killed
        for worker in workers * 10:
            if over.wait(0.2):
                return
            worker.kill()
            worker.start()
            killed += 1

    killer = threading.Thread(target=kill_in_turn)
    killer.start()
    try:
        while killed < 3 and killer.is_alive():
            write(image, server)
    finally:
        over.set()
        killer.join()
    assert killed >= 3
    compare(image, server)
    assert "retried=" in server.stderr()


@pytest.mark.timeout(200)
def test_a_worker_that_was_stopped_writes_nothing_over_newer_data(
    workers: list[LunmeshWorker], server: LunmeshServer, image: Path
) -> None:
    """It is stopped for longer than it takes to give its connection up."""
    old = image.with_name("old.raw")
    old.write_bytes(random.Random(8).randbytes(SIZE))
    over = threading.Event()

    def stop_for_a_while() -> None:
        time.sleep(0.3)
        workers[1].signal(signal.SIGSTOP)
        over.wait(7)
        workers[1].signal(signal.SIGCONT)

    stopper = threading.Thread(target=stop_for_a_while)
    stopper.start()
    write(old, server)
    write(image, server)
    over.set()
    stopper.join()
    compare(image, server)


def test_a_worker_that_is_away_makes_only_its_chunks_unavailable(
    tmp_path: Path, workers: list[LunmeshWorker], image: Path
) -> None:
    arguments = [*flags(workers), "--worker-timeout", "1", "--worker-wait", "0.5"]
    arguments += ["--worker-away", "not-ready"]
    with LunmeshServer(
        tmp_path / "server", [f"disk0={SIZE},chunk=1M"], arguments=arguments
    ) as server:
        write(image, server)
        workers[2].kill()
        server.restart()
        assert "started without a worker" in server.stderr()
        catalog = json.loads((server.data_dir / "catalog.json").read_text())["volumes"]["disk0"]
        keys = [place["key"] for place in catalog["workers"]]
        placement = Placement(uuid.UUID(catalog["uuid"]), keys)
        for chunk in range(CHUNKS_TRIED):
            assert reads(server, chunk) == (placement(chunk) != 2)
        workers[2].start()
        compare(image, server)


def allocated_bytes(worker: LunmeshWorker) -> int:
    """What a worker's volumes take on the disk."""
    store = Path(worker.store.removeprefix("file:"))
    return sum(path.stat().st_blocks * 512 for path in store.rglob("*.raw"))


def reads(server: LunmeshServer, chunk: int) -> bool:
    """Whether the first block of a chunk can be read."""
    command = ["qemu-io", "-r", "-f", "raw", "-c", f"read {chunk * MIB} 4096", server.url()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=QEMU_SECONDS)
    return done.returncode == 0 and "read failed" not in done.stdout + done.stderr
