"""What stands between a logical unit and the other nodes that serve it (``target/cluster``).

A unit that one node alone serves has no gate, and pays nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from target.scsi.unit_events import UnitEvent

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest


class Gate(Protocol):
    """Commands pass it before they run; it knows all that have not ended."""

    @abstractmethod
    def enter(self, req: SCSIRequest) -> bool:
        """Whether ``req`` may run now; else ``LogicalUnit.admit`` or ``turn_away`` comes later."""

    @abstractmethod
    def left(self, req: SCSIRequest) -> None:
        """A command that has entered has ended."""

    @abstractmethod
    def quiet(self, done: Callable[[bool], None]) -> None:
        """``done(True)`` when no write that has ended may still happen; False: that takes long."""

    @abstractmethod
    def tell(self, event: UnitEvent, done: Callable[[bool], None]) -> None:
        """Have all other nodes do ``event``; ``done(False)``: it is not known that they have."""
