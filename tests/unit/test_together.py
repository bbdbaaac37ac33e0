"""Calls side by side: all of them, or none that still runs."""

from __future__ import annotations

import asyncio

import pytest

from target.block.together import together


def test_they_run_side_by_side_and_answer_in_order() -> None:
    async def main() -> list[int]:
        met = asyncio.Barrier(8)

        async def one(number: int) -> int:
            await met.wait()
            return number

        return await together(one(number) for number in range(8))

    assert asyncio.run(asyncio.wait_for(main(), 10)) == list(range(8))


def test_when_one_fails_no_other_goes_on() -> None:
    ended: list[str] = []

    async def main() -> None:
        async def fails() -> None:
            await asyncio.sleep(0)
            raise OSError("it")

        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")

        with pytest.raises(OSError, match="it"):
            await together([waits(), fails(), waits()])
        assert ended == ["ended"] * 2

    asyncio.run(main())
