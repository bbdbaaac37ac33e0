"""What every node that serves a logical unit has to do, as bytes that go from one to the others."""

from __future__ import annotations

import msgspec


class ResetUnit(msgspec.Struct, frozen=True, tag="reset"):
    """LOGICAL UNIT RESET, or that of the whole target (SAM-5 6.3.3)."""

    asc: int  # of the unit attention that says so
    ascq: int


class ClearTaskSet(msgspec.Struct, frozen=True, tag="clear"):
    """CLEAR TASK SET: the commands of every nexus (SAM-5 7.5)."""


class DocumentChanged(msgspec.Struct, frozen=True, tag="document"):
    """What all nodes know of the unit has a new version: reservations."""

    key: str
    version: int


UnitEvent = ResetUnit | ClearTaskSet | DocumentChanged


def encode_event(event: UnitEvent) -> bytes:
    """For the other nodes."""
    return msgspec.json.encode(event)


def decode_event(data: bytes) -> UnitEvent:
    """Raises ValueError; what cannot be understood was said by another version."""
    event: UnitEvent = msgspec.json.decode(data, type=UnitEvent)
    return event
