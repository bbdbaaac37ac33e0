"""Where, and with what, the figures were taken: what is not installed is said to be that."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.servers import product_version
from tests.support.tgtd_server import tgtd_version

NOT_INSTALLED = "not installed"
# Whose speed is in ours: the event loop, the ways to workers and to Redis, digests.
LIBRARIES = ("uvloop", "grpcio", "protobuf", "redis", "hiredis", "crc32c")


def describe() -> dict[str, str]:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "lunmesh": product_version(),
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {_library_version(name)}" for name in LIBRARIES),
        "tgt": tgtd_version() or NOT_INSTALLED,
        "redis": _first_line("redis-server", "--version"),
        "ceph": _first_line("ceph", "--version"),
        "qemu-img": _first_line("qemu-img", "--version"),
        "libiscsi": _debian_version("libiscsi-bin"),
        # More than about one busy core beside the bench makes every rate doubtful.
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.+)$", text, re.M)
    return found[1] if found else platform.machine()


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return NOT_INSTALLED
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _library_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED


def _debian_version(package: str) -> str:
    """libiscsi's programs do not tell their version."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or NOT_INSTALLED
