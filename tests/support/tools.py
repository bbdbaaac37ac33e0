"""Programs of Debian packages that tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

PACKAGES = {
    "cc": "gcc libc6-dev",
    "fio": "fio",
    "unshare": "util-linux",
    "ip": "iproute2",
    "redis-server": "redis-server",
    **dict.fromkeys(("prometheus", "promtool"), "prometheus"),
    "qemu-storage-daemon": "qemu-system-common",
    **dict.fromkeys(
        ("iscsi-ls", "iscsi-inq", "iscsi-readcapacity16", "iscsi-perf", "iscsi-swp"), "libiscsi-bin"
    ),
    "iscsi-test-cu": "libiscsi-bin",
    **dict.fromkeys(("qemu-img", "qemu-io"), "qemu-utils qemu-block-extra"),
}


def require_tool(name: str) -> str:
    """Where the program is. A test that skips itself where one is missing is run by nobody."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed: apt-get install {PACKAGES[name]}"
        if os.environ.get("LUNMESH_TEST_SKIP_MISSING") == "1":
            pytest.skip(message)
        pytest.fail(message)
    return path


def run_tool(command: Sequence[str], *, timeout: float = 60, check: bool = True) -> str:
    """What the program prints, on both its outputs; it must succeed unless `check` is off."""
    done = subprocess.run(
        [require_tool(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout
