"""Registries in memory and in a Redis of the module's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.registry_worlds import Play, World


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("redis") / "s"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "server is now ready to accept connections" in line.lower():
            break
    yield f"unix://{path}"
    process.terminate()
    process.stdout.close()
    process.wait()


@pytest.fixture(params=["memory", "redis"])
def play(request: pytest.FixtureRequest) -> Play:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    def run(story: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            world = World(url)
            await world.start()
            try:
                await story(world)
            finally:
                await world.close()

        asyncio.run(main())

    return run
