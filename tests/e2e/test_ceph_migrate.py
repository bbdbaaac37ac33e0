"""``lunmesh volume migrate`` among workers of one Ceph pool: they change, the data stay."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.volume_command import VolumeCommand

pytestmark = pytest.mark.ceph
MIB = 1 << 20
SIZE = 24 * MIB
LOOKS = 100  # each takes as long as a command


def qemu_img(*arguments: str) -> None:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def until(condition: Callable[[], bool]) -> None:
    for _ in range(LOOKS):
        if condition():
            return
    raise AssertionError("it does not come to be so")


def test_nothing_is_copied_and_nothing_deleted(ceph: CephCluster, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(random.Random(3).randbytes(SIZE))
    pool = ceph.create_pool()
    store = f"rados:{pool}@{ceph.conf}"

    def chunks() -> list[str]:
        names = ceph.rados("--pool", pool, "ls").split()
        return sorted(name for name in names if name.count(".") == 2)

    with contextlib.ExitStack() as stack:
        workers = [LunmeshWorker(tmp_path / f"worker{n}", store=store) for n in range(2)]
        for worker in workers:
            stack.enter_context(worker)
        server = stack.enter_context(LunmeshServer(tmp_path / "server", ["disk0=16M"]))
        volume = VolumeCommand(server)
        first, second = (["--worker", worker.address] for worker in workers)
        lun = volume.json("create", "db", str(SIZE), "--chunk", "1M", *first)["lun"]

        def settled() -> bool:
            shown = volume.json("show", "db")
            return shown["migration"] is None and not shown["retired"]

        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", str(image), server.url(lun))
        before = chunks()
        assert len(before) == SIZE // MIB
        for where in ([*first, *second], second):
            moved = volume.run("migrate", "db", *where)
            assert moved.status == 0, moved.error
            until(settled)
            assert chunks() == before
            qemu_img("compare", "-f", "raw", "-F", "raw", str(image), server.url(lun))
        workers[0].stop()
        server.stop()
        server.start()
        qemu_img("compare", "-f", "raw", "-F", "raw", str(image), server.url(lun))
        volume.good("delete", "db", "--yes")
        until(lambda: not chunks())
