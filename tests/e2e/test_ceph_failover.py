"""One target over two workers of a real Ceph pool: one is stopped, killed, woken during I/O."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.scrape import scrape
from tests.support.verified_writes import VerifiedWrites

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(240)]
MIB = 1 << 20
CHUNKS = 24
NOTICED_SECONDS = 60.0
# What an initiator waits for an answer: three times the pause that failing over is to cost.
ANSWER_SECONDS = 15.0


@pytest.fixture
def workers(tmp_path: Path, ceph: CephCluster, ceph_pool: str) -> Iterator[list[LunmeshWorker]]:
    store = f"rados:{ceph_pool}@{ceph.conf}"
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(LunmeshWorker(tmp_path / f"worker{n}", store=store))
            for n in range(2)
        ]


@pytest.fixture
def server(tmp_path: Path, workers: list[LunmeshWorker]) -> Iterator[LunmeshServer]:
    arguments = [part for worker in workers for part in ("--worker", worker.address)]
    # So that the initiator loses its patience before the target does: BUSY, too, means that nobody
    # stood in.
    arguments += ["--worker-timeout", "20"]
    volumes = [f"{tmp_path.name[:40]}={CHUNKS}M,chunk=1M"]
    with LunmeshServer(tmp_path / "server", volumes, arguments=arguments) as server:
        yield server


@contextlib.contextmanager
def verified(server: LunmeshServer) -> Iterator[VerifiedWrites]:
    with VerifiedWrites(
        server.host,
        server.port,
        server.iqn,
        chunks=CHUNKS,
        chunk_bytes=MIB,
        answer_seconds=ANSWER_SECONDS,
    ) as client:
        yield client


def until_said(server: LunmeshServer, what: str, times: int) -> None:
    """Until the log of the server has said it so often."""
    deadline = time.monotonic() + NOTICED_SECONDS
    while server.stderr().count(what) < times:
        assert time.monotonic() < deadline, f"not {times} times: {what}\n{server.stderr()[-3000:]}"
        time.sleep(0.05)


def test_a_worker_that_is_stopped_in_the_middle_of_writes_and_woken(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    with verified(server) as client:
        for turn, worker in enumerate(workers, 1):
            served = server.stderr().count("worker serves")
            worker.signal(signal.SIGSTOP)
            until_said(server, "others stand in", turn)
            client.rounds(3)
            worker.signal(signal.SIGCONT)
            until_said(server, "worker serves", served + 1)  # as another process
            client.rounds(3)
    found = scrape(server.admin)
    for worker in workers:
        assert found.get("worker_failovers_total", worker=worker.address) == 1
        assert found.get("worker_served", worker=worker.address) == 1
    assert found.get("evictions_total") >= 2
    assert client.busy == 0
    print(f"longest round: {client.longest:.1f} s")


def test_workers_that_are_killed_and_started_again(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    with verified(server) as client:
        for turn, worker in enumerate(workers, 1):
            served = server.stderr().count("worker serves")
            worker.kill()
            until_said(server, "others stand in", turn)
            client.rounds(3)
            worker.start()
            until_said(server, "worker serves", served + 1)
            client.rounds(3)
            worker.kill()
            worker.start()  # sooner than others stand in, perhaps
            client.rounds(3)
    assert client.busy == 0


def test_a_node_that_is_killed_while_a_worker_is_stopped(
    workers: list[LunmeshWorker], server: LunmeshServer
) -> None:
    """Its next life knows whom to shut out before it sends anything."""
    with verified(server) as client:
        workers[0].signal(signal.SIGSTOP)
        server.kill()
        server.start()
        until_said(server, "others stand in", 1)
        client.rounds(3)
        workers[0].signal(signal.SIGCONT)
        client.rounds(3)
        server.kill()
        server.start()
        client.rounds(3)
    catalog = json.loads((server.data_dir / "catalog.json").read_text())["volumes"]
    places = [place for volume in catalog.values() for place in volume["workers"]]
    assert len({place["store_id"] for place in places}) == 1
    assert len({place["instance"] for place in places}) == 2
