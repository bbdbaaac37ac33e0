"""The servers that are measured, each on disks of its own.

Blocks of a disk are all written before the first timed run, so that no run pays for allocation, and
in blocks of the size that is read and written there: the kernel keeps a file in its cache in folios
as large as the writes were, and a random 4 KiB write into a folio of 1 MiB costs it ten times one
into a folio of 4 KiB.  That is the same for all servers and would hide what is to be seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

import target
from tests.bench import tools
from tests.bench.clients import GRPC_STREAM
from tests.support import compiled
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.node_processes import processes_of
from tests.support.tgtd_server import FIRST_LUN, TgtdServer, find_tgtd, tgtd_version

EMBEDDED = "lunmesh"
COMPILED = "lunmesh, compiled"
TGTD = "tgtd"
ECHO = "C echo"
GRPC = "bare gRPC stream"
WORKER_UNIX = "1 worker, unix"
WORKER_WIRE = "1 worker, unix, wire"  # neither direct reads nor lent memory: all goes by gRPC
WORKER_TCP = "1 worker, tcp"
TWO_WORKERS = "2 workers"
FOUR_WORKERS = "4 workers"
_WORKERS = {WORKER_UNIX: 1, WORKER_WIRE: 1, WORKER_TCP: 1, TWO_WORKERS: 2, FOUR_WORKERS: 4}


@dataclass(frozen=True)
class Disks:
    """What a server has to serve: a disk of ``size`` bytes for each size of blocks."""

    folder: Path  # of this server alone
    size: int
    blocks: tuple[int, ...]  # bytes


@dataclass(frozen=True)
class Endpoint:
    """A running server: where a client reaches its disks, and whose CPU time counts."""

    urls: dict[int, str]  # by size of blocks
    pids: tuple[int, ...]
    files: dict[int, tuple[Path, ...]]  # by size of blocks; none where the disk is no file here


Serve = Callable[[Disks], AbstractContextManager[Endpoint]]


@dataclass(frozen=True)
class Candidate:
    """A server that could be measured, or why it cannot."""

    name: str
    version: str
    serve: Serve
    missing: str = ""


def make_image(path: Path, size: int, block_bytes: int) -> None:
    """Random data, on disk: neither a hole nor an unwritten extent is left in it."""
    with path.open("r+b" if path.exists() else "wb", buffering=0) as image:
        for _ in range(0, size, block_bytes):
            image.write(os.urandom(block_bytes))
        os.fsync(image.fileno())


def _images(disks: Disks) -> dict[int, Path]:
    images = {block: disks.folder / f"{block}.raw" for block in disks.blocks}
    for block, image in images.items():
        make_image(image, disks.size, block)
    return images


@contextmanager
def _serve_lunmesh(disks: Disks, packages: Path | None = None) -> Iterator[Endpoint]:
    images = _images(disks)
    volumes = [f"disk{block}={image}" for block, image in images.items()]
    with LunmeshServer(disks.folder / "lunmesh", volumes, packages=packages) as server:
        urls = {block: server.url(lun) for lun, block in enumerate(images)}
        yield Endpoint(urls, (server.pid,), {block: (image,) for block, image in images.items()})


@contextmanager
def serve_over_workers(
    name: str, disks: Disks, arguments: Sequence[str] = ()
) -> Iterator[Endpoint]:
    """A node, with further flags, over the workers that ``name`` names."""
    with ExitStack() as stack:
        folders = [disks.folder / f"worker{number}" for number in range(_WORKERS[name])]
        listen = "127.0.0.1:0" if name == WORKER_TCP else ""
        by_wire = ("--direct-reads", "off") if name == WORKER_WIRE else ()
        try:
            workers = [
                stack.enter_context(LunmeshWorker(folder, listen=listen, arguments=by_wire))
                for folder in folders
            ]
        except WorkerProcessError as exc:
            raise ServerError(str(exc)) from exc
        server = stack.enter_context(
            LunmeshServer(
                disks.folder / "lunmesh",
                [f"disk{block}={disks.size}" for block in disks.blocks],
                arguments=[
                    *(part for worker in workers for part in ("--worker", worker.address)),
                    *arguments,
                ],
            )
        )
        files = {
            block: tuple(
                raw
                for folder in folders
                for raw in (folder / "store" / "volumes" / f"disk{block}").glob("*.raw")
            )
            for block in disks.blocks
        }
        for block, raws in files.items():
            for raw in raws:  # whole, though a worker has only its part of the chunks
                make_image(raw, disks.size, block)
        urls = {block: server.url(lun) for lun, block in enumerate(disks.blocks)}
        pids = (server.pid, *processes_of(server), *(worker.pid for worker in workers))
        yield Endpoint(urls, pids, files)


@contextmanager
def _serve_tgtd(disks: Disks) -> Iterator[Endpoint]:
    images = _images(disks)
    with TgtdServer(list(images.values())) as server:
        urls = {block: server.url(lun) for lun, block in enumerate(images, FIRST_LUN)}
        yield Endpoint(urls, (server.pid,), {block: (image,) for block, image in images.items()})


@contextmanager
def _serve_tgtd_digests(disks: Disks) -> Iterator[Endpoint]:
    images = _images(disks)
    with TgtdServer(list(images.values()), digests=True) as server:
        urls = {block: server.url(lun) for lun, block in enumerate(images, FIRST_LUN)}
        yield Endpoint(urls, (server.pid,), {block: (image,) for block, image in images.items()})


@contextmanager
def _serve_echo(disks: Disks) -> Iterator[Endpoint]:
    (block,) = disks.blocks
    image = _images(disks)[block]
    with subprocess.Popen(
        [tools.built("echo"), image, str(block)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Endpoint({block: f"echo://127.0.0.1:{port}"}, (process.pid,), {block: (image,)})
        process.kill()


@contextmanager
def _serve_grpc_stream(disks: Disks) -> Iterator[Endpoint]:
    # Elsewhere: the path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="lunmesh-") as folder:
        address = f"unix:{folder}/socket"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bench.grpc_stream", "serve", address],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            url = f"{GRPC_STREAM}:{address}"
            yield Endpoint(
                dict.fromkeys(disks.blocks, url), (process.pid,), dict.fromkeys(disks.blocks, ())
            )
            process.kill()


def refusal(candidate: Candidate, scratch: Path) -> str:
    """Why this server cannot be started here; nothing, if it can."""
    trial = Path(tempfile.mkdtemp(dir=scratch))
    try:
        with candidate.serve(Disks(trial, 1 << 20, (4096,))):
            return ""
    except ServerError as exc:
        return f"{candidate.name} does not start: {exc}"


def lunmesh() -> Candidate:
    """The product, with its embedded store."""
    return Candidate(EMBEDDED, product_version(), _serve_lunmesh)


def lunmesh_compiled() -> Candidate:
    """The same, with the hot path as a C extension (setup.py)."""
    return Candidate(
        COMPILED,
        product_version(),
        lambda disks: _serve_lunmesh(disks, compiled.compiled_packages()),
        compiled.missing(),
    )


def lunmesh_over_workers(name: str) -> Candidate:
    """The product, with file stores of workers in processes of their own."""
    return Candidate(name, product_version(), lambda disks: serve_over_workers(name, disks))


def tgtd() -> Candidate:
    """The peer, on local files."""
    missing = "" if find_tgtd() else "tgtd is not installed: apt-get install tgt"
    return Candidate(TGTD, tgtd_version() or "", _serve_tgtd, missing)


def tgtd_with_digests() -> Candidate:
    """The peer, set up to agree to digests."""
    return replace(tgtd(), serve=_serve_tgtd_digests)


def echo() -> Candidate:
    """What a read costs at least, in C (c/echo.c)."""
    return Candidate(ECHO, "", _serve_echo, tools.missing())


def bare_grpc_stream() -> Candidate:
    """What the way to a worker costs at least (grpc_stream.py)."""
    return Candidate(GRPC, grpc.__version__, _serve_grpc_stream)


def product_version() -> str:
    """Its version, with the commit, where there is one to name."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=os.environ.get("LUNMESH_TEST_PACKAGES", Path(__file__).parent),
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{target.__version__} {described.stdout.strip()}".strip()
