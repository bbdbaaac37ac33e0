"""``lunmesh serve``: a node in the foreground, from its start to its last flush."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from functools import partial

import uvloop

from target import logs
from target.cli.errors import CliError
from target.cli.process import check_memory, stop_event
from target.cli.ready import ready_text, say_ready
from target.cluster.registry import RegistryAway
from target.config import Portal, ServeConfig
from target.datadir import DataDirError, in_use
from target.node import Node
from target.processes.inlet import Inlet

PREDECESSOR_SECONDS = 5.0  # beyond the bounds by which it ends
IN_USE_SECONDS = 0.1  # between two looks


def run_serve(config: ServeConfig, channel: socket.socket | None = None) -> None:
    """Serve until told to stop; as one of several processes, what comes through ``channel``."""
    check_memory("buffer-memory", config.buffer_memory_bytes)
    place = config.cluster.place if config.cluster is not None else None
    name = place.name if place is not None else ""
    log = logs.configure(config.log_level, config.log_format, node=name)
    try:
        uvloop.run(_serve(config, log, channel))
    except (DataDirError, RegistryAway) as exc:
        raise CliError(str(exc)) from exc


async def _serve(config: ServeConfig, log: logs.Log, channel: socket.socket | None) -> None:
    stop = stop_event(log)
    inlet = Inlet(channel, stop.set) if channel is not None else None
    if inlet is not None:
        await _until_free(config, log, stop)
    while not stop.is_set():
        await _serve_one_life(config, log, stop, inlet)
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
    config: ServeConfig, log: logs.Log, stop: asyncio.Event, inlet: Inlet | None
) -> None:
    """Until told to stop, or until the other nodes have shut this one out."""
    node = Node(config, log, inlet)
    node.on_lost = stop.set
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(node.stop)
        await node.start()
        _trace(node, config, stack)
        admin = await _start_admin(node, config, log, stack)
        for note in config.notes:
            log.warning(note)
        if inlet is not None:
            inlet.open(ready_text(node.ready, config, admin))
        elif not stop.is_set():
            say_ready(ready_text(node.ready, config, admin))
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, node.fenced)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    if node.lost:
        raise CliError(node.lost)
    if not stop.is_set():
        log.warning("starting anew: the commands of before are over, sessions begin again")


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


async def _start_admin(
    node: Node, config: ServeConfig, log: logs.Log, stack: contextlib.AsyncExitStack
) -> Portal | None:
    """The admin API, which ends before the node does; where it listens."""
    if config.admin is None:
        return None
    from target.admin.access import access_routes
    from target.admin.dashboard import dashboard_routes
    from target.admin.openapi import description_routes
    from target.admin.server import AdminServer  # an HTTP server: not without need
    from target.admin.sight import sight_routes
    from target.admin.stats import stats_routes
    from target.admin.targets import target_routes
    from target.admin.users import user_routes
    from target.admin.volumes import volume_routes
    from target.telemetry.exposition import make_registry, telemetry_routes
    from target.telemetry.node import NodeCollector, unready

    registry = make_registry(NodeCollector(node.parts, time.monotonic))
    routes = [
        *volume_routes(node.volumes, node.changes, config),
        *target_routes(node.targets),
        *access_routes(node.access),
        *user_routes(node.users),
        *sight_routes(node.sight),
        *stats_routes(node, registry),
        *telemetry_routes(registry, partial(unready, node.parts)),
    ]
    routes = [*routes, *description_routes(routes), *dashboard_routes()]
    server = AdminServer(routes, config.admin, log, token=config.admin_token, tls=config.admin_tls)
    stack.push_async_callback(server.stop)
    return await server.start()
