"""Runs fio and takes what it measured from its JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# A run that takes this much longer than it should is stuck.
GRACE_S = 120
PERCENTILES = ("50", "90", "99", "99.9")


class LoadFailed(Exception):
    """fio found an error, or ended without a result; the message says which."""


@dataclass(frozen=True)
class Measured:
    """One section, all its jobs together."""

    ios: int
    seconds: float
    iops: float
    bytes_per_second: float
    latency_us: dict[str, float]  # by percentile, from submission to completion


def missing() -> str:
    """Why nothing can be measured here, or nothing."""
    for program, package in (("fio", "fio"), ("qemu-storage-daemon", "qemu-system-common")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    return ""


def arguments(job: str, section: str) -> list[str]:
    """A run of one section, whose JSON goes to standard output, maybe after some notes."""
    return ["fio", f"{job}.fio", f"--section={section}", "--output-format=json"]


def run_here(folder: Path, job: str, section: str, seconds: float) -> str:
    """What fio prints. LoadFailed when it ends with an error, or not at all."""
    command = arguments(job, section)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise LoadFailed(f"{' '.join(command)} hangs") from exc
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-300:]
        raise LoadFailed(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


def parse(output: str) -> Measured:
    """The one job that fio reports on. LoadFailed when there is none, or it had an error."""
    _, brace, rest = output.partition("{")
    try:
        (job,) = json.loads(brace + rest)["jobs"]
    except (ValueError, KeyError) as exc:
        raise LoadFailed(f"fio printed no result: {output[-300:]}") from exc
    if job["error"]:
        raise LoadFailed(f"{job['jobname']}: fio reports error {job['error']}")
    done = job["mixed"]
    if not done["total_ios"]:
        raise LoadFailed(f"{job['jobname']}: no I/O was done")
    found = {float(name): value for name, value in done["lat_ns"]["percentile"].items()}
    return Measured(
        done["total_ios"],
        done["runtime"] / 1e3,
        done["iops"],
        done["bw_bytes"],
        {name: found[float(name)] / 1e3 for name in PERCENTILES},
    )
