"""The load generators: two that others wrote, and one in C for what those cannot do (c/load.c).

What is no iSCSI target has a client of its own, whatever the row asks for: the scheme of its URL
says which.

`iscsi-perf` (libiscsi) only reads and runs for a time. `qemu-img bench` reads and writes and runs
for a number of requests, so a first short run tells how many the time takes. Debian's fio is built
without libiscsi and cannot reach a target by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from tests.bench import tools
from tests.support.lunmesh_server import PROJECT_ROOT

# A run that takes this much longer than it should is stuck.
_GRACE_S = 120
# Requests of qemu-img's first run, from which the number for a timed run follows.
_PROBE_BYTES = 16 << 20
_PROBE_REQUESTS_MIN = 200
_FILL_BLOCK_BYTES = 1 << 20
_FILL_DEPTH = 8
_WRITES = {"read": 0, "mix": 30, "write": 100}  # percent
ECHO = "echo"  # what load.c calls the server of echo.c
GRPC_STREAM = "grpc-stream"  # URL: grpc-stream:ADDRESS
RADOS_BENCH = "rados-bench"  # URL: rados-bench:CONF?pool=POOL
_CLEANUP_S = 30.0
_OBJECT_BYTES = 4 << 20  # as large as those of the others
_LUN_BLOCK_BYTES = 512  # of all disks here; iscsi-perf counts in the disk's blocks


class ClientFailed(Exception):
    pass


@dataclass(frozen=True)
class Workload:
    op: str  # "read", "write" or "mix", which is 70 % of reads
    block_bytes: int
    depth: int  # of each session
    random: bool = False
    sessions: int = 1
    digests: bool = False
    rate: float = 0  # I/Os a second; 0: as many as can be


@dataclass(frozen=True)
class Run:
    """What a client did, by its own clock."""

    ios: float
    seconds: float
    p99_us: float = 0  # where the client says it


# Given the URL, the size of the disk, the workload and about how long it should take; what is
# returned does the run. Whatever must come before it is done by then, outside the measured time.
Client = Callable[[str, int, Workload, float], Callable[[], Run]]


def iscsi_perf(url: str, disk_bytes: int, workload: Workload, seconds: float) -> Callable[[], Run]:
    if workload.op != "read":
        raise ClientFailed("iscsi-perf only reads")
    whole_seconds = max(1, round(seconds))

    def run() -> Run:
        output = _run(
            "iscsi-perf",
            *("-m", str(workload.depth)),
            *("-b", str(workload.block_bytes // _LUN_BLOCK_BYTES)),
            *("-t", str(whole_seconds)),
            *(["-r"] if workload.random else []),
            url,
            seconds=seconds,
        )
        # The last of these figures is over the whole run; before it comes one a second.
        rates = re.findall(r"iops average (\d+)", output)
        if not rates or "finished." not in output:
            raise ClientFailed(f"iscsi-perf printed no result: {output[-300:]}")
        return Run(int(rates[-1]) * whole_seconds, whole_seconds)

    return run


def qemu_img(url: str, disk_bytes: int, workload: Workload, seconds: float) -> Callable[[], Run]:
    requests = max(_PROBE_BYTES // workload.block_bytes, _PROBE_REQUESTS_MIN)
    probe = _qemu_img_bench(url, disk_bytes, workload, requests, seconds)
    requests = max(requests, round(seconds * probe.ios / max(probe.seconds, 0.001)))
    return lambda: _qemu_img_bench(url, disk_bytes, workload, requests, seconds)


def _qemu_img_bench(
    url: str, disk_bytes: int, workload: Workload, requests: int, seconds: float
) -> Run:
    output = _run(
        *("qemu-img", "bench", "-f", "raw", "-t", "none"),
        *("-c", str(requests)),
        *("-d", str(workload.depth)),
        *("-s", str(workload.block_bytes)),
        *("-S", str(_step(workload, disk_bytes))),
        *(["-w"] if workload.op == "write" else []),
        url,
        seconds=seconds,
    )
    completed = re.search(r"Run completed in ([0-9.]+) seconds", output)
    if completed is None:
        raise ClientFailed(f"qemu-img bench printed no result: {output[-300:]}")
    return Run(requests, float(completed[1]))


def c_load(url: str, disk_bytes: int, workload: Workload, seconds: float) -> Callable[[], Run]:
    parts = urlsplit(url)
    _, *path = parts.path.split("/")
    iqn, lun = path if parts.scheme == "iscsi" else (ECHO, "0")
    command = (
        *(str(tools.built("load")), str(parts.hostname), str(parts.port), iqn, lun),
        *(str(workload.sessions), str(workload.depth), str(workload.block_bytes)),
        *(str(disk_bytes), str(_WRITES[workload.op]), str(int(workload.random))),
        *(str(int(workload.digests)), str(workload.rate), str(seconds)),
    )

    def run() -> Run:
        ios, took, _, p99, *_ = _run(*command, seconds=seconds).split()
        return Run(int(ios), float(took), float(p99))

    return run


def grpc_stream(url: str, disk_bytes: int, workload: Workload, seconds: float) -> Callable[[], Run]:
    address = url.removeprefix(f"{GRPC_STREAM}:")
    writes = str(int(workload.op == "write"))
    command = (
        *(sys.executable, "-m", "tests.bench.grpc_stream", "load", address),
        *(str(workload.block_bytes), str(workload.depth), writes, str(seconds)),
    )

    def run() -> Run:
        ios, took = _run(*command, seconds=seconds).split()
        return Run(int(ios), float(took))

    return run


def rados_bench(url: str, disk_bytes: int, workload: Workload, seconds: float) -> Callable[[], Run]:
    parts = urlsplit(url)
    (pool,) = parse_qs(parts.query)["pool"]
    size = str(workload.block_bytes)
    rados = ("rados", "-c", parts.path, "-p", pool)

    def command(mode: str, took: float, *more: str) -> str:
        return _run(
            *(*rados, "bench", str(max(1, round(took))), mode),
            *("-t", str(workload.depth), "--run-name", size, "--no-cleanup", *more),
            seconds=took,
        )

    def write(took: float) -> str:
        return command("write", took, "-b", size, "-O", str(_OBJECT_BYTES))

    def clean_up() -> None:
        """Each run writes objects of its own: some of them would fill the OSD, which hangs then."""
        _run(*rados, "cleanup", "--run-name", size, seconds=_CLEANUP_S)

    if workload.op == "read":
        clean_up()
        write(seconds)  # what is to be read

    def run() -> Run:
        if workload.op == "write":
            output = write(seconds)
            clean_up()
        else:
            output = command("rand", seconds)
        done = re.search(r"Total (?:writes|reads) made:\s+(\d+)", output)
        took = re.search(r"Total time run:\s+([0-9.]+)", output)
        if done is None or took is None:
            raise ClientFailed(f"rados bench printed no result: {output[-300:]}")
        return Run(int(done[1]), float(took[1]))

    return run


def write_once(url: str, disk_bytes: int) -> None:
    """Write the whole disk, one block after the other."""
    load = Workload("write", _FILL_BLOCK_BYTES, _FILL_DEPTH)
    _qemu_img_bench(url, disk_bytes, load, max(1, disk_bytes // _FILL_BLOCK_BYTES), 0)


def _step(workload: Workload, disk_bytes: int) -> int:
    """From one request to the next; qemu-img begins again at the front when it is past the end.

    It has no random mode. A step near the golden section of the disk comes near no block it has
    been at for long, and an odd number of blocks leads through all of them where their number is a
    power of two.
    """
    if not workload.random:
        return workload.block_bytes
    return (int(disk_bytes * 0.618) // workload.block_bytes | 1) * workload.block_bytes


def _run(*command: str, seconds: float) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ClientFailed(f"{' '.join(command)} hangs") from exc
    if done.returncode:
        raise ClientFailed(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}"
        )
    return done.stdout


CLIENTS: dict[str, Client] = {"iscsi-perf": iscsi_perf, "qemu-img": qemu_img, "load": c_load}
_BY_SCHEME: dict[str, Client] = {GRPC_STREAM: grpc_stream, RADOS_BENCH: rados_bench}
_PACKAGES = {"iscsi-perf": "libiscsi-bin", "qemu-img": "qemu-utils qemu-block-extra"}


def client_of(name: str, url: str) -> Client:
    """The client of that name, or the one that this server has instead."""
    return _BY_SCHEME.get(url.partition(":")[0], CLIENTS[name])


def missing_clients() -> dict[str, str]:
    """Why which clients cannot be used."""
    missing = {
        name: f"{name} is not installed: apt-get install {package}"
        for name, package in _PACKAGES.items()
        if shutil.which(name) is None
    }
    if why := tools.missing():
        missing["load"] = why
    return missing
