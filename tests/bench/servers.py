"""The servers that are measured, each on image files of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import target
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.tgtd_server import FIRST_LUN, TgtdServer, find_tgtd, tgtd_version

PRODUCT = "lunmesh"


@dataclass(frozen=True)
class Endpoint:
    """A running server: where a client reaches its disks, and whose CPU time counts."""

    urls: tuple[str, ...]  # in the order of the images
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A server that could be measured, or why it cannot."""

    name: str
    version: str
    serve: Callable[[Sequence[Path]], AbstractContextManager[Endpoint]]
    missing: str = ""


@contextmanager
def _serve_lunmesh(images: Sequence[Path]) -> Iterator[Endpoint]:
    volumes = [f"disk{number}={image}" for number, image in enumerate(images)]
    with LunmeshServer(images[0].parent / "lunmesh", volumes) as server:
        yield Endpoint(tuple(server.url(lun) for lun in range(len(images))), (server.pid,))


@contextmanager
def _serve_tgtd(images: Sequence[Path]) -> Iterator[Endpoint]:
    with TgtdServer(images) as server:
        luns = range(FIRST_LUN, FIRST_LUN + len(images))
        yield Endpoint(tuple(server.url(lun) for lun in luns), (server.pid,))


def refusal(candidate: Candidate, scratch: Path) -> str:
    """Why this server cannot be started here; nothing, if it can."""
    trial = scratch / f"trial-{candidate.name}"
    trial.mkdir()
    image = trial / "disk.raw"
    image.touch()
    os.truncate(image, 1 << 20)
    try:
        with candidate.serve([image]):
            return ""
    except ServerError as exc:
        return f"{candidate.name} does not start: {exc}"


def candidates() -> list[Candidate]:
    """The product first, then its peers."""
    return [
        Candidate(PRODUCT, _product_version(), _serve_lunmesh),
        Candidate(
            "tgtd",
            tgtd_version() or "",
            _serve_tgtd,
            missing="" if find_tgtd() else "tgtd is not installed: apt-get install tgt",
        ),
    ]


def _product_version() -> str:
    """With the commit, where there is one to name."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{target.__version__} {described.stdout.strip()}".strip()
