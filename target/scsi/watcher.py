"""Whoever wants to see single commands on their way; nobody does unless it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from target.block.wait import Wait

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest


class Watcher(Protocol):
    """Of the commands of one bus."""

    @abstractmethod
    def runs(
        self, req: SCSIRequest, coroutine: Coroutine[Wait[Any], Any, None]
    ) -> Coroutine[Wait[Any], Any, None]:
        """``req`` will wait for something: what is returned runs in the place of ``coroutine``."""

    @abstractmethod
    def ended(self, requests: Sequence[SCSIRequest], now: float) -> None:
        """Their answers leave ``now``."""
