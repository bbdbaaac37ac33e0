"""One `tgtd` process (Debian's tgt), for benchmarks and for trying the tests' own initiator.

    with TgtdServer([image]) as server:
        connect(server.host, server.port, server.iqn)

It is the same kind of thing as LunmeshServer: loopback, free ports, ready when `start` returns. LUN
0 of a tgtd target is its controller, so the first image is LUN 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.lunmesh_server import ServerError, free_port

IQN = "iqn.2026-11.io.lunmesh.test:tgtd"
FIRST_LUN = 1
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
START_TIMEOUT_S = 20
# Part of the name of the socket by which tgtadm reaches its tgtd.
_CONTROL_PORT = "1"


def find_tgtd() -> tuple[str, str] | None:
    """The daemon and its control program, or None where tgt is not installed."""
    daemon = shutil.which("tgtd", path=SYSTEM_PATH)
    admin = shutil.which("tgtadm", path=SYSTEM_PATH)
    return (daemon, admin) if daemon and admin else None


def tgtd_version() -> str | None:
    found = find_tgtd()
    if found is None:
        return None
    done = subprocess.run([found[0], "-V"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip()


class TgtdServer:
    """As a context, running. `images` become LUN 1, 2, 3 …

    `backing` says what they are, if not files: ("--bstype", "rbd", "--bsopts", "conf=FILE").
    """

    def __init__(
        self,
        images: Sequence[Path | str],
        *,
        backing: Sequence[str] = (),
        block_size: int = 512,
        digests: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        found = find_tgtd()
        if found is None:
            raise ServerError("tgtd is not installed: apt-get install tgt")
        self._daemon, self._admin = found
        self._images = tuple(images)
        self._backing = tuple(backing)
        self._block_size = block_size
        self._digests = digests
        self.host = host
        self.port = free_port(host)
        self.iqn = IQN
        # Of its own: the usual place, under /run, is everybody's, and root's.
        self._control = tempfile.TemporaryDirectory(prefix="tgtd-")
        self._environment = {**os.environ, "TGT_IPC_SOCKET": f"{self._control.name}/control"}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
        self._control.cleanup()

    @property
    def portal(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError("tgtd is not running")
        return self._process.pid

    def url(self, lun: int = FIRST_LUN) -> str:
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                self._daemon,
                "-f",
                *("-C", _CONTROL_PORT),
                *("--iscsi", f"portal={self.portal}"),
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self._wait_until_it_answers()
            self._configure()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """With SIGKILL: tgtd ignores SIGTERM while it has sessions, and has nothing to flush."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _configure(self) -> None:
        self._tgtadm("--lld iscsi --op new --mode target --tid 1 --targetname", self.iqn)
        for lun, image in enumerate(self._images, FIRST_LUN):
            self._tgtadm(
                f"--lld iscsi --op new --mode logicalunit --tid 1 --lun {lun} "
                f"--blocksize {self._block_size} --backing-store",
                str(image),
                *self._backing,
            )
            # tgtd offers no thin provisioning unless told, also for a file that could do it.
            self._tgtadm(
                f"--lld iscsi --op update --mode logicalunit --tid 1 --lun {lun} "
                "--params thin_provisioning=1"
            )
        if self._digests:
            # Off by default. Once on, an offer that has CRC32C anywhere in it gets CRC32C.
            for key in ("HeaderDigest", "DataDigest"):
                self._tgtadm(
                    "--lld iscsi --op update --mode target --tid 1 "
                    f"--name {key} --value CRC32C,None"
                )
        self._tgtadm("--lld iscsi --op bind --mode target --tid 1 --initiator-address ALL")

    def _wait_until_it_answers(self) -> None:
        """tgtd says nothing when it is ready, so ask until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._tgtadm("--op show --mode system")
            except ServerError:
                if time.monotonic() > deadline or self._has_ended():
                    raise
            else:
                return

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _tgtadm(self, arguments: str, *last: str) -> str:
        command = [self._admin, "-C", _CONTROL_PORT, *arguments.split(), *last]
        done = subprocess.run(
            command,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def session_count(self) -> int:
        return len(re.findall("I_T nexus:", self._tgtadm("--lld iscsi --op show --mode target")))
