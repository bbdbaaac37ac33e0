"""``python -m tests.chaos.unfenced serve …``: a node that shuts nobody out at the workers.

What it breaks by that is what the checker has to find.
"""

from __future__ import annotations

from target.block.volume import Volume
from target.cli import main
from target.worker_fencing import WorkerFencer
from target.worker_volumes import WorkerVolumes


class _NoFencer(WorkerFencer):
    async def __call__(self, node: str, epoch: int) -> None:
        """It is taken for shut out, and is not."""


def _no_fencer(self: WorkerVolumes, volume: Volume) -> WorkerFencer:
    return _NoFencer(volume, self._log)


if __name__ == "__main__":
    WorkerVolumes.fencer = _no_fencer  # type: ignore[method-assign]
    main()
