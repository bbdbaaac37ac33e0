"""What an initiator sends (RFC 7143 11.3, 11.5, 11.7, 11.10, 11.12, 11.14, 11.16, 11.18).

Reserved fields are written as zeros and ignored when read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from target.iscsi import ahs as ahs_codec
from target.iscsi import constants as c
from target.iscsi.constants import NO_LUN, RESERVED_TAG, Opcode, RejectReason, TaskAttribute
from target.iscsi.errors import PduError
from target.iscsi.pdubase import Buffer, Pdu, lengths

_COMMAND = struct.Struct(">BBxxI8sIIII16s")
_PLAIN = struct.Struct(">BBxxI8sIIII16x")
_TMF = struct.Struct(">BBxxI8sIIIIII8x")
_LOGIN = struct.Struct(">BBBBI6sHIHxxII16x")
_DATA_OUT = struct.Struct(">BBxxI8sII4xI4xII4x")
_LOGOUT = struct.Struct(">BBxxI8xIHxxII16x")
_SNACK = struct.Struct(">BBxxI8sII4xI8xII")

# By the three ATTR bits; None where the value is reserved.
_ATTRIBUTES: tuple[TaskAttribute | None, ...] = (*TaskAttribute, None, None, None)


def _first(opcode: Opcode, immediate: bool) -> int:
    return opcode | c.IMMEDIATE if immediate else opcode


@dataclass(frozen=True, slots=True, kw_only=True)
class NopOut(Pdu):
    """RFC 7143 11.18: a ping, or the answer to one of ours (then TTT is valid)."""

    OPCODE: ClassVar[Opcode] = Opcode.NOP_OUT
    initiator_task_tag: int
    cmd_sn: int
    exp_stat_sn: int
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    immediate: bool = False
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _PLAIN.pack(
            _first(self.OPCODE, self.immediate),
            c.FINAL,
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.cmd_sn,
            self.exp_stat_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        first, _, _, lun, itt, ttt, cmd_sn, exp_stat_sn = _PLAIN.unpack(bhs)
        return cls(
            initiator_task_tag=itt,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            target_transfer_tag=ttt,
            lun=lun,
            immediate=bool(first & c.IMMEDIATE),
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiCommand(Pdu):
    """RFC 7143 11.3.  ``cdb`` is whole: 16 bytes, or more with an Extended CDB AHS."""

    OPCODE: ClassVar[Opcode] = Opcode.SCSI_COMMAND
    initiator_task_tag: int
    cmd_sn: int
    exp_stat_sn: int
    cdb: bytes
    lun: bytes = NO_LUN
    expected_data_transfer_length: int = 0
    read: bool = False
    write: bool = False
    final: bool = True
    immediate: bool = False
    attribute: TaskAttribute = TaskAttribute.SIMPLE
    bidirectional_read_length: int | None = None
    data: Buffer = b""

    def encode_header(self) -> bytes:
        ahs = ahs_codec.encode(self.cdb[16:], self.bidirectional_read_length)
        flags = (
            (c.FINAL if self.final else 0)
            | (c.CMD_READ if self.read else 0)
            | (c.CMD_WRITE if self.write else 0)
            | self.attribute
        )
        bhs = _COMMAND.pack(
            _first(self.OPCODE, self.immediate),
            flags,
            lengths(ahs, self.data),
            self.lun,
            self.initiator_task_tag,
            self.expected_data_transfer_length,
            self.cmd_sn,
            self.exp_stat_sn,
            self.cdb[:16],
        )
        return bhs + ahs

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        first, flags, _, lun, itt, length, cmd_sn, exp_stat_sn, cdb = _COMMAND.unpack(bhs)
        attribute = _ATTRIBUTES[flags & c.CMD_ATTRIBUTE_MASK]
        read, write = bool(flags & c.CMD_READ), bool(flags & c.CMD_WRITE)
        bidirectional: int | None = None
        if attribute is None:
            raise PduError(RejectReason.INVALID_PDU_FIELD, "a reserved task attribute")
        if ahs:
            extension, bidirectional = ahs_codec.decode(ahs)
            cdb += extension
        # 11.3.1: both F and W at 0 is an error; 11.2.2.4 and 11.3.4: a bidirectional command has
        # its read length in an AHS, and no other command has.
        if not flags & (c.FINAL | c.CMD_WRITE):
            raise PduError(RejectReason.INVALID_PDU_FIELD, "neither F nor W in a SCSI Command")
        if (read and write) != (bidirectional is not None):
            raise PduError(
                RejectReason.INVALID_PDU_FIELD, "R, W and the bidirectional AHS do not agree"
            )
        return cls(
            initiator_task_tag=itt,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            cdb=cdb,
            lun=lun,
            expected_data_transfer_length=length,
            read=read,
            write=write,
            final=bool(flags & c.FINAL),
            immediate=bool(first & c.IMMEDIATE),
            attribute=attribute,
            bidirectional_read_length=bidirectional,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskManagementRequest(Pdu):
    """RFC 7143 11.5.  ``function`` is a plain number: an unknown one gets a TMF response."""

    OPCODE: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_REQUEST
    function: int
    initiator_task_tag: int
    cmd_sn: int
    exp_stat_sn: int
    lun: bytes = NO_LUN
    referenced_task_tag: int = RESERVED_TAG
    ref_cmd_sn: int = 0
    exp_data_sn: int = 0
    immediate: bool = False

    def encode_header(self) -> bytes:
        return _TMF.pack(
            _first(self.OPCODE, self.immediate),
            c.FINAL | self.function,
            0,
            self.lun,
            self.initiator_task_tag,
            self.referenced_task_tag,
            self.cmd_sn,
            self.exp_stat_sn,
            self.ref_cmd_sn,
            self.exp_data_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        first, flags, _, lun, itt, rtt, cmd_sn, exp_stat_sn, ref, exp_data = _TMF.unpack(bhs)
        return cls(
            function=flags & 0x7F,
            initiator_task_tag=itt,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            lun=lun,
            referenced_task_tag=rtt,
            ref_cmd_sn=ref,
            exp_data_sn=exp_data,
            immediate=bool(first & c.IMMEDIATE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest(Pdu):
    """RFC 7143 11.12.  The stages are plain numbers: 2 is reserved and the login answers it."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGIN_REQUEST
    isid: bytes
    tsih: int
    initiator_task_tag: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int
    csg: int
    nsg: int = 0
    transit: bool = False
    continued: bool = False
    version_max: int = c.PROTOCOL_VERSION
    version_min: int = c.PROTOCOL_VERSION
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _LOGIN.pack(
            self.OPCODE | c.IMMEDIATE,
            (c.LOGIN_TRANSIT if self.transit else 0)
            | (c.CONTINUE if self.continued else 0)
            | self.csg << 2
            | self.nsg,
            self.version_max,
            self.version_min,
            lengths(b"", self.data),
            self.isid,
            self.tsih,
            self.initiator_task_tag,
            self.cid,
            self.cmd_sn,
            self.exp_stat_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, flags, vmax, vmin, _, isid, tsih, itt, cid, cmd_sn, exp_stat_sn = _LOGIN.unpack(bhs)
        return cls(
            isid=isid,
            tsih=tsih,
            initiator_task_tag=itt,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            csg=flags >> 2 & 3,
            nsg=flags & 3,
            transit=bool(flags & c.LOGIN_TRANSIT),
            continued=bool(flags & c.CONTINUE),
            version_max=vmax,
            version_min=vmin,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest(Pdu):
    """RFC 7143 11.10."""

    OPCODE: ClassVar[Opcode] = Opcode.TEXT_REQUEST
    initiator_task_tag: int
    cmd_sn: int
    exp_stat_sn: int
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    final: bool = True
    continued: bool = False
    immediate: bool = False
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _PLAIN.pack(
            _first(self.OPCODE, self.immediate),
            (c.FINAL if self.final else 0) | (c.CONTINUE if self.continued else 0),
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.cmd_sn,
            self.exp_stat_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        first, flags, _, lun, itt, ttt, cmd_sn, exp_stat_sn = _PLAIN.unpack(bhs)
        return cls(
            initiator_task_tag=itt,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            target_transfer_tag=ttt,
            lun=lun,
            final=bool(flags & c.FINAL),
            continued=bool(flags & c.CONTINUE),
            immediate=bool(first & c.IMMEDIATE),
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOut(Pdu):
    """RFC 7143 11.7."""

    OPCODE: ClassVar[Opcode] = Opcode.DATA_OUT
    initiator_task_tag: int
    exp_stat_sn: int
    data_sn: int
    buffer_offset: int
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN
    final: bool = False
    data: Buffer = b""

    def encode_header(self) -> bytes:
        return _DATA_OUT.pack(
            self.OPCODE,
            c.FINAL if self.final else 0,
            lengths(b"", self.data),
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.exp_stat_sn,
            self.data_sn,
            self.buffer_offset,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, flags, _, lun, itt, ttt, exp_stat_sn, data_sn, offset = _DATA_OUT.unpack(bhs)
        return cls(
            initiator_task_tag=itt,
            exp_stat_sn=exp_stat_sn,
            data_sn=data_sn,
            buffer_offset=offset,
            target_transfer_tag=ttt,
            lun=lun,
            final=bool(flags & c.FINAL),
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest(Pdu):
    """RFC 7143 11.14.  ``reason`` is a plain number: the session answers unknown ones."""

    OPCODE: ClassVar[Opcode] = Opcode.LOGOUT_REQUEST
    reason: int
    initiator_task_tag: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int
    immediate: bool = False

    def encode_header(self) -> bytes:
        return _LOGOUT.pack(
            _first(self.OPCODE, self.immediate),
            c.FINAL | self.reason,
            0,
            self.initiator_task_tag,
            self.cid,
            self.cmd_sn,
            self.exp_stat_sn,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        first, flags, _, itt, cid, cmd_sn, exp_stat_sn = _LOGOUT.unpack(bhs)
        return cls(
            reason=flags & 0x7F,
            initiator_task_tag=itt,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            immediate=bool(first & c.IMMEDIATE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnackRequest(Pdu):
    """RFC 7143 11.16."""

    OPCODE: ClassVar[Opcode] = Opcode.SNACK_REQUEST
    type: int
    exp_stat_sn: int
    beg_run: int
    run_length: int
    initiator_task_tag: int = RESERVED_TAG
    target_transfer_tag: int = RESERVED_TAG
    lun: bytes = NO_LUN

    def encode_header(self) -> bytes:
        return _SNACK.pack(
            self.OPCODE,
            c.FINAL | self.type,
            0,
            self.lun,
            self.initiator_task_tag,
            self.target_transfer_tag,
            self.exp_stat_sn,
            self.beg_run,
            self.run_length,
        )

    @classmethod
    def decode(cls, bhs: Buffer, ahs: Buffer, data: Buffer) -> Self:
        _, flags, _, lun, itt, ttt, exp_stat_sn, beg_run, run_length = _SNACK.unpack(bhs)
        return cls(
            type=flags & 0x0F,
            exp_stat_sn=exp_stat_sn,
            beg_run=beg_run,
            run_length=run_length,
            initiator_task_tag=itt,
            target_transfer_tag=ttt,
            lun=lun,
        )
