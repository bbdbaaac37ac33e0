"""``lunmesh worker``: a worker in the foreground, from its start to its last flush."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

import target
from target import logs
from target.cli.errors import CliError
from target.cli.notify import ServiceManager
from target.cli.process import check_memory, done_before, raise_file_limit, stop_event, told_at
from target.cli.ready import say_ready
from target.cluster.registry import RegistryAway, WrongFormat
from target.config.model import RadosPlace
from target.config.tls import server_context
from target.config.worker import WorkerConfig
from workers.allocator import keep_freed_memory
from workers.busy_poll import BusyPoll
from workers.executor import BlockingExecutor, disk_threads
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
# What keeps a worker from serving, each in one line.
REFUSALS: Final = (
    ShareDirError,
    RadosError,
    FenceError,
    ServerError,
    RegistryAway,
    WrongFormat,
)


def run_worker(config: WorkerConfig) -> None:
    """Serve until told to stop."""
    check_memory("--buffer-memory", config.buffer_memory_bytes)
    raise_file_limit()
    log = logs.configure(config.log_level, config.log_format)
    try:
        uvloop.run(_serve(config, log, ServiceManager(os.environ)))
    except REFUSALS as exc:
        raise CliError(str(exc)) from exc


async def _serve(config: WorkerConfig, log: logs.Log, manager: ServiceManager) -> None:
    loop = asyncio.get_running_loop()
    stop = stop_event(log, manager)
    tls = _tls(config)
    executor = disk_threads(config.io_threads, loop.call_soon_threadsafe, open_uring(loop))
    shares = await _shares(config, executor, loop)
    worker = Worker(
        shares,
        buffer_memory_bytes=config.buffer_memory_bytes,
        io_threads=config.io_threads,
        version=target.__version__,
        checksum=config.checksum,
        poll=BusyPoll(config.busy_poll_seconds),
    )
    server = WorkerServer(worker, config.address, tls, direct_reads=config.direct_reads)
    telemetry = _telemetry(config, worker, executor)
    try:
        for each in telemetry:
            log.info("metrics", at=await each.start())
        await worker.load()
        if config.redis is None or await _fences_loaded(worker, config.redis, log, stop):
            port = await server.start()
            for note in config.notes:
                log.warning(note)
            say_ready(_ready(config, port, worker), manager)
            gc.freeze()  # as a node does
            keep_freed_memory()
            async with manager.watching():
                await stop.wait()
    finally:
        problem = await server.stop(config.shutdown_timeout_seconds)
        for each in telemetry:
            await each.stop()
        await worker.stop()
        executor.close()
    if problem:
        raise CliError(problem)
    log.info("stopped")


async def _fences_loaded(worker: Worker, url: str, log: logs.Log, stop: asyncio.Event) -> bool:
    """Whether they are, and it was not told to stop before.  Raises as ``_load_fences``."""
    told = asyncio.ensure_future(stop.wait())
    try:
        return await done_before(_load_fences(worker, url, log), told)
    finally:
        told.cancel()


async def _load_fences(worker: Worker, url: str, log: logs.Log) -> None:
    """Refuse what is over, whatever this worker has been told.

    Raises RegistryAway, WrongFormat or FenceError.
    """
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
        try:
            await worker.fences.add(node, epoch)
        except OSError as exc:  # in force all the same, and Redis has it
            log.warning("cannot keep a fence", node=node, reason=str(exc))
    log.info("epochs that are over", nodes=len(found))


async def _shares(
    config: WorkerConfig, executor: BlockingExecutor, loop: asyncio.AbstractEventLoop
) -> Shares:
    faults = config.faults

    def wrap(name: str, store: VolumeStore) -> VolumeStore:
        if faults is None or faults.volume not in ("", name):
            return store
        return FaultStore(store, faults, loop.call_later, executor)

    match config.store:
        case RadosPlace(pool=pool, conf=conf, user=user):
            return await RadosShares.connect(pool, conf, user, wrap)
        case None:
            return MemoryShares(wrap)
        case directory:
            return ShareDir(directory, executor, wrap)


def _telemetry(
    config: WorkerConfig, worker: Worker, executor: BlockingExecutor
) -> list[TelemetryServer]:
    asked = told_at(config.metrics, os.environ)
    if not asked:
        return []
    from target.telemetry.exposition import make_registry, telemetry_routes
    from target.telemetry.http import TelemetryServer  # an HTTP server: not without need
    from target.telemetry.worker import WorkerCollector

    folder = config.store if isinstance(config.store, Path) else None
    registry = make_registry(WorkerCollector(worker, executor, folder))
    routes = telemetry_routes(registry, lambda: worker.refusing)
    return [TelemetryServer(routes, address) for address in asked]


def _tls(config: WorkerConfig) -> TlsFiles | None:
    """Raises OSError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    # gRPC takes whatever they are, and then no connection.
    server_context("worker", config.tls_cert, config.tls_key, config.tls_ca, used=False)
    return TlsFiles(config.tls_cert, config.tls_key, config.tls_ca, config.tls_client_name)


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
