"""What `make bench` says about the machine and its software."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version

import target
from tests.bench import machine


def test_every_version_that_a_figure_hangs_on_is_named() -> None:
    about = machine.describe()
    assert platform.release() in about["kernel"]
    assert about["python"] == platform.python_version()
    assert f"uvloop {version('uvloop')}" in about["libraries"].split(", ")
    for name in ("grpcio", "protobuf", "hiredis", "redis"):
        (found,) = (it for it in about["libraries"].split(", ") if it.startswith(f"{name} "))
        assert found.split()[1][0].isdigit()
    assert about["lunmesh"].startswith(target.__version__)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert commit in about["lunmesh"]
    assert {"tgt", "redis", "ceph", "processor", "qemu-img", "libiscsi"} <= set(about)


def test_a_peer_that_is_not_there_is_named() -> None:
    assert machine._first_line("no-such-program", "--version") == "not installed"
    assert machine._library_version("no-such-library") == "not installed"
