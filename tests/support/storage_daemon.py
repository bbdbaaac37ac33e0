"""One `qemu-storage-daemon` process: iSCSI disks as NBD exports on a Unix socket.

    with StorageDaemon({"disk0": server.url(0)}) as daemon:
        fio --ioengine=nbd --uri=DAEMON.uri("disk0")

Debian's fio has no iSCSI of its own, and nothing can be mounted where the kernel has no initiator.
QEMU's (libiscsi) is the same as in a virtual machine that has the disk. QEMU runs 16 requests of an
NBD connection at a time; who wants more needs more connections.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.support.lunmesh_server import ServerError

START_TIMEOUT_S = 30
CONNECTIONS_MAX = 16


class StorageDaemon:
    """As a context, running; `disks` are iscsi:// URLs by the name of their export."""

    def __init__(self, disks: Mapping[str, str]) -> None:
        self._disks = dict(disks)
        # Short: the path of a Unix socket has no more than 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="nbd-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        ready, log = folder / "pid", folder / "log"
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command(ready), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        # It writes its pid once every export is there.
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-500:]
                self._stop()
                raise ServerError(f"qemu-storage-daemon does not start: {said}")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop()

    def uri(self, name: str) -> str:
        """The export as libnbd names it."""
        return f"nbd+unix:///{name}?socket={self._folder.name}/socket"

    def _command(self, ready: Path) -> list[str]:
        command = ["qemu-storage-daemon", "--pidfile", str(ready)]
        server = f"addr.type=unix,addr.path={self._folder.name}/socket"
        command += [
            "--nbd-server",
            f"{server},max-connections={CONNECTIONS_MAX * len(self._disks)}",
        ]
        for name, url in self._disks.items():
            _, iqn, lun = urlsplit(url).path.split("/")
            where = f"transport=tcp,portal={urlsplit(url).netloc},target={iqn},lun={lun}"
            command += [
                "--blockdev",
                f"driver=iscsi,node-name={name},{where},cache.direct=on,discard=unmap",
                "--export",
                f"type=nbd,id=export-{name},node-name={name},name={name},writable=on",
            ]
        return command

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._folder.cleanup()
