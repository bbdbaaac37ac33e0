"""What the tracker of a unit has around it: its node and the unit itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from target.cluster.registry import Registry
from target.scsi.unit_events import UnitEvent

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest

RETRY_SECONDS: Final = 0.1  # while the registry is away

AfterDoubts = Callable[[int, int, Callable[[], None]], bool]
"""Of (LBA, blocks, done): whether writes to them are in doubt, and ``done()`` when they are not."""

FencedPart = Callable[[str, int, int, int], bool]
"""Of (node, epoch, LBA, blocks): whether nothing of that life can happen to them any more."""


class Log(Protocol):
    """Where this package says what happens."""

    def info(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def warning(self, event: str, **fields: object) -> object:
        """As structlog has it."""

    def error(self, event: str, **fields: object) -> object:
        """As structlog has it."""


class Unit(Protocol):
    """What commands and events are for: a ``LogicalUnit``, as a rule."""

    def admit(self, req: SCSIRequest) -> None:
        """A command may run."""

    def turn_away(self, req: SCSIRequest) -> None:
        """A command may not run, and its initiator is to try again."""

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        """Do what another node says; ``done()`` when that is over."""


class Host(Protocol):
    """The node that serves the unit (``node.py``)."""

    id: str
    epoch: int
    registry: Registry
    log: Log
    suspects: Mapping[str, int]  # lives of other nodes to be fenced before anything is served
    clock: Callable[[], float]
    wall: Callable[[], float]
    wait_seconds: float
    tell_seconds: float

    @property
    def leased(self) -> bool:
        """Whether it has a lease now."""

    async def until_leased(self) -> None:
        """Wait for one."""

    def fenced(self) -> None:
        """It has none, and will have none in this life."""
