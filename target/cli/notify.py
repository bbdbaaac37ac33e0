"""What systemd is told of a service with ``Type=notify``: sd_notify(3), without its library.

Rules:

1. Without NOTIFY_SOCKET nobody is told, and nothing fails.  The variable is taken away, so that
   processes of ours do not speak for us.
2. The watchdog is fed by the event loop, twice in the time that it has: a loop that stands still
   feeds nobody, and is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, MutableMapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
FED: Final = "WATCHDOG=1"


class ServiceManager:
    """The one that ``environ`` names, if there is one (rule 1)."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        period, pid = (environ.pop(f"WATCHDOG_{it}", "") for it in ("USEC", "PID"))
        ours = pid in ("", str(os.getpid()))
        self._watchdog_seconds = int(period) / 1e6 if ours and period.isdigit() else 0.0

    def say(self, state: str) -> None:
        """One of the states above."""
        if not self._address:
            return
        # Whoever has named a socket where nobody listens does not want to know.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), self._address)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Inside, rule 2."""
        feeder = asyncio.ensure_future(self._feed()) if self._watchdog_seconds else None
        try:
            yield
        finally:
            if feeder is not None:
                feeder.cancel()

    async def _feed(self) -> None:
        while True:
            self.say(FED)
            await asyncio.sleep(self._watchdog_seconds / 2)
