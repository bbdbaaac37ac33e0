"""RESERVE and RELEASE of SPC-2, and what ends such a reservation (SPC-2 5.5.1, 7.16, 7.21).

Rules:

1. They conflict with whatever is persistent: registrations alone are enough (no CRH, SPC-4 5.13.3).
2. A reservation goes with its nexus, and with a reset of the unit.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import Outcome, ReservationState


class ReserveUnit(msgspec.Struct, frozen=True):
    """RESERVE(6) and (10)."""

    nexus: NexusName


class ReleaseUnit(msgspec.Struct, frozen=True):
    """RELEASE(6) and (10)."""

    nexus: NexusName


class NexusLost(msgspec.Struct, frozen=True):
    """A session has ended."""

    nexus: NexusName


class PortLost(msgspec.Struct, frozen=True):
    """A node has ended, and with it all nexuses of its port."""

    port: int


class UnitReset(msgspec.Struct, frozen=True):
    """LOGICAL UNIT RESET, or that of the target."""


ExclusiveChange = ReserveUnit | ReleaseUnit | NexusLost | PortLost | UnitReset


def change_exclusive(state: ReservationState, change: ExclusiveChange) -> Outcome:
    """What becomes of it; all but RESERVE and RELEASE succeed in any case."""
    holder = state.reserved_by
    match change:
        case ReserveUnit():
            if state.registrations or holder not in (None, change.nexus):
                return Outcome.conflict(state)
            return Outcome(replace(state, reserved_by=change.nexus))
        case ReleaseUnit():
            if state.registrations:
                return Outcome.conflict(state)
            ends = holder == change.nexus
        case NexusLost():
            ends = holder == change.nexus
        case PortLost():
            ends = holder is not None and holder.port == change.port
        case UnitReset():
            ends = holder is not None
    return Outcome(replace(state, reserved_by=None) if ends else state)
