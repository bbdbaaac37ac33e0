"""A real Ceph, small: one monitor and one OSD on the loopback address.

    with CephCluster(tmp_path) as cluster:
        cluster.create_pool("disks")
        connect(f"rados:disks@{cluster.conf}")

It has its own cluster id and ports of its own, asks for no keys, and keeps everything in its
folder.  There is no manager: what needs one (pool quotas, autoscaling) does not happen here.  With
"memstore" the objects are in the OSD's memory, with "bluestore" in a sparse file.  Nothing here
depends on pytest.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support.lunmesh_server import free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool")
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/usr/sbin:/sbin"
START_SECONDS = 60
STOP_SECONDS = 20
COMMAND_SECONDS = 30
PLACEMENT_GROUPS = 8

_CONF = """\
[global]
fsid = {fsid}
run dir = {folder}
log file = {folder}/$type.$id.log
log to stderr = false
mon cluster log file = {folder}/cluster.log
crash dir = {folder}/crash
mon host = v2:127.0.0.1:{port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon allow pool delete = true
mon data avail warn = 1
mon data avail crit = 0
[client]
log file =
[mon]
admin socket = {folder}/mon.asok
mon data = {folder}/mon
mon initial members = a
[osd]
admin socket = {folder}/osd.asok
osd data = {folder}/osd
osd objectstore = {objectstore}
osd memory target = 939524096
osd scrub begin hour = 0
osd scrub load threshold = 0
memstore device bytes = {bytes}
bluestore block size = {bytes}
bluestore block create = true
bluestore fsck on mount = false
"""


class CephError(Exception):
    """The cluster did not start, or a command failed; the message says why."""


def find_ceph() -> str | None:
    """Why there can be no cluster here, or None: there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    return (
        f"{', '.join(missing)}: not installed (apt install ceph-mon ceph-osd)" if missing else None
    )


class CephCluster:
    """A cluster in ``folder``; as a context, running."""

    def __init__(
        self,
        folder: Path,
        objectstore: Literal["memstore", "bluestore"] = "memstore",
        *,
        device_bytes: int = 4 << 30,
    ) -> None:
        missing = find_ceph()
        if missing is not None:
            raise CephError(missing)
        self.folder = folder
        self.conf = folder / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self._objectstore = objectstore
        self._device_bytes = device_bytes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    # --- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Make it, start it, and wait until a pool would answer."""
        port = free_port()
        for folder in (self.folder, self.folder / "mon", self.folder / "osd"):
            folder.mkdir(parents=True, exist_ok=True)
        self.conf.write_text(
            _CONF.format(
                fsid=self.fsid,
                folder=self.folder,
                port=port,
                objectstore=self._objectstore,
                bytes=self._device_bytes,
            )
        )
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._spawn("mon", "ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        number = self.admin("osd", "new", osd)["osdid"]
        assert number == 0, "the first OSD"
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config")
        self.start_osd()

    def start_osd(self) -> None:
        """Start the OSD, the first time or again, and wait until it serves."""
        self._spawn("osd", "ceph-osd", "-i", "0")
        self._until("the OSD is up", self._osd_is_up)

    def _osd_is_up(self) -> bool:
        return bool(self.admin("osd", "stat")["num_up_osds"] == 1)

    def kill_osd(self) -> None:
        """As a crash would; a memstore's objects are gone with it."""
        self._end("osd", signal.SIGKILL)

    @property
    def osd_pid(self) -> int:
        """Of the running OSD: it can be stopped and continued, or killed."""
        return self._processes["osd"].pid

    @property
    def mon_pid(self) -> int:
        """Of the running monitor."""
        return self._processes["mon"].pid

    def stop(self) -> None:
        """End both, by their own process ids."""
        self._end("osd", signal.SIGKILL)
        self._end("mon", signal.SIGKILL)

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(STOP_SECONDS)

    # --- what tests ask of it ---------------------------------------------------------------------

    def create_pool(self, name: str = "", placement_groups: int = PLACEMENT_GROUPS) -> str:
        """A new, empty pool that takes I/O; its name, which is made up if none is given."""
        name = name or f"pool-{secrets.token_hex(4)}"
        self.admin("osd", "pool", "create", name, str(placement_groups), decode=False)
        return name

    def admin(self, *command: str, decode: bool = True) -> Any:
        """``ceph COMMAND``: what it says, from JSON, or as text with ``decode=False``."""
        arguments = ["--format", "json"] if decode else []
        said = self._run("ceph", "--connect-timeout", "20", *command, *arguments)
        return json.loads(said) if decode else said

    def pretend_full(self, full: bool) -> None:
        """Let the OSD say that it is full, or not; returns when the monitor has heard it."""
        self.admin("tell", "osd.0", "injectfull", "full" if full else "none", decode=False)

        def heard() -> bool:
            dump = self.admin("osd", "dump")
            states = [osd["state"] for osd in dump["osds"]]
            states += [pool["flags_names"].split(",") for pool in dump["pools"]]
            return all(("full" in state) == full for state in states)

        self._until(f"the OSD is {'' if full else 'not '}full", heard)

    def rados(self, *command: str) -> str:
        """``rados COMMAND``, the tool."""
        return self._run("rados", *command)

    # --- processes --------------------------------------------------------------------------------

    def _command(self, program: str, arguments: Sequence[str]) -> list[str]:
        found = shutil.which(program, path=SYSTEM_PATH)
        assert found is not None, "find_ceph said that there is one"
        configuration = [] if program == "monmaptool" else ["-c", str(self.conf)]
        return [found, *configuration, *arguments]

    def _run(self, program: str, *arguments: str) -> str:
        command = self._command(program, arguments)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise CephError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        """In the foreground: the process that we know is the daemon."""
        with (self.folder / f"{name}.err").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._command(program, ["-f", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            ended = [n for n, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                said = "".join((self.folder / f"{name}.err").read_text()[-1000:] for name in ended)
                raise CephError(f"not within {START_SECONDS} s: {what}. {said}")
            time.sleep(0.1)
