"""What a target sends (RFC 7143 11.4, 11.6, 11.7, 11.8, 11.9, 11.11, 11.13, 11.15, 11.17, 11.19).

RFC 7144's status qualifier, priority and additional response information are not encoded: we
negotiate iSCSIProtocolLevel 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from target.iscsi import constants as c
from target.iscsi.constants import NO_LUN, RESERVED_TAG, LoginStatus, Opcode, RejectReason
from target.iscsi.errors import PduError
from target.iscsi.pdubase import Buffer, Pdu, lengths

_NOP_IN = struct.Struct(">BBxxI8sIIIII12x")
_SCSI = struct.Struct(">BBBBI8xIIIIIIII")
_TMF = struct.Struct(">BBBxI8xI4xIII12x")
_LOGIN = struct.Struct(">BBBBI6sHI4xIIIBB10x")
_TEXT = _NOP_IN
_DATA_IN = struct.Struct(">BBxBI8sIIIIIIII")
_LOGOUT = struct.Struct(">BBBxI8xI4xIII4xHH4x")
_R2T = struct.Struct(">BBxxI8sIIIIIIII")
_ASYNC = struct.Struct(">BBxxI8sI4xIIIBBHHH4x")
_REJECT = struct.Struct(">BBBxI8xI4xIIII8x")


@dataclass(frozen=True, slots=True, kw_only=True)
class NopIn(Pdu):
    """RFC 7143 11.19: the answer to a NOP-Out, or a ping of ours (then TTT is valid)."""

    OPCODE: ClassVar[Opcode] = Opcode.NOP_IN
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _NOP_IN.pack(
            self.OPCODE,
            c.FINAL,
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, _, _, lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn = _NOP_IN.unpack(bhs)
        return cls(
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            initiator_task_tag=itt,
            target_transfer_tag=ttt,
            lun=lun,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiResponse(Pdu):
    """RFC 7143 11.4.  ``data`` is what :func:`sense_segment` makes; ``sense`` reads it back."""

    OPCODE: ClassVar[Opcode] = Opcode.SCSI_RESPONSE
    initiator_task_tag: int
    status: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    response: int = 0
    exp_data_sn: int = 0
    residual_count: int = 0
    overflow: bool = False
    underflow: bool = False
    bidi_residual_count: int = 0
    bidi_overflow: bool = False
    bidi_underflow: bool = False
    snack_tag: int = 0
    data: Buffer = b""

    @property
    def sense(self) -> bytes:
        """The sense data of the data segment (RFC 7143 11.4.7), empty if there is none."""
        size = int.from_bytes(self.data[:2])
        return bytes(self.data[2 : 2 + size])

    def encode_header(self) -> bytes:
        return _SCSI.pack(
            self.OPCODE,
            c.FINAL
            | (c.BIDI_OVERFLOW if self.bidi_overflow else 0)
            | (c.BIDI_UNDERFLOW if self.bidi_underflow else 0)
            | (c.RESIDUAL_OVERFLOW if self.overflow else 0)
            | (c.RESIDUAL_UNDERFLOW if self.underflow else 0),
            self.response,
            self.status,
            lengths(b"", self.data),
            self.initiator_task_tag,
            self.snack_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.exp_data_sn,
            self.bidi_residual_count,
            self.residual_count,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        fields = _SCSI.unpack(bhs)
        flags = fields[1]
        return cls(
            initiator_task_tag=fields[5],
            status=fields[3],
            stat_sn=fields[7],
            exp_cmd_sn=fields[8],
            max_cmd_sn=fields[9],
            response=fields[2],
            exp_data_sn=fields[10],
            residual_count=fields[12],
            overflow=bool(flags & c.RESIDUAL_OVERFLOW),
            underflow=bool(flags & c.RESIDUAL_UNDERFLOW),
            bidi_residual_count=fields[11],
            bidi_overflow=bool(flags & c.BIDI_OVERFLOW),
            bidi_underflow=bool(flags & c.BIDI_UNDERFLOW),
            snack_tag=fields[6],
            data=data,
        )


def sense_segment(sense: bytes) -> bytes:
    """The data segment of a SCSI Response that carries sense data (RFC 7143 11.4.7)."""
    return len(sense).to_bytes(2) + sense if sense else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskManagementResponse(Pdu):
    """RFC 7143 11.6."""

    OPCODE: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_RESPONSE
    response: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int

    def encode_header(self) -> bytes:
        return _TMF.pack(
            self.OPCODE,
            c.FINAL,
            self.response,
            0,
            self.initiator_task_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, _, response, _, itt, stat_sn, exp_cmd_sn, max_cmd_sn = _TMF.unpack(bhs)
        return cls(
            response=response,
            initiator_task_tag=itt,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResponse(Pdu):
    """RFC 7143 11.13."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGIN_RESPONSE
    isid: bytes
    tsih: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    csg: int
    nsg: int = 0
    transit: bool = False
    continued: bool = False
    version_max: int = c.PROTOCOL_VERSION
    version_active: int = c.PROTOCOL_VERSION
    status: LoginStatus = LoginStatus.SUCCESS
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _LOGIN.pack(
            self.OPCODE,
            (c.LOGIN_TRANSIT if self.transit else 0)
            | (c.CONTINUE if self.continued else 0)
            | self.csg << 2
            | self.nsg,
            self.version_max,
            self.version_active,
            lengths(b"", self.data),
            self.isid,
            self.tsih,
            self.initiator_task_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.status.status_class,
            self.status.status_detail,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        fields = _LOGIN.unpack(bhs)
        flags = fields[1]
        try:
            status = LoginStatus(fields[11] << 8 | fields[12])
        except ValueError as exc:
            raise PduError(RejectReason.INVALID_PDU_FIELD, str(exc)) from exc
        return cls(
            isid=fields[5],
            tsih=fields[6],
            initiator_task_tag=fields[7],
            stat_sn=fields[8],
            exp_cmd_sn=fields[9],
            max_cmd_sn=fields[10],
            csg=flags >> 2 & 3,
            nsg=flags & 3,
            transit=bool(flags & c.LOGIN_TRANSIT),
            continued=bool(flags & c.CONTINUE),
            version_max=fields[2],
            version_active=fields[3],
            status=status,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResponse(Pdu):
    """RFC 7143 11.11."""

    OPCODE: ClassVar[Opcode] = Opcode.TEXT_RESPONSE
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    final: bool = True
    continued: bool = False
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _TEXT.pack(
            self.OPCODE,
            (c.FINAL if self.final else 0) | (c.CONTINUE if self.continued else 0),
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, flags, _, lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn = _TEXT.unpack(bhs)
        return cls(
            initiator_task_tag=itt,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            target_transfer_tag=ttt,
            lun=lun,
            final=bool(flags & c.FINAL),
            continued=bool(flags & c.CONTINUE),
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIn(Pdu):
    """RFC 7143 11.7.  A ``status`` sets the S bit, and gives StatSN and the residual a meaning."""

    OPCODE: ClassVar[Opcode] = Opcode.DATA_IN
    initiator_task_tag: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int
    buffer_offset: int
    status: int | None = None
    stat_sn: int = 0
    residual_count: int = 0
    overflow: bool = False
    underflow: bool = False
    final: bool = False
    acknowledge: bool = False
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    data: Buffer = b""

    def encode_header(self) -> bytes:
        flags = (c.FINAL if self.final else 0) | (c.DATA_IN_ACKNOWLEDGE if self.acknowledge else 0)
        if self.status is not None:
            flags |= (
                c.DATA_IN_STATUS
                | (c.RESIDUAL_OVERFLOW if self.overflow else 0)
                | (c.RESIDUAL_UNDERFLOW if self.underflow else 0)
            )
        return _DATA_IN.pack(
            self.OPCODE,
            flags,
            self.status or 0,
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.data_sn,
            self.buffer_offset,
            self.residual_count,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        fields = _DATA_IN.unpack(bhs)
        flags = fields[1]
        has_status = bool(flags & c.DATA_IN_STATUS)
        return cls(
            initiator_task_tag=fields[5],
            exp_cmd_sn=fields[8],
            max_cmd_sn=fields[9],
            data_sn=fields[10],
            buffer_offset=fields[11],
            status=fields[2] if has_status else None,
            stat_sn=fields[7],
            residual_count=fields[12],
            overflow=has_status and bool(flags & c.RESIDUAL_OVERFLOW),
            underflow=has_status and bool(flags & c.RESIDUAL_UNDERFLOW),
            final=bool(flags & c.FINAL),
            acknowledge=bool(flags & c.DATA_IN_ACKNOWLEDGE),
            target_transfer_tag=fields[6],
            lun=fields[4],
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutResponse(Pdu):
    """RFC 7143 11.15."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGOUT_RESPONSE
    response: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    time2wait: int = 0
    time2retain: int = 0

    def encode_header(self) -> bytes:
        return _LOGOUT.pack(
            self.OPCODE,
            c.FINAL,
            self.response,
            0,
            self.initiator_task_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.time2wait,
            self.time2retain,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, _, response, _, itt, stat_sn, exp_cmd_sn, max_cmd_sn, wait, retain = _LOGOUT.unpack(bhs)
        return cls(
            response=response,
            initiator_task_tag=itt,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            time2wait=wait,
            time2retain=retain,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class R2T(Pdu):
    """RFC 7143 11.8.  ``stat_sn`` is the next StatSN; an R2T does not use it up."""

    OPCODE: ClassVar[Opcode] = Opcode.R2T
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    r2t_sn: int
    buffer_offset: int
    desired_data_transfer_length: int
    lun: bytes = NO_LUN

    def encode_header(self) -> bytes:
        return _R2T.pack(
            self.OPCODE,
            c.FINAL,
            0,
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.r2t_sn,
            self.buffer_offset,
            self.desired_data_transfer_length,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        fields = _R2T.unpack(bhs)
        return cls(
            initiator_task_tag=fields[4],
            target_transfer_tag=fields[5],
            stat_sn=fields[6],
            exp_cmd_sn=fields[7],
            max_cmd_sn=fields[8],
            r2t_sn=fields[9],
            buffer_offset=fields[10],
            desired_data_transfer_length=fields[11],
            lun=fields[3],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncMessage(Pdu):
    """RFC 7143 11.9.  The parameters' meaning depends on the event; ``data`` holds sense data."""

    OPCODE: ClassVar[Opcode] = Opcode.ASYNC_MESSAGE
    async_event: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    async_vcode: int = 0
    parameter1: int = 0
    parameter2: int = 0
    parameter3: int = 0
    lun: bytes = NO_LUN
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _ASYNC.pack(
            self.OPCODE,
            c.FINAL,
            lengths(b"", self.data),
            self.lun,
            RESERVED_TAG,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.async_event,
            self.async_vcode,
            self.parameter1,
            self.parameter2,
            self.parameter3,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        fields = _ASYNC.unpack(bhs)
        return cls(
            async_event=fields[8],
            stat_sn=fields[5],
            exp_cmd_sn=fields[6],
            max_cmd_sn=fields[7],
            async_vcode=fields[9],
            parameter1=fields[10],
            parameter2=fields[11],
            parameter3=fields[12],
            lun=fields[3],
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject(Pdu):
    """RFC 7143 11.17.  ``data`` is the complete header of the offending PDU."""

    OPCODE: ClassVar[Opcode] = Opcode.REJECT
    reason: RejectReason
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int = 0
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _REJECT.pack(
            self.OPCODE,
            c.FINAL,
            self.reason,
            lengths(b"", self.data),
            RESERVED_TAG,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.data_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, _, reason, _, _, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn = _REJECT.unpack(bhs)
        try:
            known = RejectReason(reason)
        except ValueError as exc:
            raise PduError(RejectReason.INVALID_PDU_FIELD, str(exc)) from exc
        return cls(
            reason=known,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            data_sn=data_sn,
            data=data,
        )
