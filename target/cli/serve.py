"""``lunmesh serve``: a node in the foreground, from its start to its last flush."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

import uvloop

from target import logs
from target.cli.errors import CliError
from target.cli.notify import ServiceManager
from target.cli.process import check_memory, done_before, raise_file_limit, stop_event, told_at
from target.cli.ready import ready_text, say_ready
from target.cluster.registry import RegistryAway, StaleNode, WrongFormat
from target.config import Portal, ServeConfig
from target.datadir import DataDirError, in_use
from target.node import Node
from target.processes.inlet import Inlet
from workers.allocator import keep_freed_memory

if TYPE_CHECKING:
    from aiohttp import web
    from prometheus_client import CollectorRegistry

PREDECESSOR_SECONDS = 5.0  # beyond the bounds by which it ends
IN_USE_SECONDS = 0.1  # between two looks
AGAIN_SECONDS = 1.0  # until a node that was shut out while Redis is away asks for it again


def run_serve(config: ServeConfig, channel: socket.socket | None = None) -> None:
    """Serve until told to stop; as one of several processes, what comes through ``channel``."""
    check_memory("buffer-memory", config.buffer_memory_bytes)
    raise_file_limit()
    place = config.cluster.place if config.cluster is not None else None
    name = place.name if place is not None else ""
    log = logs.configure(config.log_level, config.log_format, node=name)
    try:
        uvloop.run(_serve(config, log, channel, ServiceManager(os.environ)))
    except (DataDirError, RegistryAway, WrongFormat) as exc:
        raise CliError(str(exc)) from exc


async def _serve(
    config: ServeConfig, log: logs.Log, channel: socket.socket | None, manager: ServiceManager
) -> None:
    stop = stop_event(log, manager)
    inlet = Inlet(channel, stop.set) if channel is not None else None
    if inlet is not None:
        await _until_free(config, log, stop)
    async with manager.watching():
        served = False
        while not stop.is_set():
            try:
                await _serve_one_life(config, log, stop, inlet, manager)
            except RegistryAway as exc:
                if not served:
                    raise  # a mistake in the URL, perhaps
                log.warning("cannot begin anew yet", reason=str(exc))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), AGAIN_SECONDS)
            served = True
            gc.unfreeze()
            gc.collect()  # what a life leaves are cycles, and its buffers hang on them
    if inlet is not None:
        inlet.close()
    log.info("stopped")


async def _until_free(config: ServeConfig, log: logs.Log, stop: asyncio.Event) -> None:
    """A process whose supervisor was killed has its data directory until it has ended."""
    deadline = time.monotonic() + 2 * config.shutdown_timeout_seconds + PREDECESSOR_SECONDS
    said = False
    while in_use(config.data_dir) and not stop.is_set() and time.monotonic() < deadline:
        if not said:
            log.warning("waits for an earlier process to end", data_dir=str(config.data_dir))
        said = True
        await asyncio.sleep(IN_USE_SECONDS)


async def _serve_one_life(
    config: ServeConfig,
    log: logs.Log,
    stop: asyncio.Event,
    inlet: Inlet | None,
    manager: ServiceManager,
) -> None:
    """Until told to stop, or until the other nodes have shut this one out."""
    node = Node(config, log, inlet)
    node.on_lost = stop.set
    ends = [asyncio.ensure_future(event.wait()) for event in (stop, node.fenced)]
    async with contextlib.AsyncExitStack() as stack:
        for end in ends:
            stack.callback(end.cancel)
        stack.push_async_callback(node.stop)
        if await _started(node, ends):
            _trace(node, config, stack)
            admin = await _start_http(node, config, log, stack)
            for note in config.notes:
                log.warning(note)
            if inlet is not None:
                inlet.open(ready_text(node.ready, config, admin))
            elif not stop.is_set():
                say_ready(ready_text(node.ready, config, admin), manager)
            # What is there now stays: looking through it for cycles would stop all for a while.
            gc.freeze()
            keep_freed_memory()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if node.lost:
        raise CliError(node.lost)
    if not stop.is_set():
        log.warning("starting anew: the commands of before are over, sessions begin again")


async def _started(node: Node, ends: list[asyncio.Task[Literal[True]]]) -> bool:
    """Whether it is, and not told to end before: who has been shut out waits in vain to be let in.

    Raises what the start of a node does.
    """
    try:
        if not await done_before(node.start(), *ends):
            return False
    except StaleNode:
        node.fenced.set()
    return not node.fenced.is_set()


def _trace(node: Node, config: ServeConfig, stack: contextlib.AsyncExitStack) -> None:
    """Raises CliError."""
    if config.trace is None:
        return
    try:
        from target.telemetry.otlp import connect_tracer  # the SDK: not without need
    except ImportError as exc:
        raise CliError(f"--trace: pip install 'lunmesh[trace]' ({exc.name} is missing)") from exc
    tracer = connect_tracer(config.trace, config.trace_ratio, node.name, time.monotonic)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    node.parts.target.bus.watcher = tracer


async def _start_http(
    node: Node, config: ServeConfig, log: logs.Log, stack: contextlib.AsyncExitStack
) -> Portal | None:
    """The admin API and what only tells, which end before the node does; where the API listens."""
    place = config.cluster.place if config.cluster is not None else None
    # Of several processes the first is the one whose health is asked at the only path there is.
    environ = os.environ if place is None or place.number == 1 else {}
    asked = told_at(config.metrics, environ)
    if config.admin is None and not asked:
        return None
    from target.telemetry.exposition import make_registry, telemetry_routes
    from target.telemetry.http import TelemetryServer  # an HTTP server: not without need
    from target.telemetry.node import NodeCollector, degraded, unready

    registry = make_registry(NodeCollector(node.parts, time.monotonic))
    telemetry = telemetry_routes(
        registry, partial(unready, node.parts), partial(degraded, node.parts)
    )
    for address in asked:
        server = TelemetryServer(telemetry, address)
        stack.push_async_callback(server.stop)
        log.info("metrics", at=await server.start())
    return await _start_admin(node, config, log, stack, registry, telemetry)


async def _start_admin(
    node: Node,
    config: ServeConfig,
    log: logs.Log,
    stack: contextlib.AsyncExitStack,
    registry: CollectorRegistry,
    telemetry: web.RouteTableDef,
) -> Portal | None:
    if config.admin is None:
        return None
    from target.admin.access import access_routes
    from target.admin.audit import AuditFile
    from target.admin.dashboard import dashboard_routes
    from target.admin.openapi import description_routes
    from target.admin.server import AdminServer  # an HTTP server: not without need
    from target.admin.sight import sight_routes
    from target.admin.stats import stats_routes
    from target.admin.targets import target_routes
    from target.admin.users import user_routes
    from target.admin.volumes import volume_routes

    routes = [
        *volume_routes(node.volumes, node.changes, config),
        *target_routes(node.targets),
        *access_routes(node.access),
        *user_routes(node.users, node.mutual),
        *sight_routes(node.sight),
        *stats_routes(node, registry),
        *telemetry,
    ]
    routes = [*routes, *description_routes(routes), *dashboard_routes()]
    file = config.audit_log
    server = AdminServer(
        routes,
        config.admin,
        log,
        token=config.admin_token,
        tls=config.admin_tls,
        audit=None if file is None else AuditFile(file, node.name, log),
    )
    stack.push_async_callback(server.stop)
    return await server.start()
