"""The same node over the same worker, alone and with a Redis that tracks its commands.

Redis listens on a Unix socket and keeps nothing on disk: what is measured is the tracking, and not
somebody's disk.  Its CPU time counts as the server's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench.servers import (
    WORKER_UNIX,
    Candidate,
    Disks,
    Endpoint,
    product_version,
    serve_over_workers,
)
from tests.support.lunmesh_server import ServerError
from tests.support.redis_server import RedisProcessError, RedisServer

WITH_REDIS = f"{WORKER_UNIX}, Redis"


@contextmanager
def with_redis(disks: Disks, processes: int = 1, worker: str = WORKER_UNIX) -> Iterator[Endpoint]:
    """A node, or so many behind one portal, over the worker that ``worker`` names."""
    with ExitStack() as stack:
        # Elsewhere: the path of a Unix socket must be short.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lunmesh-"))
        try:
            redis = stack.enter_context(RedisServer(Path(folder)))
        except RedisProcessError as exc:
            raise ServerError(str(exc)) from exc
        arguments = ("--redis", redis.url, "--processes", str(processes))
        endpoint = stack.enter_context(serve_over_workers(worker, disks, arguments))
        yield replace(endpoint, pids=(*endpoint.pids, redis.pid))


def node_with_redis() -> Candidate:
    """The product as one of several nodes, the others being none."""
    return Candidate(WITH_REDIS, product_version(), with_redis)
