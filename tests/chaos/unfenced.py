"""``python -m tests.chaos.unfenced serve …``: a node that shuts nobody out at the workers.

What it breaks by that is what the checker has to find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from target.block.volume import Volume
from target.cli import main
from target.worker_volumes import WorkerVolumes


def _no_fencer(self: WorkerVolumes, volume: Volume) -> Callable[[str, int], Awaitable[None]]:
    async def fence(node: str, epoch: int) -> None:
        """It is taken for shut out, and is not."""

    return fence


if __name__ == "__main__":
    WorkerVolumes.fencer = _no_fencer  # type: ignore[method-assign]
    main()
