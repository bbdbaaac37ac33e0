"""Fixtures of the worker's protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from tests.support.worker_client import running_worker
from tests.support.worker_protocol import Body, Drive


@pytest.fixture(params=["file", "memory"])
def drive(request: pytest.FixtureRequest, tmp_path: Path) -> Drive:
    """Run a test's body beside a worker of either kind."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with running_worker(tmp_path, memory=request.param == "memory") as served:
                async with asyncio.timeout(30):
                    await body(served)

        uvloop.run(main())

    return run
