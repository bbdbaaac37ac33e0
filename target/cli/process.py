"""What every command that serves until it is told to stop has in common."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from target.config import ConfigError, format_size
from target.logs import Log

# What a process manager, a terminal and `kill` send to say "please stop".
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def check_memory(place: str, nbytes: int) -> None:
    """`config check` cannot know the machine; here a pool beyond it would end in the OOM killer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > machine:
        raise ConfigError(
            f"{place}: {format_size(nbytes)} is more than this machine has, {format_size(machine)}"
        )


def stop_event(log: Log, at_once: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Set by the first signal that asks to stop; a second one ends the process at once.

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
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop
