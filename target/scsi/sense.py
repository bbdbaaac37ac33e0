"""Sense data as named triples (SPC-4 clause 4.5, annex D.2) and their two encodings."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace


class Status(enum.IntEnum):
    """SAM-5 status codes."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


class SenseKey(enum.IntEnum):
    """SPC-4 table 45."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True)
class FieldPointer:
    """Which byte and bit of the CDB or parameter list is wrong (SPC-4 4.5.2.4.2)."""

    byte: int
    bit: int | None = None
    in_cdb: bool = True


@dataclass(frozen=True, slots=True)
class Sense:
    """Sense key, additional sense code and qualifier; INFORMATION and field pointer where known."""

    key: SenseKey
    asc: int
    ascq: int
    information: int | None = None
    pointer: FieldPointer | None = None

    def at(self, information: int) -> Sense:
        """The same with the INFORMATION field (an LBA or an offset, as the command says)."""
        return replace(self, information=information)

    def field(self, byte: int, bit: int | None = None, *, in_cdb: bool = True) -> Sense:
        """The same with a field pointer."""
        return replace(self, pointer=FieldPointer(byte, bit, in_cdb))

    def encode(self, descriptor: bool) -> bytes:
        """Descriptor format (72h) if ``descriptor`` (the D_SENSE bit), else fixed format (70h)."""
        return self._descriptor() if descriptor else self._fixed()

    def _pointer_bytes(self) -> bytes:
        p = self.pointer
        if p is None:
            return b"\0\0\0"
        flags = 0x80 | (0x40 if p.in_cdb else 0)
        if p.bit is not None:
            flags |= 0x08 | p.bit
        return struct.pack(">BH", flags, p.byte)

    def _fixed(self) -> bytes:
        # SPC-4 4.5.3: INFORMATION is 32 bits wide, and VALID tells whether it could be filled.
        info = self.information
        valid = info is not None and info <= 0xFFFFFFFF
        return struct.pack(
            ">BxBIB4xBBx3s",
            0x70 | (0x80 if valid else 0),
            self.key,
            (info or 0) if valid else 0,
            10,
            self.asc,
            self.ascq,
            self._pointer_bytes(),
        )

    def _descriptor(self) -> bytes:
        # SPC-4 4.5.2: information descriptor 00h, sense key specific descriptor 02h.
        parts = b""
        if self.information is not None:
            parts += struct.pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information)
        if self.pointer is not None:
            parts += struct.pack(">BB2x3sx", 0x02, 0x06, self._pointer_bytes())
        return struct.pack(">BBBB3xB", 0x72, self.key, self.asc, self.ascq, len(parts)) + parts


K = SenseKey
NO_SENSE = Sense(K.NO_SENSE, 0x00, 0x00)
NOT_READY_STOPPED = Sense(K.NOT_READY, 0x04, 0x02)  # initializing command required
NOT_READY_UNAVAILABLE = Sense(K.NOT_READY, 0x04, 0x00)  # cause not reportable
NOT_READY_STANDBY = Sense(K.NOT_READY, 0x04, 0x0B)  # target port in standby state
NOT_READY_UNREACHABLE = Sense(K.NOT_READY, 0x04, 0x0C)  # target port in unavailable state
INVALID_FIELD_IN_COMMAND_IU = Sense(K.ILLEGAL_REQUEST, 0x0E, 0x03)  # less data than it needs
WRITE_ERROR = Sense(K.MEDIUM_ERROR, 0x0C, 0x00)
READ_ERROR = Sense(K.MEDIUM_ERROR, 0x11, 0x00)
SYNC_LOST = Sense(K.MEDIUM_ERROR, 0x0C, 0x02)  # write error - auto reallocation failed
FAILED_SELF_TEST = Sense(K.HARDWARE_ERROR, 0x3E, 0x03)
INTERNAL_TARGET_FAILURE = Sense(K.HARDWARE_ERROR, 0x44, 0x00)
MISCOMPARE = Sense(K.MISCOMPARE, 0x1D, 0x00)  # miscompare during verify operation
PARAMETER_LIST_LENGTH_ERROR = Sense(K.ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_OPCODE = Sense(K.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = Sense(K.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = Sense(K.ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED = Sense(K.ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETERS = Sense(K.ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE = Sense(K.ILLEGAL_REQUEST, 0x26, 0x04)  # of a persistent reservation
SAVING_PARAMETERS_NOT_SUPPORTED = Sense(K.ILLEGAL_REQUEST, 0x39, 0x00)
MEDIUM_REMOVAL_PREVENTED = Sense(K.ILLEGAL_REQUEST, 0x53, 0x02)
INSUFFICIENT_REGISTRATIONS = Sense(K.ILLEGAL_REQUEST, 0x55, 0x04)
WRITE_PROTECTED = Sense(K.DATA_PROTECT, 0x27, 0x00)
SOFTWARE_WRITE_PROTECTED = Sense(K.DATA_PROTECT, 0x27, 0x02)
SPACE_ALLOCATION_FAILED = Sense(K.DATA_PROTECT, 0x27, 0x07)
IO_PROCESS_TERMINATED = Sense(K.ABORTED_COMMAND, 0x00, 0x06)
INVALID_MESSAGE = Sense(K.ABORTED_COMMAND, 0x49, 0x00)
UNEXPECTED_UNSOLICITED_DATA = Sense(K.ABORTED_COMMAND, 0x0C, 0x0C)
NOT_ENOUGH_UNSOLICITED_DATA = Sense(K.ABORTED_COMMAND, 0x0C, 0x0D)
PROTOCOL_SERVICE_CRC_ERROR = Sense(K.ABORTED_COMMAND, 0x47, 0x05)
DATA_PHASE_ERROR = Sense(K.ABORTED_COMMAND, 0x4B, 0x00)
DATA_OFFSET_ERROR = Sense(K.ABORTED_COMMAND, 0x4B, 0x05)

# 29h/00h rather than the narrower 29h/01h: libiscsi's tools retry only after the former.
UA_POWER_ON = Sense(K.UNIT_ATTENTION, 0x29, 0x00)
UA_BUS_RESET = Sense(K.UNIT_ATTENTION, 0x29, 0x02)
UA_DEVICE_RESET = Sense(K.UNIT_ATTENTION, 0x29, 0x03)
UA_NEXUS_LOSS = Sense(K.UNIT_ATTENTION, 0x29, 0x07)
UA_MODE_PARAMETERS_CHANGED = Sense(K.UNIT_ATTENTION, 0x2A, 0x01)
UA_RESERVATIONS_PREEMPTED = Sense(K.UNIT_ATTENTION, 0x2A, 0x03)
UA_RESERVATIONS_RELEASED = Sense(K.UNIT_ATTENTION, 0x2A, 0x04)
UA_REGISTRATIONS_PREEMPTED = Sense(K.UNIT_ATTENTION, 0x2A, 0x05)
UA_ACCESS_STATE_CHANGED = Sense(K.UNIT_ATTENTION, 0x2A, 0x06)  # asymmetric access
UA_CAPACITY_CHANGED = Sense(K.UNIT_ATTENTION, 0x2A, 0x09)
UA_COMMANDS_CLEARED = Sense(K.UNIT_ATTENTION, 0x2F, 0x00)
UA_INQUIRY_CHANGED = Sense(K.UNIT_ATTENTION, 0x3F, 0x03)
UA_LUNS_CHANGED = Sense(K.UNIT_ATTENTION, 0x3F, 0x0E)


class CheckCondition(Exception):
    """Ends a command in CHECK CONDITION with this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02X}h/{sense.ascq:02X}h")
        self.sense = sense
