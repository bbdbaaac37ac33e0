"""Where the disks of a target under test are kept: with it, or on workers of its own.

    with backed("workers", tmp_path, ["disk0=64M"]) as server:
        connect(server.url())

Tests that hold whatever is underneath take a `backing` and are run with each.  Nothing here depends
on pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.compiled import compiled_packages
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

EMBEDDED = "embedded"
COMPILED = "compiled"  # the same, with the hot path as a C extension
WORKERS = "workers"  # three, each with a file store
RADOS = "rados:"  # and POOL@CONF: two with this store, which they share
WORKER_COUNT, RADOS_WORKER_COUNT = 3, 2
CHUNK = "1M"  # so that commands cross workers


@contextlib.contextmanager
def backed(
    backing: str, folder: Path, volumes: Sequence[str], arguments: Sequence[str] = ()
) -> Iterator[LunmeshServer]:
    """A running target; at the end everything behind it has ended, too."""
    with contextlib.ExitStack() as stack:
        if backing == EMBEDDED:
            server = LunmeshServer(folder, volumes, arguments=arguments)
        elif backing == COMPILED:
            packages = compiled_packages()
            server = LunmeshServer(folder, volumes, arguments=arguments, packages=packages)
        else:
            shared = backing if backing.startswith(RADOS) else ""
            count = RADOS_WORKER_COUNT if shared else WORKER_COUNT
            workers = [LunmeshWorker(folder / f"worker{n}", store=shared) for n in range(count)]
            for worker in workers:
                stack.callback(worker.kill)
            with ThreadPoolExecutor(count) as threads:  # each takes a second to start
                list(threads.map(LunmeshWorker.start, workers))
            flags = [part for worker in workers for part in ("--worker", worker.address)]
            server = LunmeshServer(
                folder,
                [f"{volume},chunk={CHUNK}" for volume in volumes],
                arguments=[*flags, *arguments],
                stores=[folder / f"worker{n}" for n in range(count)],
            )
        yield stack.enter_context(server)
