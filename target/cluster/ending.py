"""How tasks end that ask a registry."""

from __future__ import annotations

import asyncio
from typing import Any, Final

CANCEL_SECONDS: Final = 0.2  # until somebody is told again


async def ended(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them, until they have heard that: redis-py swallows a cancellation now and then."""
    asked = [task for task in tasks if task is not None]
    while left := [task for task in asked if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_SECONDS)
    await asyncio.gather(*asked, return_exceptions=True)
