"""What every node that serves a logical unit has to do, as bytes that go from one to the others."""

from __future__ import annotations

import msgspec

from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import Attention, ReservationState
from target.scsi.settings import SettingsChanged


class ResetUnit(msgspec.Struct, frozen=True, tag="reset"):
    """LOGICAL UNIT RESET, or that of the whole target (SAM-5 6.3.3)."""

    asc: int  # of the unit attention that says so
    ascq: int
    cold: str = ""  # it is one of the target, a cold one: a name that its units have in common


class ClearTaskSet(msgspec.Struct, frozen=True, tag="clear"):
    """CLEAR TASK SET: the commands of every nexus (SAM-5 7.5)."""


class ReservationsChanged(msgspec.Struct, frozen=True, tag="reservations"):
    """Reservations have a new version, with what it does to nexuses of all nodes.

    In force when it has been done, unless a node has a later version already; unit attentions and
    aborted commands do not depend on that.  ``found``: it was kept by a node that may not have come
    to tell it, so nobody knows what it does to nexuses (reservations/keeper.py, rule 6).
    """

    version: int
    state: ReservationState
    attentions: tuple[Attention, ...]
    aborted: tuple[NexusName, ...]
    found: bool = False


class DocumentChanged(msgspec.Struct, frozen=True, tag="document"):
    """What all nodes keep together has a new version."""

    key: str
    version: int


class NotSure(msgspec.Struct, frozen=True, tag="unsure"):
    """What an event of ``node`` says has been done, but writes that it ended may still happen."""

    node: str
    number: int


class Arrived(msgspec.Struct, frozen=True, tag="arrived"):
    """A node begins to serve the unit: whoever was alone has all that it runs known."""


class EndTask(msgspec.Struct, frozen=True, tag="end"):
    """The operator ends a command."""

    nexus: NexusName
    tag: int


class EndNexus(msgspec.Struct, frozen=True, tag="nexus"):
    """The operator has an initiator asked to log out from a target, and dropped if it does not."""

    nexus: NexusName
    target: str  # as in LunAddress


UnitEvent = (
    NotSure
    | Arrived
    | EndTask
    | EndNexus
    | ResetUnit
    | ClearTaskSet
    | ReservationsChanged
    | SettingsChanged
    | DocumentChanged
)


def ends_commands(event: UnitEvent) -> bool:
    """Whether it says of commands that they have ended, so that none may happen any more."""
    match event:
        case ResetUnit() | ClearTaskSet():
            return True
        case ReservationsChanged():
            return event.found or bool(event.aborted)
        case _:
            return False


def encode_event(event: UnitEvent) -> bytes:
    """For the other nodes."""
    return msgspec.json.encode(event)


def decode_event(data: bytes) -> UnitEvent:
    """Raises ValueError; what cannot be understood was said by another version."""
    event: UnitEvent = msgspec.json.decode(data, type=UnitEvent)
    return event
