"""What stands between this product and redis-py (target/cluster/redis_link.py)."""

from __future__ import annotations

import asyncio

from target.cluster.redis_link import ended


def test_a_task_whose_cancellation_was_swallowed_is_ended_all_the_same() -> None:
    async def main() -> None:
        never, swallowed, began = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                began.set()
                await never.wait()
            except asyncio.CancelledError:
                swallowed.set()
            await never.wait()

        task = asyncio.ensure_future(work())
        await began.wait()
        async with asyncio.timeout(30):
            await ended(task)
        assert swallowed.is_set()
        assert task.cancelled()

    asyncio.run(main())
