"""What the tests of the worker's protocol have in common.

Each of them ends with the checks of ``running_worker``: no stream, no I/O and no buffer is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from grpc import aio

from tests.support.worker_client import Served, Stream, running_worker
from workers.fault_store import Faults, FaultStore
from workers.store import IoKind, StoreStatus, VolumeStore
from workers.wire import Answer

BLOCK = b"0123456789abcdef" * 32
READ, WRITE = IoKind.READ, IoKind.WRITE
Body = Callable[[Served], Coroutine[Any, Any, None]]
Drive = Callable[[Body], None]  # run a test's body beside a worker of either kind


def slow(tmp_path: Path, body: Body, faults: Faults = Faults(delay_seconds=0.2)) -> None:  # noqa: B008
    """Run a test's body beside a worker whose stores are slow."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wrap(_: str, store: VolumeStore) -> VolumeStore:
            return FaultStore(store, faults, loop.call_later)

        async with running_worker(tmp_path, memory=True, wrap=wrap) as served:
            async with asyncio.timeout(30):
                await body(served)

    uvloop.run(main())


def data_of(answer: Answer) -> bytes:
    return b"".join(answer.payload)


def statuses(answers: list[Answer]) -> list[StoreStatus]:
    return [answer.status for answer in answers]


async def ends_with(stream: Stream, code: str) -> str:
    """The details of a stream's end; answers that come before it are passed over."""
    found, details = await drained(stream)
    assert found == code, details
    return details


async def something_runs(served: Served) -> None:
    """Wait until a store is busy."""
    while not served.worker.running:  # noqa: ASYNC110  # the worker has no event for tests
        await asyncio.sleep(0.01)


async def still_works(served: Served, name: str = "other") -> None:
    """Another node is served as if nothing had happened."""
    handle = await served.open(name, node="other")
    stream = await served.stream("other")
    answers = await stream.run(
        stream.io(WRITE, handle, 0, 512, BLOCK), stream.io(IoKind.FLUSH, handle, 0, 0)
    )
    assert statuses(answers) == [StoreStatus.OK] * 2
    stream.call.cancel()


async def drained(stream: Stream) -> tuple[str, str]:
    """The stream's end, after all answers."""
    with contextlib.suppress(aio.AioRpcError):
        async with asyncio.timeout(10):
            while await stream.call.read() is not aio.EOF:
                pass
    return await stream.status()


async def refused(call: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code
