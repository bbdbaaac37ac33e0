"""``python -m tests.chaos.impatient serve …``: a node that waits for nobody who was alone.

What it breaks by that is what the checker has to find.  That there is time to see it, it shuts
nobody out soon after it has come, which by itself breaks nothing.
"""

from __future__ import annotations

from target.cli import main
from target.cluster.alone import Alone
from target.cluster.node import ClusterNode
from target.cluster.registry import Attached, Member

SHUT_OUT_LEASES = 10.0  # after its own begins
_claim = ClusterNode._claim


async def _wait_for_nobody(self: Alone, it: Attached) -> None:
    """As if all that runs there were registered."""


async def _claim_late(self: ClusterNode, victim: Member) -> None:
    began = self._unbroken_since
    if began is not None and self.clock() - began > SHUT_OUT_LEASES * self.lease_seconds:
        await _claim(self, victim)


if __name__ == "__main__":
    Alone.wait_for = _wait_for_nobody  # type: ignore[method-assign]
    ClusterNode._claim = _claim_late  # type: ignore[method-assign]
    main()
