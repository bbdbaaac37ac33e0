"""``lunmesh volume migrate`` with workers of a Ceph pool: among them, and from and to files."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

pytestmark = pytest.mark.ceph
MIB = 1 << 20
SIZE = 24 * MIB


@dataclass
class Cluster:
    """Two workers of an empty pool, one with files, and a node."""

    ceph: CephCluster
    pool: str
    first: LunmeshWorker
    second: LunmeshWorker
    files: LunmeshWorker
    server: LunmeshServer
    image: Path

    def __post_init__(self) -> None:
        self.volume = VolumeCommand(self.server)

    def chunks(self) -> list[str]:
        """The objects that hold data."""
        names = self.ceph.rados("--pool", self.pool, "ls").split()
        return sorted(name for name in names if name.count(".") == 2)

    def written(self, worker: LunmeshWorker) -> int:
        """The LUN of a new volume ``db``, which has the bytes of the image."""
        lun: int = self.volume.json("create", "db", str(SIZE), "--chunk", "1M", *at(worker))["lun"]
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", str(self.image), self.server.url(lun))
        return lun

    def compare(self, lun: int) -> None:
        """It has them still."""
        qemu_img("compare", "-f", "raw", "-F", "raw", str(self.image), self.server.url(lun))

    def move(self, *workers: LunmeshWorker) -> None:
        """Returns when nothing is left anywhere else."""
        moved = self.volume.run("migrate", "db", *at(*workers))
        assert moved.status == 0, moved.error
        until(self.settled)

    def settled(self) -> bool:
        shown = self.volume.json("show", "db")
        return shown["migration"] is None and not shown["retired"]

    def delete(self) -> None:
        """No object is left."""
        self.volume.good("delete", "db", "--yes")
        until(lambda: [v["name"] for v in self.volume.json("list")] == ["disk0"])
        until(lambda: not self.chunks())


@pytest.fixture(scope="module")
def cluster(ceph: CephCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("migrate")
    image = folder / "image"
    image.write_bytes(random.Random(3).randbytes(SIZE))
    pool = ceph.create_pool()
    stores = [f"rados:{pool}@{ceph.conf}"] * 2 + [""]
    with contextlib.ExitStack() as stack:
        first, second, files = [
            stack.enter_context(LunmeshWorker(folder / f"worker{n}", store=store))
            for n, store in enumerate(stores)
        ]
        server = LunmeshServer(folder / "server", ["disk0=16M"], arguments=["--worker-wait", "2"])
        stack.enter_context(server)
        yield Cluster(ceph, pool, first, second, files, server, image)


def at(*workers: LunmeshWorker) -> list[str]:
    return [part for worker in workers for part in ("--worker", worker.address)]


def qemu_img(*arguments: str) -> None:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_among_the_workers_of_a_pool_nothing_is_copied_and_nothing_deleted(
    cluster: Cluster,
) -> None:
    lun = cluster.written(cluster.first)
    before = cluster.chunks()
    assert len(before) == SIZE // MIB
    for where in ([cluster.first, cluster.second], [cluster.second]):
        cluster.move(*where)
        assert cluster.chunks() == before
        cluster.compare(lun)
    cluster.first.stop()
    cluster.server.stop()
    cluster.server.start()
    cluster.compare(lun)
    cluster.first.start()
    cluster.delete()


def test_a_worker_that_was_away_when_it_was_asked_and_comes_back(cluster: Cluster) -> None:
    """It is of the pool that the volume is in: its place is forgotten, and nothing deleted."""
    lun = cluster.written(cluster.first)
    before = cluster.chunks()
    cluster.second.kill()
    assert "worker" in cluster.volume.refused("migrate", "db", *at(cluster.first, cluster.second))
    assert cluster.volume.json("show", "db")["retired"] == [cluster.second.address]
    cluster.second.start()
    until(cluster.settled)
    assert cluster.chunks() == before
    cluster.move(cluster.first, cluster.second)
    cluster.compare(lun)
    assert cluster.chunks() == before
    cluster.delete()


def test_from_files_to_the_pool_and_back(cluster: Cluster) -> None:
    lun = cluster.written(cluster.files)
    shares = Path(cluster.files.store.removeprefix("file:")) / "volumes" / "db"
    assert shares.exists()
    cluster.move(cluster.first, cluster.second)
    assert len(cluster.chunks()) == SIZE // MIB
    assert not shares.exists()
    cluster.compare(lun)
    cluster.move(cluster.files)
    until(lambda: not cluster.chunks())
    assert shares.exists()
    cluster.compare(lun)
    cluster.delete()
