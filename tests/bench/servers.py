"""The servers that are measured, each on an image file of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import target
from tests.support.lunmesh_server import LunmeshServer
from tests.support.tgtd_server import FIRST_LUN, TgtdServer, find_tgtd, tgtd_version

PRODUCT = "lunmesh"


@dataclass(frozen=True)
class Endpoint:
    """A running server: where a client reaches its disk, and whose CPU time counts."""

    url: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A server that could be measured, or why it cannot."""

    name: str
    version: str
    serve: Callable[[Path], AbstractContextManager[Endpoint]]
    missing: str = ""


@contextmanager
def _serve_lunmesh(image: Path) -> Iterator[Endpoint]:
    with LunmeshServer(image.parent / "lunmesh", [f"disk0={image}"]) as server:
        yield Endpoint(server.url(), (server.pid,))


@contextmanager
def _serve_tgtd(image: Path) -> Iterator[Endpoint]:
    with TgtdServer([image]) as server:
        yield Endpoint(server.url(FIRST_LUN), (server.pid,))


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
