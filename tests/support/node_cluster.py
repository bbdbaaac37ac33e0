"""Several nodes that serve the same volumes: Redis, workers, nodes, each a process of its own.

    with NodeCluster(tmp_path, ["disk0=64M"]) as cluster:
        connect(cluster.nodes[0].portal)
        cluster.nodes[1].kill()

Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer

CHUNK = "1M"  # so that commands cross workers


class NodeCluster:
    """``nodes`` are the `lunmesh serve` processes, ``workers`` and ``redis`` what they stand on."""

    def __init__(
        self,
        folder: Path,
        volumes: Sequence[str],
        *,
        nodes: int = 2,
        workers: int = 2,
        arguments: Sequence[str] = (),
        redis: RedisServer | None = None,
        url: str = "",
    ) -> None:
        """``volumes`` are values of --volume, in LUN order; ``arguments`` go to every node.

        ``redis`` is one that runs, and goes on when all this has ended; nodes find it where it says
        or at ``url``.
        """
        self.redis = redis or RedisServer(folder / "redis")
        self._own = redis is None
        self._url = url or self.redis.url
        self.workers = [LunmeshWorker(folder / f"worker{n}") for n in range(workers)]
        self.nodes: list[LunmeshServer] = []
        self._folder = folder
        self._volumes = [f"{volume},chunk={CHUNK}" for volume in volumes]
        self._count = nodes
        self._arguments = tuple(arguments)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._own:
                stack.enter_context(self.redis)
            for worker in self.workers:
                stack.callback(worker.kill)
            with ThreadPoolExecutor(len(self.workers)) as threads:  # each takes a second to start
                list(threads.map(LunmeshWorker.start, self.workers))
            self._stack = stack
            for _ in range(self._count):
                self.add_node()
            self._stack = stack.pop_all()
        return self

    def add_node(self) -> LunmeshServer:
        """One more, which is started."""
        name = f"node{len(self.nodes)}"
        places = [part for worker in self.workers for part in ("--worker", worker.address)]
        node = LunmeshServer(
            self._folder / name,
            self._volumes,
            arguments=[*("--redis", self._url, "--node-id", name), *places, *self._arguments],
        )
        self.nodes.append(self._stack.enter_context(node))
        return node

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()
