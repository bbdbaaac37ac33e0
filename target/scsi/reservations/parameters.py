"""Parameter lists of PERSISTENT RESERVE OUT, parameter data of PERSISTENT RESERVE IN (SPC-4 6.15,
6.16).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from target.scsi.reservations.names import (
    NexusName,
    TransportId,
    decode_transport_id,
    encode_transport_id,
)
from target.scsi.reservations.persistent import (
    SPEC_I_PT_AT,
    TRANSPORT_ID_AT,
    Clear,
    Move,
    PersistentChange,
    Preempt,
    Register,
    Release,
    Reserve,
)
from target.scsi.reservations.state import ReservationState, Type
from target.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETERS,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)

if TYPE_CHECKING:
    from target.scsi.nexus import Nexus

# --- PERSISTENT RESERVE OUT -----------------------------------------------------------------------


class Action(enum.IntEnum):
    """Service actions (SPC-4 table 226)."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6
    REGISTER_AND_MOVE = 7


LIST_BYTES: Final = 24  # of all but REGISTER with SPEC_I_PT and REGISTER AND MOVE

_BASIC: Final = struct.Struct(">QQ4xB3x")
_MOVE: Final = struct.Struct(">QQxBHI")
_SPEC_I_PT: Final = 0x08
_ALL_TG_PT: Final = 0x04
_APTPL: Final = 0x01
_UNREG: Final = 0x02
_TRANSPORT_IDS_AT: Final = 28
_PORT_AT: Final = 18
_LU_SCOPE: Final = 0


def _wrong(byte: int, bit: int | None = None) -> CheckCondition:
    return CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(byte, bit, in_cdb=False))


def decode_change(action: Action, scope_type: int, data: bytes, nexus: Nexus) -> PersistentChange:
    """What one PERSISTENT RESERVE OUT of ``nexus`` asks for.  Raises CheckCondition.

    ``scope_type`` is byte 2 of the CDB, ``data`` the parameter list.
    """
    if action is Action.REGISTER_AND_MOVE:
        return _decode_move(data, nexus)
    if len(data) < LIST_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    existing, new, flags = _BASIC.unpack_from(data)
    if action in (Action.REGISTER, Action.REGISTER_AND_IGNORE_EXISTING_KEY):
        return _decode_register(action, data, nexus)
    if flags & _SPEC_I_PT:
        raise _wrong(SPEC_I_PT_AT, 3)
    if len(data) != LIST_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    name, kind = nexus.name, _type_of(scope_type)
    match action:
        case Action.RESERVE:
            if kind is None:
                raise CheckCondition(INVALID_FIELD_IN_CDB.field(2))
            return Reserve(nexus=name, existing=existing, type=kind)
        case Action.RELEASE:
            return Release(nexus=name, existing=existing, type=kind)
        case Action.CLEAR:
            return Clear(nexus=name, existing=existing)
        case _:
            return Preempt(
                nexus=name,
                existing=existing,
                victim=new,
                type=kind,
                abort=action is Action.PREEMPT_AND_ABORT,
            )


def _type_of(scope_type: int) -> Type | None:
    """Scope and type of a reservation; None: there is no such."""
    kind = scope_type & 0x0F
    return Type(kind) if scope_type >> 4 == _LU_SCOPE and kind in set(Type) else None


def _decode_register(action: Action, data: bytes, nexus: Nexus) -> Register:
    existing, new, flags = _BASIC.unpack_from(data)
    ports = nexus.bus.ports if flags & _ALL_TG_PT else ()
    others: tuple[NexusName, ...] | None = None
    if flags & _SPEC_I_PT:
        if action is Action.REGISTER_AND_IGNORE_EXISTING_KEY:
            raise _wrong(SPEC_I_PT_AT, 3)
        others = _decode_others(data, nexus, ports or (nexus.bus.port,))
    elif len(data) != LIST_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    return Register(
        nexus=nexus.name,
        existing=None if action is Action.REGISTER_AND_IGNORE_EXISTING_KEY else existing,
        key=new,
        aptpl=bool(flags & _APTPL),
        ports=ports,
        others=others,
    )


def _decode_others(data: bytes, nexus: Nexus, ports: Iterable[int]) -> tuple[NexusName, ...]:
    """SPEC_I_PT: the nexuses of a list of TransportIDs (SPC-4 table 230)."""
    if len(data) < _TRANSPORT_IDS_AT:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if int.from_bytes(data[24:28], "big") != len(data) - _TRANSPORT_IDS_AT:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    found: dict[NexusName, None] = {}
    at = _TRANSPORT_IDS_AT
    while at < len(data):
        try:
            who, nbytes = decode_transport_id(data[at:])
        except ValueError:
            raise _wrong(at) from None
        isids = _isids(who, nexus)
        if not isids:
            raise _wrong(at)
        found.update(dict.fromkeys(NexusName(who.initiator, i, p) for i in isids for p in ports))
        at += nbytes
    return tuple(found)


def _isids(who: TransportId, nexus: Nexus) -> list[bytes]:
    """The ports that are meant; of a name alone, those that are known (SPC-4 7.6.4.6).

    With several nodes there are none: nobody knows who is logged in to all of them, and some of an
    initiator's ports are worse than an error.
    """
    if who.isid is not None:
        return [who.isid]
    if len(nexus.bus.ports) > 1:
        return []
    names = (other.name for other in nexus.bus.nexuses)
    return [name.isid for name in names if name.initiator == who.initiator]


def _decode_move(data: bytes, nexus: Nexus) -> Move:
    """SPC-4 table 232."""
    if len(data) < _MOVE.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    existing, new, flags, port, nbytes = _MOVE.unpack_from(data)
    if nbytes != len(data) - _MOVE.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if port not in nexus.bus.ports:
        raise _wrong(_PORT_AT)
    try:
        to, end = decode_transport_id(data[_MOVE.size :])
    except ValueError:
        raise _wrong(TRANSPORT_ID_AT) from None
    if to.isid is None or end != nbytes:  # it has to be one port
        raise _wrong(TRANSPORT_ID_AT)
    return Move(
        nexus=nexus.name,
        existing=existing,
        key=new,
        to=NexusName(to.initiator, to.isid, port),
        unregister=bool(flags & _UNREG),
        aptpl=bool(flags & _APTPL),
    )


# --- PERSISTENT RESERVE IN ------------------------------------------------------------------------

_SIP_C, _ATP_C, _PTPL_C = 0x08, 0x04, 0x01
_TMV: Final = 0x80
_ALLOWS_TEST_UNIT_READY: Final = 0x10  # ALLOW COMMANDS 001b
_PTPL_A: Final = 0x01
_TYPE_MASK: Final = 0xEA01  # all six types
_R_HOLDER: Final = 0x01

_HEAD: Final = struct.Struct(">II")
_RESERVATION: Final = struct.Struct(">Q5xB2x")
_FULL: Final = struct.Struct(">Q4xBB4xHI")


def _with_head(state: ReservationState, body: bytes) -> bytes:
    return _HEAD.pack(state.generation, len(body)) + body


def read_keys(state: ReservationState, lasting: bool) -> bytes:
    """READ KEYS (SPC-4 6.15.2)."""
    return _with_head(state, b"".join(it.key.to_bytes(8, "big") for it in state.registrations))


def read_reservation(state: ReservationState, lasting: bool) -> bytes:
    """READ RESERVATION (SPC-4 6.15.3); the key is 0 where all registrants are holders."""
    if state.type is None:
        return _with_head(state, b"")
    key = state.key_of(state.holder) if state.holder is not None else 0
    return _with_head(state, _RESERVATION.pack(key or 0, state.type))


def report_capabilities(state: ReservationState, lasting: bool) -> bytes:
    """REPORT CAPABILITIES (SPC-4 6.15.4)."""
    can = _SIP_C | _ATP_C | (_PTPL_C if lasting else 0)
    does = _TMV | _ALLOWS_TEST_UNIT_READY | (_PTPL_A if state.aptpl else 0)
    return struct.pack(">HBBH2x", 8, can, does, _TYPE_MASK)


def read_full_status(state: ReservationState, lasting: bool) -> bytes:
    """READ FULL STATUS (SPC-4 6.15.5)."""
    body = bytearray()
    for it in state.registrations:
        holds = state.holds(it.nexus)
        kind = state.type if holds and state.type is not None else 0
        who = encode_transport_id(it.nexus)
        body += _FULL.pack(it.key, _R_HOLDER if holds else 0, kind, it.nexus.port, len(who)) + who
    return _with_head(state, bytes(body))


READERS: Final[tuple[tuple[str, Callable[[ReservationState, bool], bytes]], ...]] = (
    ("READ KEYS", read_keys),
    ("READ RESERVATION", read_reservation),
    ("REPORT CAPABILITIES", report_capabilities),
    ("READ FULL STATUS", read_full_status),
)
"""By service action."""
