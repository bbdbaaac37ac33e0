"""What every command that serves until it is told to stop has in common."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from target.cli.notify import STOPPING, ServiceManager
from target.cluster.ending import ended
from target.config import ConfigError, Portal, format_size
from target.config.values import UNIX_PATH_BYTES_MAX
from target.logs import Log

# What a process manager, a terminal and `kill` send to say "please stop".
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A Unix socket for whoever looks after this process (telemetry/http.py): the health check of the
# image has one path to ask at, whatever the flags say of the admin API, its TLS and its token.
ENV_HEALTH = "LUNMESH_HEALTH"


def told_at(metrics: Portal | None, environ: Mapping[str, str]) -> list[Portal | Path]:
    """Where /metrics, /healthz and /readyz are told beside the admin API.  Raises ConfigError."""
    found: list[Portal | Path] = [] if metrics is None else [metrics]
    if path := environ.get(ENV_HEALTH, "").strip():
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            most = UNIX_PATH_BYTES_MAX
            raise ConfigError(
                f"{ENV_HEALTH}: {path} is too long for a socket: {most} bytes at most"
            )
        found.append(Path(path))
    return found


def raise_file_limit() -> None:
    """Open files: one for each volume, and one for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_memory(place: str, nbytes: int) -> None:
    """`config check` cannot know the machine; here a pool beyond it would end in the OOM killer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > machine:
        raise ConfigError(
            f"{place}: {format_size(nbytes)} is more than this machine has, {format_size(machine)}"
        )


def stop_event(
    log: Log, manager: ServiceManager, at_once: Callable[[], None] = lambda: None
) -> asyncio.Event:
    """Set by the first signal that asks to stop, which ``manager`` is told; a second one ends the
    process at once.

    ``at_once()`` ends what would go on without it.
    """
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            # Told twice: whoever sends it does not want to wait for anything.  What was flushed is
            # safe, and what was acknowledged without a flush is in the kernel's hands.
            log.warning("stopped at once", signal=number.name)
            at_once()
            os._exit(1)
        log.info("stopping", signal=number.name)
        manager.say(STOPPING)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def done_before(work: Coroutine[Any, Any, None], *ends: asyncio.Task[Any]) -> bool:
    """Whether it is done, and not one of ``ends`` before it; then it is cancelled.  Raises what it
    does.
    """
    task = asyncio.ensure_future(work)
    await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await ended(task)
        return False
    task.result()
    return True
