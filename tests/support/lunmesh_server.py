"""One `lunmesh serve` process, for any test or benchmark that needs a running target.

    with LunmeshServer(tmp_path, ["disk0=256M", "disk1=256M,block=4096"]) as server:
        connect(server.host, server.port, server.iqn)
        server.kill()     # as a crash would
        server.start()    # the same data, the same port

The process runs under the interpreter that runs this code, on the loopback address, on ports that
are free; it has accepted connections by the time that `start` returns. Its stderr is appended to
`stderr_path`, its data are in `data_dir`. LUNMESH_TEST_COMMAND names another command to put before
the arguments (an installed `lunmesh serve`, say), LUNMESH_TEST_PACKAGES another folder of packages
(build/compiled).

Nothing here depends on pytest.
"""

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEFAULT_IQN = "iqn.2026-11.io.lunmesh:target"
READY_PREFIX = "lunmesh ready"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
PORTS = (10_000, 32_000)  # below net.ipv4.ip_local_port_range of Linux
_random = random.SystemRandom()  # whatever a test has seeded


class ServerError(Exception):
    """The server did not start or did not stop; the message carries the end of its stderr."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now. The server cannot be told 0: a restart must find it.

    It is none that the system gives to outgoing connections, which come and go all the time.
    """
    while True:
        port = _random.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            return port


class LunmeshServer:
    """A server that can be started, stopped, killed and restarted; as a context, running."""

    def __init__(
        self,
        work_dir: Path,
        volumes: Sequence[str],
        *,
        arguments: Sequence[str] = (),
        iqn: str = DEFAULT_IQN,
        host: str = "127.0.0.1",
        port: int | None = None,
        stores: Sequence[Path] = (),
        packages: Path | None = None,
    ) -> None:
        """`volumes` are values of --volume, in LUN order; `arguments` are any further flags.

        `stores` are the folders of workers that have a part of the volumes. `packages` is where
        the product is: in the source, or compiled (tests/support/compiled.py).
        """
        self.host = host
        self.port = port if port is not None else free_port(host)
        self.admin_port = free_port("127.0.0.1")
        self.iqn = iqn
        self.data_dir = work_dir / "data"
        self.stderr_path = work_dir / "stderr.log"
        self.output: list[str] = []  # what the running process has printed to stdout
        self._volumes = tuple(volumes)
        self._stores = tuple(stores)
        self._packages = packages or Path(os.environ.get("LUNMESH_TEST_PACKAGES", PROJECT_ROOT))
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        work_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def portal(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def runs(self) -> bool:
        """Whether it has been started, and neither stopped nor killed since."""
        return self._process is not None

    @property
    def admin(self) -> str:
        """Where `lunmesh volume` reaches it."""
        return f"127.0.0.1:{self.admin_port}"

    def url(self, lun: int = 0) -> str:
        """The LUN as libiscsi and QEMU name it."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def command(self) -> list[str]:
        override = os.environ.get("LUNMESH_TEST_COMMAND")
        start = shlex.split(override) if override else [sys.executable, "-m", "target.cli", "serve"]
        return [
            *start,
            *("--data-dir", str(self.data_dir)),
            *("--portal", self.portal),
            *("--iqn", self.iqn),
            *("--admin", self.admin),
            *(part for volume in self._volumes for part in ("--volume", volume)),
            *self._arguments,
        ]

    def start(self) -> None:
        """Start the server and wait until it says that it accepts connections."""
        if self._process is not None:
            raise ServerError("the server is running already")
        with self.stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                self.command(),
                # `python -m` finds the packages there, be they installed or not.
                cwd=self._packages,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.output = []
        assert self._process.stdout is not None
        ready = threading.Event()
        # Read to its end, not only to the ready line: a server must never block on a full pipe.
        self._drain = threading.Thread(
            target=_drain, args=(self._process.stdout, self.output, ready), daemon=True
        )
        self._drain.start()
        said_something = ready.wait(START_TIMEOUT_S)
        if not any(line.startswith(READY_PREFIX) for line in tuple(self.output)):
            reason = "ended" if said_something else f"was not ready in {START_TIMEOUT_S} s"
            error = self._error(f"the server {reason} ({shlex.join(self.command())})")
            self.kill()
            raise error

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (SIGSTOP, SIGCONT …)."""
        self._running().send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit status. A server that does not end in time is killed: an error."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            error = self._error(f"the server did not end in {STOP_TIMEOUT_S} s after SIGTERM")
            self.kill()
            raise error from None
        self._forget()
        return status

    def wait(self) -> int:
        """Its exit status, of a server that ends by itself. One that does not is an error."""
        try:
            status = self._running().wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._error(f"the server did not end in {STOP_TIMEOUT_S} s") from None
        self._forget()
        return status

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told. Harmless when nothing runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def restart(self) -> None:
        """Stop cleanly, which must succeed, and start again."""
        status = self.stop()
        if status != 0:
            raise self._error(f"the server ended with status {status} after SIGTERM")
        self.start()

    def allocated_bytes(self) -> int:
        """The space that the data take on the host's disk, which thin volumes give back."""
        folders = (self.data_dir, *self._stores)
        files = (path for folder in folders for path in folder.rglob("*.raw"))
        return sum(path.stat().st_blocks * 512 for path in files)

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process

    def _forget(self) -> None:
        if self._process is not None and self._drain is not None:
            self._drain.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._process = self._drain = None

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{what}; its stderr ends:\n{self.stderr()[-3000:]}")


def _drain(stdout: IO[str], lines: list[str], ready: threading.Event) -> None:
    """Collect lines; `ready` is set by the ready line, or by the end of a server that has none."""
    for line in stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(READY_PREFIX):
            ready.set()
    ready.set()
