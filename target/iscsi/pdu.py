"""The PDU codec: the one module that others import for PDUs, their numbers and their framing.

Theory of operation.  On the wire a PDU is (RFC 7143 11.1)::

    BHS (48) · AHS (0..1020) · [header digest] · data segment · padding (0..3) · [data digest]

1. The header digest covers BHS and AHS; the data digest covers data and padding, and is there only
   when the data segment is not empty.
2. A digest is CRC32C with its bytes in little-endian order (RFC 7143 A.4 has examples).
3. ``decode_request`` and ``decode_response`` return a whole PDU or raise :class:`PduError` with the
   reason for a Reject.  They look at no state: what depends on it is for the session to judge.
4. A value that has to be answered otherwise than by a Reject (an unknown task management function,
   a reserved login stage) is kept as a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crc32c import crc32c

from target.iscsi.constants import (
    BHS_LENGTH,
    DIGEST_LENGTH,
    IMMEDIATE,
    ISCSI_PORT,
    NO_LUN,
    OPCODE_MASK,
    PROTOCOL_VERSION,
    RESERVED_TAG,
    AhsType,
    AsyncEvent,
    LoginStage,
    LoginStatus,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
    RejectReason,
    ScsiResponseCode,
    SnackType,
    TaskAttribute,
    TmfFunction,
    TmfResponse,
)
from target.iscsi.errors import PduError
from target.iscsi.pdubase import Buffer, Pdu, check_segments, segment_lengths
from target.iscsi.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from target.iscsi.responses import (
    R2T,
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponse,
    NopIn,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
    sense_segment,
)

__all__ = [
    "BHS_LENGTH",
    "DIGEST_LENGTH",
    "IMMEDIATE",
    "ISCSI_PORT",
    "NO_LUN",
    "OPCODE_MASK",
    "PROTOCOL_VERSION",
    "R2T",
    "REQUESTS",
    "RESERVED_TAG",
    "RESPONSES",
    "AhsType",
    "AsyncEvent",
    "AsyncMessage",
    "Buffer",
    "DataIn",
    "DataOut",
    "LoginRequest",
    "LoginResponse",
    "LoginStage",
    "LoginStatus",
    "LogoutReason",
    "LogoutRequest",
    "LogoutResponse",
    "LogoutResponseCode",
    "NopIn",
    "NopOut",
    "Opcode",
    "Pdu",
    "PduError",
    "Reject",
    "RejectReason",
    "Request",
    "Response",
    "ScsiCommand",
    "ScsiResponse",
    "ScsiResponseCode",
    "SnackRequest",
    "SnackType",
    "TaskAttribute",
    "TaskManagementRequest",
    "TaskManagementResponse",
    "TextRequest",
    "TextResponse",
    "TmfFunction",
    "TmfResponse",
    "decode_request",
    "decode_response",
    "digest",
    "frame",
    "padding",
    "segment_lengths",
    "sense_segment",
]

Request = (
    NopOut
    | ScsiCommand
    | TaskManagementRequest
    | LoginRequest
    | TextRequest
    | DataOut
    | LogoutRequest
    | SnackRequest
)
Response = (
    NopIn
    | ScsiResponse
    | TaskManagementResponse
    | LoginResponse
    | TextResponse
    | DataIn
    | LogoutResponse
    | R2T
    | AsyncMessage
    | Reject
)

REQUESTS: Final[Mapping[int, type[Request]]] = {
    Opcode.NOP_OUT: NopOut,
    Opcode.SCSI_COMMAND: ScsiCommand,
    Opcode.TASK_MANAGEMENT_REQUEST: TaskManagementRequest,
    Opcode.LOGIN_REQUEST: LoginRequest,
    Opcode.TEXT_REQUEST: TextRequest,
    Opcode.DATA_OUT: DataOut,
    Opcode.LOGOUT_REQUEST: LogoutRequest,
    Opcode.SNACK_REQUEST: SnackRequest,
}
RESPONSES: Final[Mapping[int, type[Response]]] = {
    Opcode.NOP_IN: NopIn,
    Opcode.SCSI_RESPONSE: ScsiResponse,
    Opcode.TASK_MANAGEMENT_RESPONSE: TaskManagementResponse,
    Opcode.LOGIN_RESPONSE: LoginResponse,
    Opcode.TEXT_RESPONSE: TextResponse,
    Opcode.DATA_IN: DataIn,
    Opcode.LOGOUT_RESPONSE: LogoutResponse,
    Opcode.R2T: R2T,
    Opcode.ASYNC_MESSAGE: AsyncMessage,
    Opcode.REJECT: Reject,
}

_PADS: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def decode_request(bhs: Buffer, ahs: Buffer, data: Buffer) -> Request:
    """The PDU that an initiator sent; ``data`` comes without padding, digests were checked."""
    kind = REQUESTS.get(bhs[0] & OPCODE_MASK) if len(bhs) else None
    check_segments(bhs, ahs, data, ahs_allowed=kind is ScsiCommand or kind is None)
    if kind is None:
        raise PduError(
            RejectReason.COMMAND_NOT_SUPPORTED, f"no request opcode {bhs[0] & OPCODE_MASK:#04x}"
        )
    return kind.decode(bhs, ahs, data)


def decode_response(bhs: Buffer, ahs: Buffer, data: Buffer) -> Response:
    """The PDU that a target sent: the initiator's side, for tests and tools."""
    kind = RESPONSES.get(bhs[0] & OPCODE_MASK) if len(bhs) else None
    check_segments(bhs, ahs, data, ahs_allowed=kind is None)
    if kind is None:
        raise PduError(
            RejectReason.COMMAND_NOT_SUPPORTED, f"no response opcode {bhs[0] & OPCODE_MASK:#04x}"
        )
    return kind.decode(bhs, ahs, data)


def padding(size: int) -> bytes:
    """The zeros that bring a segment of this size to a multiple of four (RFC 7143 11.1)."""
    return _PADS[size & 3]


def digest(*parts: Buffer) -> bytes:
    """CRC32C over the parts in a row, in wire order (rule 2)."""
    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return crc.to_bytes(4, "little")


def frame(pdu: Pdu, header_digest: bool, data_digest: bool) -> list[Buffer]:
    """The buffers of a PDU in wire order, for ``sendmsg``; the data segment is not copied."""
    header = pdu.encode_header()
    out: list[Buffer] = [header + digest(header) if header_digest else header]
    data = pdu.data
    if size := len(data):
        out.append(data)
        pad = _PADS[size & 3]
        if data_digest:
            out.append(pad + digest(data, pad))
        elif pad:
            out.append(pad)
    return out
