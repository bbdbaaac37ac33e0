"""``lunmesh worker --redis``: what is over is refused from the start, whatever is remembered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from target.cluster.redis_registry import RedisRegistry
from target.cluster.registry import Event, Notices
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.redis_server import RedisServer
from tests.support.worker_client import refused_by

LEASE_MS = 60_000


class Nobody(Notices):
    """Hears nothing."""

    def granted(self, lun: str, sequence: int) -> None: ...
    def happened(self, lun: str, event: Event) -> None: ...
    def acknowledged(self, lun: str, node: str, number: int) -> None: ...
    def departed(self, lun: str, node: str, epoch: int) -> None: ...
    def unheard(self, lun: str) -> None: ...
    def renewed(self) -> None: ...


async def nodes_in(url: str) -> None:
    """One that is there with epoch 3, one that has left with epoch 8, one shut out with epoch 2."""
    registry = RedisRegistry(url, "there", Nobody(), structlog.get_logger())
    try:
        await registry.join("there", 2, LEASE_MS, "{}")
        await registry.join("left", 7, LEASE_MS, "{}")
        await registry.leave("left", 8)
        await registry.join("dead", 1, 1, "{}")
        dead = {member.node: member for member in await registry.members()}["dead"]
        while not await registry.claim("there", 3, dead, LEASE_MS):
            pass
    finally:
        await registry.close()


def test_what_is_over_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        asyncio.run(nodes_in(redis.url))
        arguments = ("--redis", redis.url)
        with LunmeshWorker(tmp_path, store="memory:", arguments=arguments) as worker:
            told = asyncio.run(refused_by(worker.address))
    assert told == {"there": 2, "left": 8, "dead": 2}


def test_without_redis_it_does_not_start(tmp_path: Path) -> None:
    worker = LunmeshWorker(tmp_path, arguments=("--redis", f"unix://{tmp_path}/none.sock"))
    with pytest.raises(WorkerProcessError, match="Redis"):
        worker.start()
