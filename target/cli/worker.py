"""``lunmesh worker``: a worker in the foreground, from its start to its last flush."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

import target
from target import logs
from target.cli.errors import CliError
from target.cli.process import check_memory, stop_event
from target.cluster.registry import RegistryAway
from target.config.model import RadosPlace
from target.config.worker import WorkerConfig
from workers.executor import BlockingExecutor
from workers.fault_store import FaultStore
from workers.fences import FenceError
from workers.rados_pool import RadosError
from workers.rados_shares import RadosShares
from workers.server import ServerError, TlsFiles, WorkerServer
from workers.share_dir import ShareDir, ShareDirError
from workers.shares import MemoryShares, Shares
from workers.store import VolumeStore
from workers.uring import open_uring
from workers.worker import Worker

if TYPE_CHECKING:
    from target.telemetry.http import TelemetryServer


REDIS_SECONDS: Final = 10.0  # how long a start waits for Redis
REDIS_RETRY_SECONDS: Final = 0.5


def run_worker(config: WorkerConfig) -> None:
    """Serve until told to stop."""
    check_memory("--buffer-memory", config.buffer_memory_bytes)
    _raise_file_limit()
    log = logs.configure(config.log_level, config.log_format)
    try:
        uvloop.run(_serve(config, log))
    except (ShareDirError, RadosError, FenceError, ServerError, RegistryAway) as exc:
        raise CliError(str(exc)) from exc


def _raise_file_limit() -> None:
    """An open file for each volume."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: WorkerConfig, log: logs.Log) -> None:
    loop = asyncio.get_running_loop()
    stop = stop_event(log)
    executor = BlockingExecutor(config.io_threads, loop.call_soon_threadsafe, open_uring(loop))
    shares = await _shares(config, executor, loop)
    worker = Worker(
        shares,
        buffer_memory_bytes=config.buffer_memory_bytes,
        io_threads=config.io_threads,
        version=target.__version__,
        checksum=config.checksum,
    )
    server = WorkerServer(worker, config.address, _tls(config), direct_reads=config.direct_reads)
    telemetry = _telemetry(config, worker, executor)
    try:
        if telemetry is not None:
            told = await telemetry.start()
            log.info("metrics", at=f"http://{told}/metrics")
        await worker.load()
        if config.redis is not None:
            await _load_fences(worker, config.redis, log)
        port = await server.start()
        for note in config.notes:
            log.warning(note)
        with contextlib.suppress(OSError):  # a closed stdout is no reason not to serve
            print(_ready(config, port, worker), flush=True)
        await stop.wait()
    finally:
        await server.stop(config.shutdown_timeout_seconds)
        if telemetry is not None:
            await telemetry.stop()
        await worker.stop()
        executor.close()
    log.info("stopped")


async def _load_fences(worker: Worker, url: str, log: logs.Log) -> None:
    """Refuse what is over, whatever this worker has been told.  Raises RegistryAway, FenceError."""
    from target.cluster.redis_registry import epochs_over  # redis-py: not without need

    deadline = time.monotonic() + REDIS_SECONDS
    while True:
        try:
            found = await epochs_over(url, log)
            break
        except RegistryAway:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(REDIS_RETRY_SECONDS)
    for node, epoch in found.items():
        await worker.fences.add(node, epoch)
    log.info("epochs that are over", nodes=len(found))


async def _shares(
    config: WorkerConfig, executor: BlockingExecutor, loop: asyncio.AbstractEventLoop
) -> Shares:
    faults = config.faults

    def wrap(store: VolumeStore) -> VolumeStore:
        return store if faults is None else FaultStore(store, faults, loop.call_later)

    match config.store:
        case RadosPlace(pool=pool, conf=conf, user=user):
            return await RadosShares.connect(pool, conf, user, wrap)
        case None:
            return MemoryShares(wrap)
        case directory:
            return ShareDir(directory, executor, wrap)


def _telemetry(
    config: WorkerConfig, worker: Worker, executor: BlockingExecutor
) -> TelemetryServer | None:
    if config.metrics is None:
        return None
    from target.telemetry.exposition import make_registry, telemetry_routes
    from target.telemetry.http import TelemetryServer  # an HTTP server: not without need
    from target.telemetry.worker import WorkerCollector

    folder = config.store if isinstance(config.store, Path) else None
    registry = make_registry(WorkerCollector(worker, executor, folder))
    return TelemetryServer(telemetry_routes(registry, lambda: worker.refusing), config.metrics)


def _tls(config: WorkerConfig) -> TlsFiles | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_cert, config.tls_key, config.tls_ca)


def _ready(config: WorkerConfig, port: int, worker: Worker) -> str:
    """``lunmesh worker ready: 127.0.0.1:3270 (file:/data, 3 volumes)``."""
    address = config.address
    if not address.startswith("unix:"):
        address = f"{address.rpartition(':')[0]}:{port}"
    match config.store:
        case RadosPlace(pool=pool, conf=conf):
            store = f"rados:{pool}@{conf}"
        case None:
            store = "memory:"
        case directory:
            store = f"file:{directory}"
    count = worker.shares.count
    return f"lunmesh worker ready: {address} ({store}, {count} volume{'s' * (count != 1)})"
