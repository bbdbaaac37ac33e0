"""iSCSI PDUs for tests: every bit of the header can be set, also to what no initiator would send.

This knows RFC 7143 on its own and shares no line with the product's codec: an error would have to
be made twice to go unseen.

    pdu = scsi_command(itt=1, lun=0, cdb=read10(0, 1), edtl=512, read=True, cmd_sn=7, exp_stat_sn=3)
    pdu.edtl = 5                       # fields by name ...
    pdu.bhs[1] |= 0x10                 # ... or the bytes themselves
    wire = pdu.encode(header_digest=True)

`encode` fills in TotalAHSLength and DataSegmentLength unless told `lengths=False`. Fields that
overlap (a place means CmdSN to the target and StatSN from it) are all there; the caller knows which
of them the opcode has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import overload

from crc32c import crc32c

BHS_BYTES = 48
DIGEST_BYTES = 4
NO_TAG = 0xFFFFFFFF

FINAL = 0x80


class Opcode(IntEnum):
    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC = 0x32
    REJECT = 0x3F


class Attribute(IntEnum):
    """Task attributes as the SCSI Command PDU has them."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class TaskFunction(IntEnum):
    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class Field:
    """A big-endian number at a fixed place of the header."""

    def __init__(self, offset: int, size: int) -> None:
        self._place = slice(offset, offset + size)
        self._size = size

    @overload
    def __get__(self, pdu: None, owner: type[Pdu]) -> Field: ...
    @overload
    def __get__(self, pdu: Pdu, owner: type[Pdu]) -> int: ...
    def __get__(self, pdu: Pdu | None, owner: type[Pdu]) -> int | Field:
        if pdu is None:
            return self
        return int.from_bytes(pdu.bhs[self._place])

    def __set__(self, pdu: Pdu, value: int) -> None:
        pdu.bhs[self._place] = value.to_bytes(self._size)


@dataclass(eq=False)
class Pdu:
    bhs: bytearray = field(default_factory=lambda: bytearray(BHS_BYTES))
    ahs: bytes = b""
    data: bytes | memoryview = b""

    flags = Field(1, 1)
    response = Field(2, 1)  # also the reason of a Reject
    status = Field(3, 1)
    ahs_words = Field(4, 1)
    data_length = Field(5, 3)
    lun_bytes = Field(8, 8)
    itt = Field(16, 4)
    ttt = Field(20, 4)
    edtl = Field(20, 4)
    snack_tag = Field(20, 4)
    referenced_tag = Field(20, 4)
    cmd_sn = Field(24, 4)
    stat_sn = Field(24, 4)
    exp_stat_sn = Field(28, 4)
    exp_cmd_sn = Field(28, 4)
    max_cmd_sn = Field(32, 4)
    ref_cmd_sn = Field(32, 4)
    data_sn = Field(36, 4)
    exp_data_sn = Field(36, 4)
    r2t_sn = Field(36, 4)
    async_event = Field(36, 1)
    buffer_offset = Field(40, 4)
    bidirectional_residual = Field(40, 4)
    desired_length = Field(44, 4)
    residual = Field(44, 4)
    # Login only.
    version_max = Field(2, 1)
    version_min = Field(3, 1)
    tsih = Field(14, 2)
    cid = Field(20, 2)
    status_class = Field(36, 1)
    status_detail = Field(37, 1)

    @property
    def opcode(self) -> int:
        return self.bhs[0] & 0x3F

    @property
    def immediate(self) -> bool:
        return bool(self.bhs[0] & 0x40)

    @immediate.setter
    def immediate(self, value: bool) -> None:
        self.bhs[0] = self.bhs[0] & ~0x40 | (0x40 if value else 0)

    @property
    def final(self) -> bool:
        return bool(self.flags & FINAL)

    @property
    def isid(self) -> bytes:
        return bytes(self.bhs[8:14])

    @isid.setter
    def isid(self, value: bytes) -> None:
        self.bhs[8:14] = value.ljust(6, b"\0")[:6]

    @property
    def cdb(self) -> bytes:
        return bytes(self.bhs[32:48])

    @cdb.setter
    def cdb(self, value: bytes) -> None:
        self.bhs[32:48] = value[:16].ljust(16, b"\0")

    def encode(
        self,
        *,
        header_digest: bool = False,
        data_digest: bool = False,
        lengths: bool = True,
        header_digest_xor: int = 0,
        data_digest_xor: int = 0,
    ) -> bytes:
        """The bytes for the wire; an xor other than 0 spoils that digest."""
        return b"".join(
            self.segments(
                header_digest=header_digest,
                data_digest=data_digest,
                lengths=lengths,
                header_digest_xor=header_digest_xor,
                data_digest_xor=data_digest_xor,
            )
        )

    def segments(
        self,
        *,
        header_digest: bool = False,
        data_digest: bool = False,
        lengths: bool = True,
        header_digest_xor: int = 0,
        data_digest_xor: int = 0,
    ) -> list[bytes | memoryview]:
        """As `encode`, with the data left where they are."""
        ahs = padded(self.ahs)
        if lengths:
            self.ahs_words = len(ahs) // 4
            self.data_length = len(self.data)
        header = bytes(self.bhs) + ahs
        if header_digest:
            header += digest(header, header_digest_xor)
        parts: list[bytes | memoryview] = [header]
        if len(self.data):
            parts.append(self.data)
            if padding := bytes(-len(self.data) % 4):
                parts.append(padding)
            if data_digest:
                parts.append(digest([self.data, padding], data_digest_xor))
        return parts

    def __str__(self) -> str:
        try:
            name = Opcode(self.opcode).name
        except ValueError:
            name = f"opcode 0x{self.opcode:02x}"
        return f"{name} {self.bhs.hex(' ', 4)} + {len(self.data)} bytes"


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def digest(data: bytes | Iterable[bytes | memoryview], xor: int = 0) -> bytes:
    """CRC32C, which iSCSI puts on the wire least significant byte first."""
    crc = 0
    for part in [data] if isinstance(data, bytes) else data:
        crc = crc32c(part, crc)
    return (crc ^ xor).to_bytes(DIGEST_BYTES, "little")


def lun_field(lun: int) -> int:
    """A LUN as its eight bytes: peripheral addressing under 256, flat addressing from there on."""
    return lun << 48 if lun < 256 else (0x4000 | lun) << 48


Keys = Mapping[str, str] | Iterable[tuple[str, str]]


def encode_keys(keys: Keys) -> bytes:
    pairs = keys.items() if isinstance(keys, Mapping) else keys
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)


def decode_keys(data: bytes | memoryview) -> dict[str, str]:
    """The last of two equal keys would win silently, so that is an error here."""
    keys: dict[str, str] = {}
    for pair in bytes(data).split(b"\0"):
        if pair:
            name, equals, value = pair.decode().partition("=")
            if not equals or name in keys:
                raise ValueError(f"not key=value pairs, or a key twice: {bytes(data)!r}")
            keys[name] = value
    return keys


# One function for each PDU an initiator sends. All numbers are the caller's.


def _pdu(
    opcode: Opcode, flags: int, *, immediate: bool = False, data: bytes | memoryview = b""
) -> Pdu:
    pdu = Pdu(data=data)
    pdu.bhs[0] = opcode
    pdu.immediate = immediate
    pdu.flags = flags
    return pdu


def login_request(
    *,
    itt: int,
    cmd_sn: int,
    exp_stat_sn: int,
    csg: int,
    nsg: int = 0,
    transit: bool = False,
    more: bool = False,
    isid: bytes,
    tsih: int = 0,
    cid: int = 0,
    data: bytes = b"",
    version_max: int = 0,
    version_min: int = 0,
) -> Pdu:
    flags = (0x80 if transit else 0) | (0x40 if more else 0) | csg << 2 | nsg
    pdu = _pdu(Opcode.LOGIN, flags, immediate=True, data=data)
    pdu.version_max, pdu.version_min = version_max, version_min
    pdu.isid = isid
    pdu.tsih, pdu.cid = tsih, cid
    pdu.itt, pdu.cmd_sn, pdu.exp_stat_sn = itt, cmd_sn, exp_stat_sn
    return pdu


def scsi_command(
    *,
    itt: int,
    lun: int,
    cdb: bytes,
    cmd_sn: int,
    exp_stat_sn: int,
    edtl: int = 0,
    read: bool = False,
    write: bool = False,
    final: bool = True,
    attribute: int = Attribute.SIMPLE,
    immediate: bool = False,
    data: bytes | memoryview = b"",
    ahs: bytes = b"",
) -> Pdu:
    flags = (FINAL if final else 0) | (0x40 if read else 0) | (0x20 if write else 0) | attribute
    pdu = _pdu(Opcode.SCSI_COMMAND, flags, immediate=immediate, data=data)
    pdu.ahs = ahs
    pdu.lun_bytes = lun_field(lun)
    pdu.itt, pdu.edtl, pdu.cmd_sn, pdu.exp_stat_sn = itt, edtl, cmd_sn, exp_stat_sn
    pdu.cdb = cdb
    return pdu


def extended_cdb_ahs(cdb: bytes) -> bytes:
    """The additional header that carries what of a CDB is behind its sixteenth byte."""
    rest = cdb[16:]
    return (len(rest) + 1).to_bytes(2) + b"\x01\0" + rest


def bidirectional_ahs(read_length: int) -> bytes:
    return b"\0\x05\x02\0" + read_length.to_bytes(4)


def data_out(
    *,
    itt: int,
    lun: int,
    ttt: int,
    exp_stat_sn: int,
    data_sn: int,
    offset: int,
    data: bytes | memoryview,
    final: bool,
) -> Pdu:
    pdu = _pdu(Opcode.DATA_OUT, FINAL if final else 0, data=data)
    pdu.lun_bytes = lun_field(lun)
    pdu.itt, pdu.ttt, pdu.exp_stat_sn = itt, ttt, exp_stat_sn
    pdu.data_sn, pdu.buffer_offset = data_sn, offset
    return pdu


def nop_out(
    *,
    itt: int,
    cmd_sn: int,
    exp_stat_sn: int,
    ttt: int = NO_TAG,
    lun: int = 0,
    immediate: bool = False,
    data: bytes = b"",
) -> Pdu:
    pdu = _pdu(Opcode.NOP_OUT, FINAL, immediate=immediate, data=data)
    pdu.lun_bytes = lun_field(lun)
    pdu.itt, pdu.ttt, pdu.cmd_sn, pdu.exp_stat_sn = itt, ttt, cmd_sn, exp_stat_sn
    return pdu


def task_management(
    *,
    function: int,
    itt: int,
    cmd_sn: int,
    exp_stat_sn: int,
    lun: int = 0,
    referenced_tag: int = NO_TAG,
    ref_cmd_sn: int = 0,
    exp_data_sn: int = 0,
    immediate: bool = True,
) -> Pdu:
    pdu = _pdu(Opcode.TASK_MANAGEMENT, FINAL | function, immediate=immediate)
    pdu.lun_bytes = lun_field(lun)
    pdu.itt, pdu.referenced_tag, pdu.ref_cmd_sn = itt, referenced_tag, ref_cmd_sn
    pdu.cmd_sn, pdu.exp_stat_sn, pdu.exp_data_sn = cmd_sn, exp_stat_sn, exp_data_sn
    return pdu


def text_request(
    *,
    itt: int,
    cmd_sn: int,
    exp_stat_sn: int,
    ttt: int = NO_TAG,
    final: bool = True,
    more: bool = False,
    immediate: bool = False,
    data: bytes = b"",
) -> Pdu:
    flags = (FINAL if final else 0) | (0x40 if more else 0)
    pdu = _pdu(Opcode.TEXT, flags, immediate=immediate, data=data)
    pdu.itt, pdu.ttt, pdu.cmd_sn, pdu.exp_stat_sn = itt, ttt, cmd_sn, exp_stat_sn
    return pdu


def logout_request(
    *,
    itt: int,
    cmd_sn: int,
    exp_stat_sn: int,
    reason: int = 0,
    cid: int = 0,
    immediate: bool = False,
) -> Pdu:
    pdu = _pdu(Opcode.LOGOUT, FINAL | reason, immediate=immediate)
    pdu.itt, pdu.cid, pdu.cmd_sn, pdu.exp_stat_sn = itt, cid, cmd_sn, exp_stat_sn
    return pdu


def snack_request(
    *, kind: int, itt: int, exp_stat_sn: int, ttt: int = NO_TAG, begin: int = 0, length: int = 0
) -> Pdu:
    pdu = _pdu(Opcode.SNACK, FINAL | kind)
    pdu.itt, pdu.ttt, pdu.exp_stat_sn = itt, ttt, exp_stat_sn
    pdu.buffer_offset, pdu.desired_length = begin, length
    return pdu
