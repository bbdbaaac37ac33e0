"""The servers that keep their disks on Ceph: the product's RADOS store, and Debian's tgt-rbd.

Both use one real cluster (tests/support/ceph_cluster.py), each a pool of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from tests.bench.clients import RADOS_BENCH, write_once
from tests.bench.servers import Candidate, Disks, Endpoint, Serve, product_version
from tests.support import compiled
from tests.support.ceph_cluster import CephCluster, CephError, find_ceph
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.tgtd_server import FIRST_LUN, TgtdServer, find_tgtd, tgtd_version

RADOS = "rados store"
# As librbd's: answered from memory, and flushed when the initiator asks for it.
RADOS_CACHED = "rados store, cache"
# The hot path as a C extension (setup.py), as a container image has it.
RADOS_COMPILED = "rados store, compiled"
RADOS_CACHED_COMPILED = "rados store, cache, compiled"
RADOS_WORKER = "rados, 1 worker"
TGT_RBD = "tgt-rbd"
# librbd answers a write from its cache; what is answered here is on the OSDs.
TGT_RBD_UNCACHED = "tgt-rbd, no cache"
RADOS_BENCHED = "rados bench"  # a client that comes with Ceph, and no server: no SCSI at all
CACHE = "32M"  # rbd_cache_size
DEVICE_BYTES = 16 << 30  # of the OSD, a sparse file: `rados bench` hangs where it is full
RBD_MODULE = Path("/usr/lib/tgt/backing-store/bs_rbd.so")
ObjectStore = Literal["memstore", "bluestore"]


class SharedCluster:
    """A cluster that runs while somebody uses it."""

    def __init__(self, objectstore: ObjectStore) -> None:
        self._objectstore = objectstore
        self._users = 0
        self._stack = ExitStack()
        self._cluster: CephCluster | None = None

    @contextmanager
    def use(self, folder: Path) -> Iterator[CephCluster]:
        """The first user's ``folder`` is where it keeps its data."""
        try:
            if self._cluster is None:
                cluster = CephCluster(folder / "ceph", self._objectstore, device_bytes=DEVICE_BYTES)
                self._cluster = self._stack.enter_context(cluster)
        except CephError as exc:
            raise ServerError(str(exc)) from exc
        self._users += 1
        try:
            yield self._cluster
        finally:
            self._users -= 1
            if not self._users:
                self._cluster = None
                self._stack.close()


@contextmanager
def _serve_rados(
    shared: SharedCluster, disks: Disks, *, cached: bool, built: bool
) -> Iterator[Endpoint]:
    more = f"?cache={CACHE}" if cached else ""
    with ExitStack() as stack:
        cluster = stack.enter_context(shared.use(disks.folder))
        server = stack.enter_context(
            LunmeshServer(
                disks.folder / "lunmesh",
                [f"disk{block}={disks.size}" for block in disks.blocks],
                arguments=["--store", f"rados:{cluster.create_pool()}@{cluster.conf}{more}"],
                packages=compiled.compiled_packages() if built else None,
            )
        )
        urls = {block: server.url(lun) for lun, block in enumerate(disks.blocks)}
        yield _filled(urls, (server.pid,), disks)


@contextmanager
def _serve_rados_worker(shared: SharedCluster, disks: Disks) -> Iterator[Endpoint]:
    with ExitStack() as stack:
        cluster = stack.enter_context(shared.use(disks.folder))
        store = f"rados:{cluster.create_pool()}@{cluster.conf}"
        try:
            worker = stack.enter_context(LunmeshWorker(disks.folder / "worker", store=store))
        except WorkerProcessError as exc:
            raise ServerError(str(exc)) from exc
        server = stack.enter_context(
            LunmeshServer(
                disks.folder / "lunmesh",
                [f"disk{block}={disks.size}" for block in disks.blocks],
                arguments=["--worker", worker.address],
            )
        )
        urls = {block: server.url(lun) for lun, block in enumerate(disks.blocks)}
        yield _filled(urls, (server.pid, worker.pid), disks)


@contextmanager
def _serve_tgt_rbd(shared: SharedCluster, disks: Disks, *, cache: bool) -> Iterator[Endpoint]:
    with ExitStack() as stack:
        cluster = stack.enter_context(shared.use(disks.folder))
        pool = cluster.create_pool()
        images = [f"{pool}/disk{block}" for block in disks.blocks]
        for image in images:
            _rbd(
                cluster, "create", image, "--size", f"{disks.size}B", "--image-feature", "layering"
            )
        conf = disks.folder / "rbd.conf"
        conf.write_text(f"{cluster.conf.read_text()}[client]\nrbd cache = {str(cache).lower()}\n")
        backing = ("--bstype", "rbd", "--bsopts", f"conf={conf}")
        server = stack.enter_context(TgtdServer(images, backing=backing))
        urls = {block: server.url(lun) for lun, block in enumerate(disks.blocks, FIRST_LUN)}
        yield _filled(urls, (server.pid,), disks)


@contextmanager
def _serve_rados_bench(shared: SharedCluster, disks: Disks) -> Iterator[Endpoint]:
    with shared.use(disks.folder) as cluster:
        url = f"{RADOS_BENCH}:{cluster.conf}?pool={cluster.create_pool()}"
        yield Endpoint(dict.fromkeys(disks.blocks, url), (), dict.fromkeys(disks.blocks, ()))


def _filled(urls: dict[int, str], pids: tuple[int, ...], disks: Disks) -> Endpoint:
    """All blocks written: no run pays for allocation."""
    for url in urls.values():
        write_once(url, disks.size)
    return Endpoint(urls, pids, dict.fromkeys(disks.blocks, ()))


def _rbd(cluster: CephCluster, *command: str) -> None:
    done = subprocess.run(
        ["rbd", "-c", str(cluster.conf), *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"rbd {' '.join(command)}: {done.stderr.strip()[-300:]}")


def rados_store(shared: SharedCluster, *, built: bool = False) -> Candidate:
    """The product with the RADOS store in its own process, as tgt-rbd is; as it is, or compiled."""
    name = RADOS_COMPILED if built else RADOS
    return _rados(name, built, partial(_serve_rados, shared, cached=False, built=built))


def rados_cached(shared: SharedCluster, *, built: bool = False) -> Candidate:
    """The same with a cache as large as librbd's."""
    name = RADOS_CACHED_COMPILED if built else RADOS_CACHED
    return _rados(name, built, partial(_serve_rados, shared, cached=True, built=built))


def _rados(name: str, built: bool, serve: Serve) -> Candidate:
    missing = find_ceph() or (compiled.missing() if built else "")
    return Candidate(name, product_version(), serve, missing)


def rados_worker(shared: SharedCluster) -> Candidate:
    """The product over one worker with the RADOS store."""
    return Candidate(
        RADOS_WORKER,
        product_version(),
        lambda disks: _serve_rados_worker(shared, disks),
        find_ceph() or "",
    )


def rados_bench(shared: SharedCluster) -> Candidate:
    """What Ceph's own client gets of the cluster, which is no server."""
    return Candidate(
        RADOS_BENCHED, "", lambda disks: _serve_rados_bench(shared, disks), find_ceph() or ""
    )


def tgt_rbd(shared: SharedCluster, *, cache: bool = True) -> Candidate:
    """The peer, as Debian has it or without librbd's cache."""
    missing = find_ceph() or ""
    if find_tgtd() is None or not RBD_MODULE.exists():
        missing = missing or "tgt-rbd is not installed: apt-get install tgt tgt-rbd"
    version = tgtd_version() or ""
    name = TGT_RBD if cache else TGT_RBD_UNCACHED
    serve = partial(_serve_tgt_rbd, shared, cache=cache)
    return Candidate(name, version, serve, missing)
