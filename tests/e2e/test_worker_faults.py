"""What an initiator sees of a worker's troubles: full, broken and forgetful disks, silence."""

from __future__ import annotations

import contextlib
import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from target.block.placement import Placement
from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.small_disk import CannotMount, FailingDisk, SmallDisk

MIB = 1 << 20
SIZE = 64 * MIB
CHUNK_BLOCKS = MIB // 512
DISK_BYTES = 24 * MIB
GOOD = 0
FUA = 0x08
SPACE_ALLOCATION_FAILED = (0x7, 0x27, 0x07)
WRITE_PROTECTED = (0x7, 0x27, 0x00)
SYNC_LOST = (0x3, 0x0C, 0x02)
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


def write(iscsi: Initiator, chunk: int, flags: int = 0) -> Task:
    return iscsi.command(cdb.write16(chunk * CHUNK_BLOCKS, BLOCKS, flags), data_out=DATA)


def read(iscsi: Initiator, chunk: int) -> Task:
    return iscsi.command(cdb.read16(chunk * CHUNK_BLOCKS, BLOCKS), read_length=len(DATA))


D = TypeVar("D", SmallDisk, FailingDisk)


def mounted(stack: contextlib.ExitStack, disk: D) -> D:
    try:
        return stack.enter_context(disk)
    except CannotMount as exc:
        pytest.skip(f"a small file system cannot be mounted: {exc}")


def test_a_full_disk_is_told_as_one_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, SmallDisk(tmp_path / "disk", DISK_BYTES))
        store = f"file:{disk.folder}/worker"
        worker = stack.enter_context(LunmeshWorker(tmp_path / "worker", store=store))
        _, iscsi = stack.enter_context(session(tmp_path / "server", worker))
        assert write(iscsi, 0).status == GOOD
        disk.fill()
        for flags in (0, FUA):
            assert write(iscsi, 1, flags).sense_triple == SPACE_ALLOCATION_FAILED
        # What is there can be read and written over, and is durable.
        assert bytes(read(iscsi, 0).data_in) == DATA
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        disk.empty()
        assert write(iscsi, 1).status == GOOD
        assert bytes(read(iscsi, 1).data_in) == DATA


def test_a_file_system_that_turned_read_only_is_told_as_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = mounted(stack, FailingDisk(tmp_path / "disk", DISK_BYTES))
        store = f"file:{disk.folder}/worker"
        worker = stack.enter_context(LunmeshWorker(tmp_path / "worker", store=store))
        _, iscsi = stack.enter_context(session(tmp_path / "server", worker))
        assert write(iscsi, 0).status == GOOD
        assert iscsi.command(cdb.synchronize_cache10()).status == GOOD
        disk.fail()
        for chunk in (0, 1):
            assert write(iscsi, chunk).sense_triple == WRITE_PROTECTED
        assert bytes(read(iscsi, 0).data_in) == DATA


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
