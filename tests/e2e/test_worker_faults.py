"""What an initiator sees of a worker's troubles: full, broken and forgetful disks, silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from lunmesh.worker.v2 import worker_pb2 as pb

from target.block.placement import Placement
from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.small_disk import CannotMount, FailingDisk, LosingDisk, SmallDisk
from tests.support.verified_writes import VerifiedWrites
from tests.support.worker_client import WorkerClient, refused_by

MIB = 1 << 20
SIZE = 64 * MIB
CHUNK_BLOCKS = MIB // 512
DISK_BYTES = 24 * MIB
GOOD = 0
FUA = 0x08
SPACE_ALLOCATION_FAILED = (0x7, 0x27, 0x07)
WRITE_PROTECTED = (0x7, 0x27, 0x00)
SYNC_LOST = (0x3, 0x0C, 0x02)
ANSWER_SECONDS = 15.0  # what an initiator waits: three times the longest pause
NOTICED_SECONDS = 60.0
DATA = bytes(range(256)) * 256  # 64 KiB
BLOCKS = len(DATA) // 512


@contextlib.contextmanager
def session(folder: Path, *workers: LunmeshWorker) -> Iterator[tuple[LunmeshServer, Initiator]]:
    """A target with a disk on these workers, and a session with it that has no unit attention."""
    flags = [part for worker in workers for part in ("--worker", worker.address)]
    flags += ["--worker-timeout", "3"]
    with (
        LunmeshServer(folder, [f"disk0={SIZE},chunk=1M"], arguments=flags) as server,
        Initiator(server.host, server.port, target=server.iqn, timeout=30) as iscsi,
    ):
        iscsi.login()
        while iscsi.command(cdb.TEST_UNIT_READY).sense_key == 6:
            pass
        yield server, iscsi


def fence(address: str, epoch: int) -> int:
    """Have a worker refuse a node; what it says."""

    async def call() -> int:
        async with WorkerClient(address) as worker:
            request = pb.FenceRequest(fence=pb.NodeFence(node="dead", epoch=epoch), timeout_ms=5000)
            return int((await worker.control.Fence(request)).status)

    return asyncio.run(call())


def write(iscsi: Initiator, chunk: int, flags: int = 0) -> Task:
    return iscsi.command(cdb.write16(chunk * CHUNK_BLOCKS, BLOCKS, flags), data_out=DATA)


def read(iscsi: Initiator, chunk: int) -> Task:
    return iscsi.command(cdb.read16(chunk * CHUNK_BLOCKS, BLOCKS), read_length=len(DATA))


D = TypeVar("D", SmallDisk, FailingDisk, LosingDisk)


def mounted(stack: contextlib.ExitStack, disk: D) -> D:
    try:
        return stack.enter_context(disk)
    except CannotMount as exc:
        pytest.skip(f"a small file system cannot be mounted: {exc}")


def served(
    stack: contextlib.ExitStack, folder: Path, disk: SmallDisk | FailingDisk | LosingDisk
) -> tuple[LunmeshWorker, Initiator]:
    """A worker whose store is on ``disk``, and a session with a target over it."""
    worker = LunmeshWorker(folder / "worker", store=f"file:{disk.folder}/worker")
    stack.enter_context(worker)
    _, iscsi = stack.enter_context(session(folder / "server", worker))
    return worker, iscsi


def test_a_full_disk_is_told_as_one_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, SmallDisk(tmp_path / "disk", DISK_BYTES))
        worker, iscsi = served(stack, tmp_path, disk)
        assert write(iscsi, 0).status == GOOD
        disk.fill()
        for flags in (0, FUA):
            assert write(iscsi, 1, flags).sense_triple == SPACE_ALLOCATION_FAILED
        # A dead node's place can be taken: that it is refused is kept on the full disk.
        for epoch in (1, 2, 3):
            assert fence(worker.address, epoch) == pb.STATUS_OK
        assert asyncio.run(refused_by(worker.address)) == {"dead": 3}
        # What is there can be read and written over, and is durable.
        assert bytes(read(iscsi, 0).data_in) == DATA
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        disk.empty()
        assert write(iscsi, 1).status == GOOD
        assert bytes(read(iscsi, 1).data_in) == DATA
        disk.fill()
        worker.kill()
        worker.start()
        assert asyncio.run(refused_by(worker.address)) == {"dead": 3}
        assert fence(worker.address, 4) == pb.STATUS_OK


def test_a_file_system_that_turned_read_only_is_told_as_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, FailingDisk(tmp_path / "disk", DISK_BYTES))
        worker, iscsi = served(stack, tmp_path, disk)
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        disk.fail()
        for chunk in (0, 1):
            assert write(iscsi, chunk).sense_triple == WRITE_PROTECTED
        assert bytes(read(iscsi, 0).data_in) == DATA
        # Nothing of a dead node can be kept here, and that is said.
        assert fence(worker.address, 1) == pb.STATUS_READ_ONLY


def test_a_worker_started_on_a_read_only_file_system_serves_what_is_there(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, FailingDisk(tmp_path / "disk", DISK_BYTES))
        worker, iscsi = served(stack, tmp_path, disk)
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        assert fence(worker.address, 1) == pb.STATUS_OK
        assert worker.stop() == 0
        disk.remount("ro")
        worker.start()
        while iscsi.command(cdb.TEST_UNIT_READY).status != GOOD:
            pass
        assert bytes(read(iscsi, 0).data_in) == DATA
        for chunk, flags in ((0, 0), (1, 0), (1, FUA)):
            assert write(iscsi, chunk, flags).sense_triple == WRITE_PROTECTED
        assert asyncio.run(refused_by(worker.address)) == {"dead": 1}
        with pytest.raises(WorkerProcessError, match="in use by process unknown"):
            LunmeshWorker(tmp_path / "second", store=f"file:{disk.folder}/worker").start()
        assert worker.stop() == 0
        disk.remount("rw")
        worker.start()
        while write(iscsi, 1).status != GOOD:
            pass
        assert bytes(read(iscsi, 1).data_in) == DATA


def test_a_lost_flush_fails_and_no_later_one_pretends(tmp_path: Path) -> None:
    """One worker loses a flush at some time; what the other one says is no excuse."""
    with (
        LunmeshWorker(tmp_path / "a") as good,
        LunmeshWorker(tmp_path / "b", arguments=["--fault", "lost-flush=0.1,seed=16"]) as losing,
        session(tmp_path / "server", good, losing) as (server, iscsi),
    ):
        flush = cdb.synchronize_cache10()
        results = [iscsi.command(flush) for _ in range(40)]
        first = next(n for n, task in enumerate(results) if task.status != GOOD)
        assert 0 < first < 30  # there were good ones, and many to pretend
        assert {task.sense_triple for task in results[first:]} == {SYNC_LOST}
        # Whether it is asked for by SYNCHRONIZE CACHE or by FUA, in this session or in another.
        kinds = {write(iscsi, chunk, FUA).sense_triple for chunk in range(16)}
        assert kinds == {(0, 0, 0), SYNC_LOST}
        assert write(iscsi, 0).status == GOOD
        with Initiator(server.host, server.port, target=server.iqn, timeout=30) as other:
            other.login()
            while (task := other.command(flush)).sense_key == 6:
                pass
            assert task.sense_triple == SYNC_LOST


def test_what_a_lost_flush_was_for_can_be_gone(tmp_path: Path) -> None:
    """So that a test which does not look at the flush finds out."""
    with LunmeshWorker(tmp_path / "worker") as worker:
        with session(tmp_path / "server", worker) as (_, iscsi):
            assert write(iscsi, 0).status == GOOD
            assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        worker.kill()
        worker.start("--fault", "lost-flush=1,drop=1")
        with session(tmp_path / "server", worker) as (_, iscsi):
            for chunk in (0, 1):
                blocks = cdb.write16(chunk * CHUNK_BLOCKS, BLOCKS)
                assert iscsi.command(blocks, data_out=DATA[::-1]).status == GOOD
                assert bytes(read(iscsi, chunk).data_in) == DATA[::-1]
            assert iscsi.command(cdb.synchronize_cache10()).sense_triple == SYNC_LOST
            assert bytes(read(iscsi, 0).data_in) == DATA
            assert bytes(read(iscsi, 1).data_in) == bytes(len(DATA))


def flushes(iscsi: Initiator) -> list[Task]:
    """Three, and what comes before."""
    while iscsi.command(cdb.TEST_UNIT_READY).status != GOOD:
        pass
    return [iscsi.command(cdb.synchronize_cache10()) for _ in range(3)]


def lost_once(tasks: list[Task]) -> bool:
    return [task.sense_triple for task in tasks] == [SYNC_LOST, (0, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("flushed", [False, True], ids=["at its end only", "and killed"])
def test_what_a_worker_could_not_flush_is_said_by_the_one_after_it(
    tmp_path: Path, flushed: bool
) -> None:
    with (
        LunmeshWorker(tmp_path / "worker") as worker,
        session(tmp_path / "server", worker) as (_, iscsi),
    ):
        for chunk in (0, 1):
            assert write(iscsi, chunk).status == GOOD
            assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
            worker.kill()  # which by itself loses nothing
            worker.start(*(["--fault", "lost-flush=1"] if chunk else []))
        assert write(iscsi, 2).status == GOOD
        if flushed:
            assert iscsi.command(cdb.synchronize_cache10()).sense_triple == SYNC_LOST
            worker.kill()
        else:
            assert worker.stop() == 1
            assert "the last flush failed" in worker.stderr_path.read_text().splitlines()[-1]
        worker.start()
        assert lost_once(flushes(iscsi))
        assert worker.stop() == 0


def test_writes_that_the_kernel_could_not_keep_are_said_after_a_restart(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, LosingDisk(tmp_path / "disk", DISK_BYTES))
        worker, iscsi = served(stack, tmp_path, disk)
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        disk.lose()
        assert write(iscsi, 1).status == GOOD, "nobody knows yet"
        assert worker.stop() == 1
        worker.start()
        assert lost_once(flushes(iscsi))


def test_a_node_that_checksums_otherwise_than_its_worker_says_so_once(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path / "worker") as worker:
        flags = ["--worker", worker.address, "--worker-wait", "1", "--worker-timeout", "1"]
        flags += ["--worker-checksum", "off"]
        with (
            LunmeshServer(tmp_path / "server", ["disk0=1M"], arguments=flags) as server,
            Initiator(server.host, server.port, target=server.iqn, timeout=30) as iscsi,
        ):
            iscsi.login()
            while iscsi.command(cdb.TEST_UNIT_READY).sense_key == 6:
                pass
            for _ in range(2):
                assert iscsi.command(cdb.write16(0, 1), data_out=bytes(512)).status != GOOD
            refused = [line for line in server.stderr().splitlines() if "share refused" in line]
            assert len(refused) == 1
            assert "the worker has checksum on, the node worker-checksum off" in refused[0]
            assert "worker away" not in server.stderr()


def test_a_worker_that_stops_is_noticed_and_the_others_go_on(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(LunmeshWorker(tmp_path / f"w{n}")) for n in range(3)]
        server, iscsi = stack.enter_context(session(tmp_path / "server", *workers))
        catalog = json.loads((server.data_dir / "catalog.json").read_text())["volumes"]["disk0"]
        keys = [place["key"] for place in catalog["workers"]]
        placement = Placement(uuid.UUID(catalog["uuid"]), keys)
        workers[1].signal(signal.SIGSTOP)
        others = [chunk for chunk in range(SIZE // MIB) if placement(chunk) != 1]
        own = next(chunk for chunk in range(SIZE // MIB) if placement(chunk) == 1)
        # The command that it has ends, its connection is given up, all others are answered.
        stuck = iscsi.start(cdb.write16(own * CHUNK_BLOCKS, 1), data_out=bytes(512))
        rounds = 0
        while "worker away" not in server.stderr():
            assert write(iscsi, others[rounds % len(others)]).status == GOOD
            rounds += 1
        iscsi.wait(stuck)
        assert stuck.status != GOOD
        (line,) = [line for line in server.stderr().splitlines() if "worker away" in line]
        assert workers[1].address in line
        assert "reason=" in line
        workers[1].signal(signal.SIGCONT)
        while write(iscsi, own).status != GOOD:
            pass


def test_a_worker_that_comes_back_costs_a_pause_and_no_error(tmp_path: Path) -> None:
    """Of its chunks; what was on its way is answered then, and BUSY to nobody."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(LunmeshWorker(tmp_path / f"w{n}")) for n in range(2)]
        flags = [part for worker in workers for part in ("--worker", worker.address)]
        flags += ["--worker-timeout", "20"]  # the initiator loses its patience first
        server = stack.enter_context(
            LunmeshServer(tmp_path / "server", [f"disk0={SIZE},chunk=1M"], arguments=flags)
        )
        client = stack.enter_context(
            VerifiedWrites(
                server.host,
                server.port,
                server.iqn,
                chunks=SIZE // MIB,
                chunk_bytes=MIB,
                answer_seconds=ANSWER_SECONDS,
            )
        )
        for worker in workers:
            worker.kill()
            worker.start()
            client.rounds(3)
            away = server.stderr().count("worker away")
            worker.signal(signal.SIGSTOP)
            deadline = time.monotonic() + NOTICED_SECONDS
            while server.stderr().count("worker away") == away:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            worker.signal(signal.SIGCONT)
            client.rounds(3)
    assert client.busy == 0
