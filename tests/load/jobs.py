"""The jobs of deploy/fio, as a user runs them on a mounted disk.

`make load` changes nothing in them but common.fio, which says what fio reaches the disk with and
for how long a section runs.
"""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from target.config.sizes import parse_size
from tests.support.lunmesh_server import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "deploy" / "fio"
COMMON = "common.fio"
JOBS = (
    "random-read",
    "random-write",
    "sequential-read",
    "sequential-write",
    "mixed",
    "latency",
    "verify",
    "trim",
)


@dataclass(frozen=True)
class Section:
    """One measurement of a job file."""

    job: str
    name: str
    block_bytes: int  # 0: of several sizes
    depth: int
    rate: int  # operations a second that are asked for; 0: as many as can be

    @property
    def title(self) -> str:
        return f"{self.job} {self.name}"


def sections(job: str) -> list[Section]:
    """All sections of a job file. OSError and configparser.Error of a file that is none."""
    # fio's "include FILE" is a key without a value to configparser.
    parser = configparser.ConfigParser(
        default_section="global", allow_no_value=True, interpolation=None
    )
    parser.read_string((FOLDER / f"{job}.fio").read_text())
    return [
        Section(
            job,
            name,
            parse_size(options.get("bs", "0").upper()) if "bs" in options else 0,
            options.getint("iodepth", 1) * options.getint("numjobs", 1),
            options.getint("rate_iops", 0),
        )
        for name, options in parser.items()
        if name != "global"
    ]


def common(reach: Sequence[str], seconds: float) -> str:
    """common.fio with other ways to the disk, lines like "ioengine=nbd", and another time."""
    kept = [
        line
        for line in (FOLDER / COMMON).read_text().splitlines()
        if line.partition("=")[0] not in ("ioengine", "runtime")
    ]
    return "\n".join([*reach, f"runtime={round(seconds * 1000)}ms", *kept, ""])


def copy_jobs(folder: Path, text: str) -> None:
    """The job files in another folder, with `text` as their common.fio."""
    folder.mkdir()
    for job in JOBS:
        shutil.copy(FOLDER / f"{job}.fio", folder)
    (folder / COMMON).write_text(text)
