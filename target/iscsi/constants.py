"""The numbers of RFC 7143 chapter 11 (and RFC 7144), by name."""

from __future__ import annotations

import enum
from typing import Final

BHS_LENGTH: Final = 48
DIGEST_LENGTH: Final = 4
RESERVED_TAG: Final = 0xFFFFFFFF
NO_LUN: Final = bytes(8)
PROTOCOL_VERSION: Final = 0x00
ISCSI_PORT: Final = 3260

# Bits of byte 0.
IMMEDIATE: Final = 0x40
OPCODE_MASK: Final = 0x3F

# Bits of byte 1, by the PDU that has them.
FINAL: Final = 0x80
CMD_READ: Final = 0x40
CMD_WRITE: Final = 0x20
CMD_ATTRIBUTE_MASK: Final = 0x07
LOGIN_TRANSIT: Final = 0x80
CONTINUE: Final = 0x40
"""C bit of Login and Text PDUs."""
DATA_IN_ACKNOWLEDGE: Final = 0x40
DATA_IN_STATUS: Final = 0x01
RESIDUAL_OVERFLOW: Final = 0x04
RESIDUAL_UNDERFLOW: Final = 0x02
BIDI_OVERFLOW: Final = 0x10
BIDI_UNDERFLOW: Final = 0x08


class Opcode(enum.IntEnum):
    """RFC 7143 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


class RejectReason(enum.IntEnum):
    """RFC 7143 11.17.1 (0x0B, negotiation reset, is deprecated there and never sent)."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION_REJECT = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class LoginStage(enum.IntEnum):
    """CSG and NSG of Login PDUs (RFC 7143 11.12.3); 2 is reserved."""

    SECURITY = 0
    OPERATIONAL = 1
    FULL_FEATURE = 3


class LoginStatus(enum.IntEnum):
    """RFC 7143 11.13.5: status class << 8 | status detail."""

    SUCCESS = 0x0000
    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302

    @property
    def status_class(self) -> int:
        return self >> 8

    @property
    def status_detail(self) -> int:
        return self & 0xFF


class TmfFunction(enum.IntEnum):
    """RFC 7143 11.5.1; 9 to 12 are RFC 7144's."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNC_EVENT = 12


class TmfResponse(enum.IntEnum):
    """RFC 7143 11.6.1; FUNCTION_SUCCEEDED is RFC 7144's."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGNMENT_NOT_SUPPORTED = 4
    FUNCTION_NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    FUNCTION_REJECTED = 255


class AsyncEvent(enum.IntEnum):
    """RFC 7143 11.9.1."""

    SCSI_EVENT = 0
    LOGOUT_REQUESTED = 1
    CONNECTION_DROPPED = 2
    SESSION_DROPPED = 3
    NEGOTIATION_REQUESTED = 4
    TASKS_TERMINATED = 5
    VENDOR_SPECIFIC = 255


class LogoutReason(enum.IntEnum):
    """RFC 7143 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_CONNECTION_FOR_RECOVERY = 2


class LogoutResponseCode(enum.IntEnum):
    """RFC 7143 11.15.1."""

    SUCCESS = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class SnackType(enum.IntEnum):
    """RFC 7143 11.16.1."""

    DATA_OR_R2T = 0
    STATUS = 1
    DATA_ACK = 2
    R_DATA = 3


class ScsiResponseCode(enum.IntEnum):
    """RFC 7143 11.4.3: 0x80 and up are vendor specific."""

    COMMAND_COMPLETED = 0
    TARGET_FAILURE = 1


class TaskAttribute(enum.IntEnum):
    """ATTR of a SCSI Command (RFC 7143 11.3.1); 5 to 7 are reserved."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class AhsType(enum.IntEnum):
    """RFC 7143 11.2.2.1."""

    EXTENDED_CDB = 1
    BIDIRECTIONAL_READ_LENGTH = 2
