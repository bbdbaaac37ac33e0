"""A line for each I/O that a worker could not do, bounded: no node can fill a disk with them."""

from __future__ import annotations

from typing import Final

import structlog

from workers.store import IoKind, StoreStatus

log = structlog.get_logger()

FAILURES_MAX: Final = 20  # lines, in
FAILURES_SECONDS: Final = 10.0

# Asked for, or in the course of things: the target of the node tells what it makes of them.
_USUAL: Final = (StoreStatus.OK, StoreStatus.MISCOMPARE, StoreStatus.DEADLINE)


class FailureLog:
    """Of one worker, all its nodes together."""

    def __init__(self) -> None:
        self._began = 0.0
        self._count = 0
        self._unsaid = 0  # that had no room since the last that had

    def ended(
        self,
        status: StoreStatus,
        detail: str,
        now: float,
        *,
        node: str,
        volume: str,
        kind: IoKind,
        offset: int,
        length: int,
    ) -> None:
        """An I/O has ended in ``status``."""
        if status in _USUAL:
            return
        if now - self._began >= FAILURES_SECONDS:
            self._began = now
            self._count = 0
        if self._count >= FAILURES_MAX:
            self._unsaid += 1
            return
        self._count += 1
        more: dict[str, object] = {"detail": detail} if detail else {}
        if self._unsaid:
            more["unsaid"] = self._unsaid
            self._unsaid = 0
        log.warning(
            "I/O failed",
            node=node,
            volume=volume,
            op=kind.name.lower(),
            offset=offset,
            length=length,
            status=status.value,
            **more,
        )
