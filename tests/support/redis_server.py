"""One `redis-server` process.

    with RedisServer(tmp_path) as redis:
        serve("--redis", redis.url)
        redis.restart()              # everything in it is gone, unless it is durable
        redis.signal(signal.SIGSTOP)

It listens on a Unix socket in its folder and, if told a port, on the loopback address as well, for
a relay.  It keeps nothing across a restart, so a test sees the worst that a restart can do;
``durable`` keeps everything that was acknowledged.  Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

START_SECONDS = 30
STOP_SECONDS = 30


class RedisProcessError(Exception):
    """It is not installed, did not start or did not end; carries the end of its log."""


class RedisServer:
    """A Redis that can be started, stopped, killed and restarted; as a context, running."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        durable: bool = False,
        arguments: Sequence[str] = (),
        user: tuple[str, str] | None = None,
    ) -> None:
        """``port`` 0 is none: the Unix socket is enough.  ``arguments`` are any further options.

        ``user``: name and password of the only one who may do something.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.socket_path = folder / "redis.sock"
        self.port = port
        self.log_path = folder / "redis.log"
        self._folder = folder
        self._durable = durable
        self._arguments = tuple(arguments)
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """The Unix socket, as `--redis` and redis-py take it."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "not running"
        return self._process.pid

    def client(self) -> redis.Redis:
        """A connection of the test's own; a context manager that closes it."""
        return redis.Redis(unix_socket_path=str(self.socket_path))

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "runs already"
        program = shutil.which("redis-server")
        if program is None:
            raise RedisProcessError("redis-server is not installed: apt-get install redis-server")
        command = [
            program,
            *("--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--bind", "127.0.0.1", "--port", str(self.port)),
            *("--save", "", "--appendonly", "yes" if self._durable else "no"),
            *("--appendfsync", "always", "--dir", str(self._folder)),
            *("--logfile", str(self.log_path), "--daemonize", "no"),
            *self._arguments,
        ]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                error = self._error("redis-server does not start")
                self.kill()
                raise error
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (SIGSTOP, SIGCONT …)."""
        assert self._process is not None, "not running"
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            error = self._error(f"redis-server did not end in {STOP_SECONDS} s")
            self.kill()
            raise error from None
        self._process = None

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Killed and started again: what was not durable is gone."""
        self.kill()
        self.start()

    def restart_empty(self) -> None:
        """Killed and started again, and everything is gone, durable or not."""
        self.kill()
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        self.start()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(START_SECONDS)
            probe.connect(str(self.socket_path))
            if self._user is not None:
                probe.sendall("AUTH {} {}\r\n".format(*self._user).encode("ascii"))
                probe.recv(64)
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")  # it may still be loading
        return False

    def _error(self, what: str) -> RedisProcessError:
        return RedisProcessError(f"{what}: {self.log_path.read_text(errors='replace')[-2000:]}")
