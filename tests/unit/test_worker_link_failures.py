"""The way to a worker where it fails otherwise than by going away: a share, or all of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from target.block import remote, worker_link
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


def test_a_volume_that_is_closed_while_it_is_opened_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        asked, may = asyncio.Event(), asyncio.Event()
        granted, other_end = os.pipe()

        async def ask_for(path: str, token: bytes) -> int:
            asked.set()
            await may.wait()
            return granted

        monkeypatch.setattr(remote, "ask_for", ask_for)
        async with setup(tmp_path) as it:
            it.fake.read_token = b"t"
            await asked.wait()
            it.volume.close()
            may.set()
            await it.store.wait_open(10)
            with pytest.raises(BrokenPipeError):  # not fstat: its number may be another's by now
                os.write(other_end, b"x")
        os.close(other_end)

    asyncio.run(test())
