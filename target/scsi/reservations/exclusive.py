"""RESERVE and RELEASE of SPC-2, and what ends such a reservation (SPC-2 5.5.1, 7.16, 7.21).

Rules:

1. They conflict with whatever is persistent: registrations alone are enough (no CRH, SPC-4 5.13.3).
2. A reservation goes with the session that made it (the ``life`` of its nexus; the next one may be
   there before the last one has quite ended), and with a reset of the unit.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from target.scsi.reservations.names import NexusName
from target.scsi.reservations.state import Outcome, ReservationState, with_port


class ReserveUnit(msgspec.Struct, frozen=True):
    """RESERVE(6) and (10)."""

    nexus: NexusName
    life: int = 0


class ReleaseUnit(msgspec.Struct, frozen=True):
    """RELEASE(6) and (10)."""

    nexus: NexusName
    life: int = 0


class NexusLost(msgspec.Struct, frozen=True):
    """A session has ended."""

    nexus: NexusName
    life: int = 0


class PortLost(msgspec.Struct, frozen=True):
    """A node has ended, and with it all nexuses of its port."""

    port: int


class PortCame(msgspec.Struct, frozen=True):
    """A node begins a life: the nexuses of the last one are gone, and perhaps its port is new."""

    port: int


class UnitReset(msgspec.Struct, frozen=True):
    """LOGICAL UNIT RESET, or that of the target."""


ExclusiveChange = ReserveUnit | ReleaseUnit | NexusLost | PortLost | PortCame | UnitReset


def change_exclusive(state: ReservationState, change: ExclusiveChange) -> Outcome:
    """What becomes of it; all but RESERVE and RELEASE succeed in any case."""
    holder = state.reserved_by
    match change:
        case ReserveUnit(nexus, life):
            if state.registrations or (holder is not None and not _holds(state, nexus, life)):
                return Outcome.conflict(state)
            return Outcome(replace(state, reserved_by=nexus, reserved_life=life))
        case ReleaseUnit(nexus, life):
            if state.registrations:
                return Outcome.conflict(state)
            ends = _holds(state, nexus, life)
        case NexusLost(nexus, life):
            ends = _holds(state, nexus, life)
        case PortLost(port):
            ends = holder is not None and holder.port == port
        case PortCame(port):
            ends = holder is not None and holder.port == port
            state = with_port(state, port)
        case UnitReset():
            ends = holder is not None
    return Outcome(replace(state, reserved_by=None, reserved_life=0) if ends else state)


def _holds(state: ReservationState, nexus: NexusName, life: int) -> bool:
    return (state.reserved_by, state.reserved_life) == (nexus, life)
