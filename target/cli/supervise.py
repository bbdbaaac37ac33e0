"""``lunmesh serve --processes N``: the supervisor in the foreground."""

from __future__ import annotations

import os
from functools import partial

import typer
import uvloop

from target import logs
from target.cli.errors import CliError
from target.cli.notify import ServiceManager
from target.cli.process import check_memory, stop_event
from target.cli.ready import say_ready
from target.config import ServeConfig
from target.datadir import DataDirError
from target.processes.supervisor import Supervisor


def run_supervisor(config: ServeConfig) -> None:
    """Serve with several processes until told to stop."""
    check_memory("buffer-memory", config.buffer_memory_bytes * config.processes)
    log = logs.configure(config.log_level, config.log_format)
    for note in config.notes:
        log.warning(note)
    try:
        status = uvloop.run(_supervise(config, log, ServiceManager(os.environ)))
    except DataDirError as exc:
        raise CliError(str(exc)) from exc
    if status:
        # A signal's number is negative; a shell says it as 128 and the number.
        raise typer.Exit(status if status > 0 else 128 - status)


async def _supervise(config: ServeConfig, log: logs.Log, manager: ServiceManager) -> int:
    supervisor = Supervisor(config, log)
    stop = stop_event(log, manager, supervisor.kill)
    async with manager.watching():
        status = await supervisor.run(stop, partial(say_ready, manager=manager))
    log.info("stopped")
    return status
