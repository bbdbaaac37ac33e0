"""A worker whose disk takes 200 ms per I/O: memory stays bounded, others keep their speed."""

from __future__ import annotations

import threading
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
FASTER = 20


class Reader(threading.Thread):
    """Reads 4 KiB of LUN 1 again and again, one command at a time."""

    def __init__(self, server: LunmeshServer) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self.reads = 0
        self.failed = 0

    def run(self) -> None:
        server = self._server
        with Initiator(server.host, server.port, target=server.iqn, timeout=60) as iscsi:
            iscsi.login()
            while iscsi.command(cdb.TEST_UNIT_READY, lun=1).sense_key == 6:
                pass
            while not self._over.is_set():
                command = cdb.read16(8 * (self.reads % 1024), 8)
                task = iscsi.command(command, read_length=4096, lun=1)
                self.reads += 1
                self.failed += task.status != 0
            iscsi.logout()

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_memory_stays_bounded_and_other_volumes_keep_their_speed(tmp_path: Path) -> None:
    disk0, disk1 = f"disk0={LOAD.disk_bytes}", "disk1=16M"
    flags = ["--buffer-memory", str(LOAD.buffer_bytes), "--worker-timeout", "60"]
    faults = ["--fault", "delay=200ms", "--buffer-memory", str(WORKER_BUFFER_BYTES)]
    with (
        LunmeshWorker(tmp_path / "slow", arguments=faults) as slow,
        LunmeshWorker(tmp_path / "fast") as fast,
    ):
        folder = tmp_path / "server"
        with LunmeshServer(folder, [disk0], arguments=[*flags, "--worker", slow.address]):
            pass  # disk0 is on the slow worker from now on
        flags += ["--worker", fast.address]
        with LunmeshServer(folder, [disk0, disk1], arguments=flags) as server:
            reader = Reader(server)
            reader.start()
            try:
                outcome = play(LOAD, server)
            finally:
                reader.stop()
            slow_bytes = memory_bytes([slow.pid], "VmHWM")
    print(
        f"target {outcome.peak_bytes / MIB:.1f} MiB, slow worker {slow_bytes / MIB:.1f} MiB, "
        f"{outcome.answered} commands of the slow volume, {reader.reads} of the other"
    )
    assert outcome.answered == LOAD.sessions * LOAD.commands
    assert set(outcome.statuses) == {0}
    assert outcome.wrong_reads == 0
    assert outcome.peak_bytes <= LOAD.limit_bytes
    assert slow_bytes <= WORKER_BUFFER_BYTES + WORKER_BASE_BYTES
    assert reader.failed == 0
    assert reader.reads >= FASTER * outcome.answered
