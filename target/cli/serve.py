"""``lunmesh serve``: a node in the foreground, from its start to its last flush."""

from __future__ import annotations

import contextlib

import uvloop

from target import logs
from target.cli.errors import CliError
from target.cli.process import check_memory, stop_event
from target.cli.ready import ready_text
from target.config import Portal, ServeConfig
from target.datadir import DataDirError
from target.node import Node


def run_serve(config: ServeConfig) -> None:
    """Serve until told to stop."""
    check_memory("buffer-memory", config.buffer_memory_bytes)
    log = logs.configure(config.log_level, config.log_format)
    try:
        uvloop.run(_serve(config, log))
    except DataDirError as exc:
        raise CliError(str(exc)) from exc


async def _serve(config: ServeConfig, log: logs.Log) -> None:
    stop = stop_event(log)
    node = Node(config, log)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(node.stop)
        await node.start()
        admin = await _start_admin(node, config, log, stack)
        for note in config.notes:
            log.warning(note)
        if not stop.is_set():
            with contextlib.suppress(OSError):  # a closed stdout is no reason not to serve
                print(ready_text(node.ready, config, admin), flush=True)
        await stop.wait()
    log.info("stopped")


async def _start_admin(
    node: Node, config: ServeConfig, log: logs.Log, stack: contextlib.AsyncExitStack
) -> Portal | None:
    """The admin API, which ends before the node does; where it listens."""
    if config.admin is None:
        return None
    from target.admin.server import AdminServer  # an HTTP server: not without need
    from target.admin.volumes import volume_routes

    server = AdminServer(volume_routes(node.volumes, node.changes, config), config.admin, log)
    stack.push_async_callback(server.stop)
    return await server.start()
