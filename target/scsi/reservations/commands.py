"""The rows of the opcode table: PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16), RESERVE and
RELEASE (SPC-2 7.16, 7.17, 7.21, 7.22).

That RESERVE and RELEASE reserve for others or for parts of the medium (third party, extents) is
obsolete, and refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, data_out, no_data, refuse
from target.scsi.command import Access, Command, Kind, usage
from target.scsi.limits import PARAMETER_BYTES_MAX
from target.scsi.reservations.exclusive import ReleaseUnit, ReserveUnit
from target.scsi.reservations.keeper import Change, Reservations
from target.scsi.reservations.parameters import LIST_BYTES, READERS, Action, decode_change
from target.scsi.reservations.persistent import Move, Register
from target.scsi.reservations.state import Outcome, ReservationState
from target.scsi.sense import (
    INVALID_FIELD_IN_PARAMETERS,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)
from target.scsi.tickets import CarriedOut, Ticket

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_RESERVING: Final = {Action.RESERVE, Action.RELEASE, Action.PREEMPT, Action.PREEMPT_AND_ABORT}
"""Those for which byte 2 counts: scope and type of a reservation."""
_WITH_TRANSPORT_IDS: Final = {Action.REGISTER, Action.REGISTER_AND_MOVE}

_APTPL_BYTE: Final = 20
_APTPL_BYTE_OF_MOVE: Final = 17


def commands(disk: DiskDevice) -> list[Command]:
    """Rows for a disk; the state is that of the logical unit that a request is for."""
    rows = [_row_in(action, name, read) for action, (name, read) in enumerate(READERS)]
    rows += [_row_out(action) for action in Action]
    for name, bits, change in (
        ("RESERVE(6)", "16 1f 00 00 00 04", ReserveUnit),
        ("RELEASE(6)", "17 1f 00 00 00 04", ReleaseUnit),
        ("RESERVE(10)", "56 1f 00 00 00 00 00 00 00 04", ReserveUnit),
        ("RELEASE(10)", "57 1f 00 00 00 00 00 00 00 04", ReleaseUnit),
    ):
        rows.append(_row_exclusive(name, bits, change))
    return rows


def reservations_of(req: SCSIRequest) -> Reservations:
    """Those of the logical unit that a request is for."""
    return req.attachment.unit.reservations


# --- PERSISTENT RESERVE IN ------------------------------------------------------------------------


def _row_in(action: int, name: str, read: Callable[[ReservationState, bool], bytes]) -> Command:
    def respond(req: SCSIRequest) -> None:
        reservations = reservations_of(req)
        req.respond(read(reservations.state, reservations.lasting), req.length)

    async def when_sure(req: SCSIRequest) -> None:
        await Changed(req, None)
        respond(req)

    def start(req: SCSIRequest) -> None:
        if reservations_of(req).unsure:  # nobody is to read what may not be in force elsewhere
            req.run(when_sure(req))
        else:
            respond(req)

    return Command(
        f"PERSISTENT RESERVE IN, {name}",
        Kind.READ,  # as fresh as blocks are: not from a node that the others may have shut out
        usage(f"5e {action:02x} 00 00 00 00 00 ff ff 04"),
        data_in(7, 2),
        start,
        service_action=action,
        access=Access.ALWAYS,
    )


# --- PERSISTENT RESERVE OUT -----------------------------------------------------------------------

_parse_list = data_out(5, 4)


def _row_out(action: Action) -> Command:
    list_bytes_max = PARAMETER_BYTES_MAX if action in _WITH_TRANSPORT_IDS else LIST_BYTES
    scope_type = "ff" if action in _RESERVING else "00"

    def parse(req: SCSIRequest) -> None:
        _parse_list(req)
        if not LIST_BYTES <= req.length <= list_bytes_max:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)

    def start(req: SCSIRequest) -> None:
        req.attachment.unit.stats.reserve_outs[action] += 1
        req.run(_persistent_reserve_out(req, action))

    return Command(
        f"PERSISTENT RESERVE OUT, {action.name.replace('_', ' ')}",
        Kind.CONTROL,
        usage(f"5f {action:02x} {scope_type} 00 00 ff ff ff ff 04"),
        parse,
        start,
        service_action=action,
        access=Access.RESERVATION,
    )


async def _persistent_reserve_out(req: SCSIRequest, action: Action) -> None:
    data = await req.receive_parameters()
    if len(data) != req.length:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)  # the initiator has not sent all of it
    reservations = reservations_of(req)
    change = decode_change(action, req.cdb[2], data, req.attachment.nexus)
    if isinstance(change, Register | Move) and change.aptpl and not reservations.lasting:
        byte = _APTPL_BYTE_OF_MOVE if isinstance(change, Move) else _APTPL_BYTE
        raise CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(byte, 0, in_cdb=False))
    await _carry_out(req, change)


async def _carry_out(req: SCSIRequest, change: Change) -> None:
    outcome = await Changed(req, change)
    if outcome.sense is not None:
        raise CheckCondition(outcome.sense)
    req.complete(outcome.status)


class Changed(CarriedOut[Outcome]):
    """A change of reservations, until it is in force everywhere."""

    __slots__ = ()

    def __init__(self, req: SCSIRequest, change: Change) -> None:
        super().__init__(reservations_of(req), Ticket(change, self._done, req))


# --- RESERVE and RELEASE --------------------------------------------------------------------------

_THIRD_PARTY_OR_EXTENT: Final = 0x1F


def _row_exclusive(name: str, bits: str, change: type[ReserveUnit] | type[ReleaseUnit]) -> Command:
    def parse(req: SCSIRequest) -> None:
        no_data(req)
        if obsolete := req.cdb[1] & _THIRD_PARTY_OR_EXTENT:
            raise refuse(1, obsolete.bit_length() - 1)

    def start(req: SCSIRequest) -> None:
        nexus = req.attachment.nexus
        req.run(_carry_out(req, change(nexus.name, nexus.life)))

    return Command(name, Kind.CONTROL, usage(bits), parse, start, access=Access.RESERVATION)
