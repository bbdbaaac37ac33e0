"""One of the processes, from the supervisor's side: started, given connections, started anew.

Rules:

1. A process that ends by itself is started again, after a pause that doubles while it does not
   last.  One that was never ready is not: its configuration or its surroundings are wrong.
2. It is asked to stop by the end of its socket (``inlet.py``): signals may come to it from a
   terminal or a process manager as well, and a second one would end it at once.
3. A connection is given to a process that has said that it serves, and to none else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from target.config.model import ServeConfig
from target.logs import Log
from target.processes.inlet import MESSAGE_BYTES_MAX, OPEN, PORTAL_BYTES

PAUSE_SECONDS_MIN: Final = 0.25
PAUSE_SECONDS_MAX: Final = 30.0
STEADY_SECONDS: Final = 60.0  # a process that lasted for so long begins with short pauses again
COMMAND: Final = (sys.executable, "-P", "-m", "target.cli.node_process")


class Child:
    """The process that serves as ``config`` says."""

    def __init__(self, name: str, config: ServeConfig, log: Log, changed: Callable[[], None]):
        self.name = name
        self.ready: str | None = None  # what it said when it was ready first
        self.status: int | None = None  # of its exit, if it was never ready
        self._config = config
        self._log = log
        self._changed = changed  # told when one of the above is there
        self._loop = asyncio.get_running_loop()
        self._channel: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._serves = False
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Have it run until it is stopped (rule 1)."""
        pause = PAUSE_SECONDS_MIN
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                status = await self._live()
            except OSError as exc:  # no memory, descriptor or process left
                self._log.error("a process cannot start", process=self.name, reason=str(exc))
                status = 1
            if self.ready is None:
                self.status = status
                self._changed()
                return
            if self._stopping.is_set():
                return
            if time.monotonic() - began > STEADY_SECONDS:
                pause = PAUSE_SECONDS_MIN
            self._log.warning("a process ended", process=self.name, status=status, again_in=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _live(self) -> int:
        """From its start to its end; the exit status, negative where it is a signal."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                str(theirs.fileno()),
                self.name,  # for whoever looks at the list of processes
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,  # who reads ours shall see its end when we end
                pass_fds=(theirs.fileno(),),
                # It finds the packages where this process does, be they installed or not.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            theirs.close()
            self._channel, self._process = ours, process
            self._loop.add_reader(ours.fileno(), self._heard)
            try:
                assert process.stdin is not None, "asked for"
                process.stdin.write(encode_config(self._config))
                with contextlib.suppress(ConnectionError):  # it has ended already
                    await process.stdin.drain()
                process.stdin.close()
                if self._stopping.is_set():
                    self._hang_up()
                return await process.wait()
            finally:
                self._hang_up()
                self._process = None

    def _heard(self) -> None:
        assert self._channel is not None, "read from"
        try:
            message = self._channel.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        self._serves = message.startswith(OPEN)
        if not message:
            self._loop.remove_reader(self._channel.fileno())
        elif self._serves and self.ready is None:
            self.ready = message[len(OPEN) :].decode(errors="replace")
            self._changed()

    def give(self, sock: socket.socket, portal: int) -> bool:
        """Rule 3; see ``front.Door``."""
        if not self._serves or self._channel is None:
            return False
        try:
            socket.send_fds(self._channel, [portal.to_bytes(PORTAL_BYTES)], [sock.fileno()])
        except OSError:  # its end is full, or gone
            return False
        return True

    def stop(self) -> None:
        """Ask it to end (rule 2)."""
        self._stopping.set()
        if self._process is not None:
            self._hang_up()

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _hang_up(self) -> None:
        self._serves = False
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None


def encode_config(config: ServeConfig) -> bytes:
    """As a process reads it, secrets and all: for a pipe, never for a file or a command line."""
    return msgspec.json.encode(config, enc_hook=str)


def decode_config(encoded: bytes) -> ServeConfig:
    """The reverse."""

    def path(kind: type[Any], value: str) -> Path:
        assert issubclass(kind, Path), "nothing else is encoded as text"
        return Path(value)

    return msgspec.json.decode(encoded, type=ServeConfig, dec_hook=path)
