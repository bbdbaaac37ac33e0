"""``lunmesh serve``: a node in the foreground, from its start to its last flush."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import uvloop

from target import logs
from target.cli.errors import CliError
from target.cli.ready import ready_text
from target.config import ConfigError, Portal, ServeConfig, format_size
from target.datadir import DataDirError
from target.node import Node

# What a process manager, a terminal and `kill` send to say "please stop".
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_serve(config: ServeConfig) -> None:
    """Serve until told to stop."""
    _check_memory(config)
    log = logs.configure(config.log_level, config.log_format)
    try:
        uvloop.run(_serve(config, log))
    except DataDirError as exc:
        raise CliError(str(exc)) from exc


def _check_memory(config: ServeConfig) -> None:
    """`config check` cannot know the machine; here a pool beyond it would end in the OOM killer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.buffer_memory_bytes > machine:
        raise ConfigError(
            f"buffer-memory: {format_size(config.buffer_memory_bytes)} is more than this machine "
            f"has, {format_size(machine)}"
        )


async def _serve(config: ServeConfig, log: logs.Log) -> None:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            # Told twice: whoever sends it does not want to wait for anything.  What was flushed is
            # safe, and what was acknowledged without a flush is in the kernel's hands.
            log.warning("stopped at once", signal=number.name)
            os._exit(1)
        log.info("stopping", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
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
