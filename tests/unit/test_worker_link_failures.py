"""The way to a worker where it fails otherwise than by going away: a share, or all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from target.block import worker_link
from target.block.worker_channel import WorkerChannel
from tests.unit.test_worker_link import OK, outcome, setup
from workers.store import StoreStatus


def test_a_share_that_was_refused_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "REFUSED_SECONDS", 0.01)

    async def test() -> None:
        async with setup(tmp_path) as it:
            it.fake.open_status = StoreStatus.NO_SPACE
            stream = await it.fake.stream()
            it.fake.opened.clear()
            await it.fake.opened.wait()
            written = it.write(0, 1)
            it.fake.open_status = OK
            (wire,) = await stream.has(1)
            await stream.send(it.fake.execute(wire))
            assert await outcome(written) is None
            assert it.link.connections == 1

    asyncio.run(test())


def test_whatever_ends_a_connection_another_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, failures = WorkerChannel.status, [OSError(24, "Too many open files"), KeyError("a bug")]

    async def fails_at_first(channel: WorkerChannel) -> None:
        if failures:
            raise failures.pop()
        await status(channel)

    monkeypatch.setattr(WorkerChannel, "status", fails_at_first)

    async def test() -> None:
        async with setup(tmp_path) as it:
            await it.fake.stream()
            assert not failures

    asyncio.run(test())
