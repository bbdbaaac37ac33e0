"""A volume whose disk takes 200 ms per I/O: memory stays bounded, other volumes keep their speed.

One of the others is on the same worker, beside the slow one, and one is on another worker too.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.bench.memory import Load, play
from tests.bench.procstat import memory_bytes
from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

MIB = 1 << 20
LOAD = Load(sessions=6, depth=16, commands=16)
WORKER_BUFFER_BYTES = 64 * MIB
# Beyond its buffers, and for one node's messages in gRPC (docs/worker.md, "Memory").
WORKER_BASE_BYTES = (60 + 9) * MIB
# Of its own speed in the same run; beside it, the machine and this process have the slow volume's
# sessions to do as well, and others may use the machine.  If its I/O waited for the slow disk, a
# fiftieth would be left.
KEPT = 0.1
ALONE_SECONDS = 3.0
UNMAP = 0x08


class User(threading.Thread):
    """Reads 4 KiB of a LUN, and unmaps them, again and again, one command at a time.

    A read is done on the spot, for which the worker's loop has to be free; to unmap takes a thread.
    """

    def __init__(self, server: LunmeshServer, lun: int) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._lun = lun
        self._over = threading.Event()
        self.commands = 0
        self.failed = 0
        self.seconds: list[float] = []  # of each command

    def run(self) -> None:
        server, lun = self._server, self._lun
        with Initiator(server.host, server.port, target=server.iqn, timeout=60) as iscsi:
            iscsi.login()
            while iscsi.command(cdb.TEST_UNIT_READY, lun=lun).sense_key == 6:
                pass
            while not self._over.is_set():
                lba = 8 * (self.commands % 1024)
                begun = time.perf_counter()
                unmap = cdb.write_same16(lba, 8, UNMAP)
                for task in (
                    iscsi.command(cdb.read16(lba, 8), read_length=4096, lun=lun),
                    iscsi.command(unmap, data_out=bytes(512), lun=lun),
                ):
                    self.commands += 1
                    self.failed += task.status != 0
                self.seconds.append(time.perf_counter() - begun)
            iscsi.logout()

    def stop(self) -> float:
        """What a read and an unmap take for half of the time, in seconds.

        Not the median of them: a long one is one, and there are hundreds while nothing is slow.
        """
        self._over.set()
        self.join()
        assert self.failed == 0
        left = sum(self.seconds) / 2
        for each in sorted(self.seconds):
            left -= each
            if left < 0:
                return each
        raise AssertionError("no commands")


def users(server: LunmeshServer) -> list[User]:
    """Of the volumes that are not slow."""
    started = [User(server, lun) for lun in (1, 2)]
    for user in started:
        user.start()
    return started


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_memory_stays_bounded_and_other_volumes_keep_their_speed(tmp_path: Path) -> None:
    disks = [f"disk0={LOAD.disk_bytes}", "disk1=16M", "disk2=16M"]
    flags = ["--buffer-memory", str(LOAD.buffer_bytes), "--worker-timeout", "60"]
    faults = ["--fault", "stall=200ms,volume=disk0", "--buffer-memory", str(WORKER_BUFFER_BYTES)]
    with (
        LunmeshWorker(tmp_path / "slow", arguments=faults) as slow,
        LunmeshWorker(tmp_path / "other") as other,
    ):
        folder = tmp_path / "server"
        with LunmeshServer(folder, disks[:2], arguments=[*flags, "--worker", slow.address]):
            pass  # disk0 and disk1 are on the slow worker from now on
        flags += ["--worker", other.address]
        with LunmeshServer(folder, disks, arguments=flags) as server:
            alone = users(server)
            time.sleep(ALONE_SECONDS)  # of measuring
            before = [user.stop() for user in alone]
            beside = users(server)
            try:
                outcome = play(LOAD, server)
            finally:
                during = [user.stop() for user in beside]
            slow_bytes = memory_bytes([slow.pid], "VmHWM")
    kept = [a / b for a, b in zip(before, during, strict=True)]
    print(
        f"target {outcome.peak_bytes / MIB:.1f} MiB, slow worker {slow_bytes / MIB:.1f} MiB, "
        f"{outcome.answered} commands of the slow volume; a read and an unmap of the others: "
        + ", ".join(
            f"{a * 1e3:.1f} ms, before {b * 1e3:.1f}" for a, b in zip(during, before, strict=True)
        )
    )
    assert outcome.answered == LOAD.sessions * LOAD.commands
    assert set(outcome.statuses) == {0}
    assert outcome.wrong_reads == 0
    assert outcome.peak_bytes <= LOAD.limit_bytes
    assert slow_bytes <= WORKER_BUFFER_BYTES + WORKER_BASE_BYTES
    assert min(kept) >= KEPT, kept
