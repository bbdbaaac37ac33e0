"""Parsing the common shapes of CDBs: the ``parse`` functions of the opcode tables are made here.

A shape is checked and unpacked in one go.  What is wrong with a CDB is worked out only when
something is: the way of a good command stays short.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.scsi.command import Step, check_control
from target.scsi.request import Direction
from target.scsi.sense import INVALID_FIELD_IN_CDB, LBA_OUT_OF_RANGE, CheckCondition, Sense

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

NACA: Final = 0x04  # of the CONTROL byte
PROTECT: Final = 0xE0  # RDPROTECT, WRPROTECT, VRPROTECT: protection information is not supported
DPO: Final = 0x10
FUA: Final = 0x08

# Flags of byte 1, LBA, number of blocks, CONTROL; by the length of the CDB (SPC-4 4.3.3).
RANGES: Final[dict[int, Callable[[bytes], tuple[int, int, int, int]]]] = {
    10: struct.Struct(">xBIxHB").unpack_from,
    12: struct.Struct(">xBIIxB").unpack_from,
    16: struct.Struct(">xBQIxB").unpack_from,
}
BLOCKS_AT: Final = {10: 7, 12: 6, 16: 10}


def no_data(req: SCSIRequest) -> None:
    """A command without a data phase."""
    check_control(req)


def data_in(at: int, size: int) -> Step:
    """Parameter data for the initiator: the ALLOCATION LENGTH is in ``size`` bytes at ``at``."""

    def parse(req: SCSIRequest) -> None:
        check_control(req)
        req.direction = Direction.FROM_DEVICE
        req.length = int.from_bytes(req.cdb[at : at + size], "big")

    return parse


def data_out(at: int, size: int) -> Step:
    """A parameter list from the initiator: its length is in ``size`` bytes at ``at``."""

    def parse(req: SCSIRequest) -> None:
        check_control(req)
        req.direction = Direction.TO_DEVICE
        req.length = int.from_bytes(req.cdb[at : at + size], "big")

    return parse


def refuse(byte: int, bit: int | None = None) -> CheckCondition:
    """INVALID FIELD IN CDB with its field pointer."""
    return CheckCondition(INVALID_FIELD_IN_CDB.field(byte, bit))


def block_range(
    disk: DiskDevice,
    cdb_bytes: int,
    direction: Direction,
    *,
    refused: int = PROTECT,
    blocks_max: int = 0xFFFFFFFF,
) -> Step:
    """Commands on a range of blocks: LBA and count are checked, the length is that of the range.

    ``refused`` are the bits of byte 1 that must be zero.
    """
    unpack = RANGES[cdb_bytes]
    block_bytes = disk.block_bytes

    def parse(req: SCSIRequest) -> None:
        flags, lba, blocks, control = unpack(req.cdb)
        if flags & refused or control & NACA or blocks > blocks_max or lba + blocks > disk.blocks:
            raise CheckCondition(range_sense(disk, cdb_bytes, req.cdb, refused, blocks_max))
        req.lba = lba
        req.blocks = blocks
        if direction:
            req.direction = direction
            req.length = blocks * block_bytes

    return parse


def range_sense(
    disk: DiskDevice, cdb_bytes: int, cdb: bytes, refused: int, blocks_max: int
) -> Sense:
    """What is wrong with a CDB that ``block_range`` does not take."""
    flags, lba, blocks, control = RANGES[cdb_bytes](cdb)
    if flags & refused:
        return INVALID_FIELD_IN_CDB.field(1, (flags & refused).bit_length() - 1)
    if control & NACA:
        return INVALID_FIELD_IN_CDB.field(cdb_bytes - 1, 2)
    if lba + blocks > disk.blocks:
        return out_of_range(disk, lba)
    assert blocks > blocks_max
    return INVALID_FIELD_IN_CDB.field(BLOCKS_AT[cdb_bytes])


def out_of_range(disk: DiskDevice, lba: int) -> Sense:
    """INFORMATION is the first LBA of the range that does not exist (SPC-4 4.5.2.2)."""
    return LBA_OUT_OF_RANGE.at(max(lba, disk.blocks))
