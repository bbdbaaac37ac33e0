"""gRPC to one worker: what goes wrong with it, said in words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc import aio

from target.block.worker_address import WorkerAddress
from target.block.worker_channel import WorkerChannel
from target.block.worker_errors import WorkerGone
from tests.support.fake_worker import FakeWorker


def test_a_call_whose_channel_is_closed_by_another_has_no_answer(tmp_path: Path) -> None:
    """It does not end whoever asked: others wait for them."""

    async def story() -> None:
        fake = FakeWorker(tmp_path)
        await fake.start()
        try:
            fake.runs.clear()  # it answers no call
            channel = WorkerChannel(fake.address)
            asked = asyncio.ensure_future(channel.status())
            await fake.asked.wait()
            await channel.close()
            with pytest.raises(WorkerGone, match="given up"):
                await asked
            with pytest.raises(WorkerGone):
                await channel.status()
        finally:
            fake.runs.set()
            await fake.stop()

    asyncio.run(story())


def test_a_worker_that_speaks_another_version_of_the_protocol_is_named_so(tmp_path: Path) -> None:
    async def story() -> None:
        address = WorkerAddress(unix_path=str(tmp_path / "worker.sock"))
        server = aio.server()  # which has no service of version 1
        server.add_insecure_port(f"unix:{address.unix_path}")
        await server.start()
        channel = WorkerChannel(address)
        stream = channel.stream()
        words = "does not know all of lunmesh.worker.v2: lunmesh has another version there"
        try:
            with pytest.raises(WorkerGone, match=words):
                await channel.status()
            with pytest.raises(WorkerGone, match=words):
                await stream.read()
        finally:
            stream.cancel()
            await channel.close()
            await server.stop(None)

    asyncio.run(story())
