"""One `lunmesh worker` process.

    with LunmeshWorker(tmp_path) as worker:
        connect(worker.address)
        worker.kill()     # as a crash would
        worker.start()    # the same data, the same address

It listens on a Unix socket, or where `listen` says; `address` is what its ready line says.  Nothing
here depends on pytest.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROJECT_ROOT = Path(__file__).resolve().parents[2]
READY_PREFIX = "lunmesh worker ready: "
STOP_SECONDS = 30


class WorkerProcessError(Exception):
    """The worker did not start; the message carries the end of its stderr."""


class LunmeshWorker:
    """A worker that can be started, stopped, killed and restarted; as a context, running."""

    def __init__(
        self,
        folder: Path,
        *,
        listen: str = "",
        store: str = "",
        arguments: Sequence[str] = (),
        boot_id: Path | None = None,
    ) -> None:
        """``boot_id`` stands for the kernel's file of that name, which is another after a crash."""
        folder.mkdir(parents=True, exist_ok=True)
        self.listen = listen or f"unix:{folder}/socket"
        self.store = store or f"file:{folder}/store"
        self.stderr_path = folder / "stderr.log"
        self.address = ""
        self.output = ""  # what it has printed to stdout, once it has ended
        self._arguments = tuple(arguments)
        self._program = ["target.cli"]
        if boot_id is not None:
            self._program = ["tests.support.rebooted_worker", str(boot_id)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start it, with ``more`` arguments this time, and wait until it accepts connections."""
        assert self._process is None, "runs already"
        command = [
            sys.executable, "-m", *self._program, "worker",
            "--listen", self.listen, "--store", self.store, *self._arguments, *more,
        ]  # fmt: skip
        with self.stderr_path.open("a") as stderr:
            self._process = subprocess.Popen(
                command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self._process.stdout is not None
        timer = threading.Timer(60, self._process.kill)  # readline has no timeout of its own
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        self.output = line
        if not line.startswith(READY_PREFIX):
            self.kill()
            raise WorkerProcessError(f"{line!r}, {self.stderr_path.read_text()[-2000:]}")
        self.address = line.removeprefix(READY_PREFIX).split(" (")[0]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (SIGSTOP, SIGCONT …)."""
        assert self._process is not None, "not running"
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; returns its exit status."""
        self.signal(signal.SIGTERM)
        return self._reap()

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        try:
            return process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                self.output += process.stdout.read()
                process.stdout.close()
