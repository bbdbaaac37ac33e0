"""Target port groups and asymmetric access to a logical unit (SPC-4 5.15).

Each node is one target port in one target port group, and both have the number of the node.

Rules:

1. All paths are active/optimized, unless SET TARGET PORT GROUPS has set another state (explicitly).
2. The group of a node that is gone is unavailable (implicitly); what was set holds when it is back.
3. What was set is of the logical unit, the same on every node (``settings.py``), and outlives
   resets: it says which way I/O should go, not how the disk behaves.
4. A command that the state of its port forbids ends in NOT READY; what runs already goes on.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from target.scsi.command import Command
from target.scsi.sense import NOT_READY_STANDBY, NOT_READY_UNREACHABLE, Sense


class AccessState(enum.IntEnum):
    """Asymmetric access states (SPC-4 table 254) that a group can have here."""

    OPTIMIZED = 0x0
    NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3


SUPPORTED: Final = 0x0F  # U_SUP, S_SUP, AN_SUP, AO_SUP; no transition that would take time


class StatusCode(enum.IntEnum):
    """How a group has come to its state (SPC-4 table 256)."""

    NONE = 0
    SET = 1  # by SET TARGET PORT GROUPS
    IMPLICIT = 2


class PortGroup(NamedTuple):
    """A row of REPORT TARGET PORT GROUPS."""

    number: int
    state: AccessState
    status: StatusCode


def port_groups(
    alive: Iterable[int], gone: Iterable[int], chosen: Mapping[int, AccessState]
) -> list[PortGroup]:
    """The groups of the nodes that are there and of those that were, by number."""
    found = {}
    for number in gone:
        found[number] = PortGroup(number, AccessState.UNAVAILABLE, StatusCode.IMPLICIT)
    for number in alive:
        state = chosen.get(number)
        if state is None:
            found[number] = PortGroup(number, AccessState.OPTIMIZED, StatusCode.NONE)
        else:
            found[number] = PortGroup(number, state, StatusCode.SET)
    return [found[number] for number in sorted(found)]


# SPC-4 5.15.2.4: what runs through a port that is not active.  By opcode and service action.
_ALWAYS: Final = frozenset(
    {
        (0x03, None),  # REQUEST SENSE
        (0x12, None),  # INQUIRY
        (0xA0, None),  # REPORT LUNS
        (0xA3, 0x0A),  # REPORT TARGET PORT GROUPS
        (0xA3, 0x0C),  # REPORT SUPPORTED OPERATION CODES
        (0xA3, 0x0D),  # REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
        (0xA4, 0x0A),  # SET TARGET PORT GROUPS
    }
)
_IN_STANDBY: Final = frozenset({0x15, 0x55, 0x1A, 0x5A, 0x1D, 0x4D, 0x5E, 0x5F})
"""MODE SELECT, MODE SENSE, SEND DIAGNOSTIC, LOG SENSE, PERSISTENT RESERVE IN and OUT."""


def hindrance(state: AccessState, command: Command) -> Sense | None:
    """Why a command does not run through a port whose group is in this state; None: it does."""
    if state <= AccessState.NON_OPTIMIZED:
        return None
    if (command.opcode, command.service_action) in _ALWAYS:
        return None
    if state is AccessState.UNAVAILABLE:
        return NOT_READY_UNREACHABLE
    return None if command.opcode in _IN_STANDBY else NOT_READY_STANDBY
