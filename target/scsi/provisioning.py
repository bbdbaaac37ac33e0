"""Giving space back and filling it: UNMAP and WRITE SAME (SBC-3 5.28, 5.36 to 5.38).

Rules:

1. A parameter list is checked as a whole before anything is unmapped.
2. UNMAP asks for space to be given back; what is unmapped reads as zeros (LBPRZ).  Stores give back
   whole pages of theirs and zero the rest.
3. WRITE SAME of zeros zeroes the range, with UNMAP by giving its space back; of anything else it
   writes, UNMAP or not.  Nothing is ever answered GOOD that was not done.
4. However long the range, one segment of the pool is enough for the pattern: the scatter list of a
   window names it over and over.
5. Blocks cannot be anchored (ANC_SUP is 0): ANCHOR is refused.
6. WRITE SAME has exactly one block of data-out, or none with NDOB.  An initiator that expects to
   send more or less means something else than its CDB says, and nothing is written.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.block.pool import SEGMENT_BYTES, Buffers, views_of
from target.scsi import limits
from target.scsi.cdb import BLOCKS_AT, PROTECT, block_range, data_out, out_of_range, refuse
from target.scsi.command import Command, Kind, Step, usage
from target.scsi.request import Direction
from target.scsi.sense import (
    INVALID_FIELD_IN_COMMAND_IU,
    INVALID_FIELD_IN_PARAMETERS,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_UNMAP: Final = 0x08
_ANCHOR: Final = 0x10
_OBSOLETE_DATA: Final = 0x06  # PBDATA, LBDATA: write addresses instead of the block (SBC-2)
_NDOB: Final = 0x01

_LIST_HEADER_BYTES: Final = 8
_LIST_HEADER: Final = struct.Struct(">HH4x")
_DESCRIPTOR: Final = struct.Struct(">QI4x")


def commands(disk: DiskDevice) -> list[Command]:
    """UNMAP and WRITE SAME for a disk."""

    def start_unmap(req: SCSIRequest) -> None:
        disk.check_writable()
        req.run(_unmap(disk, req))

    def start_write_same(req: SCSIRequest) -> None:
        disk.check_writable()
        if req.direction and req.expected != req.length:
            raise CheckCondition(INVALID_FIELD_IN_COMMAND_IU)  # rule 6
        req.run(_write_same(disk, req))

    return [
        Command(
            "UNMAP",
            Kind.WRITE,
            usage("42 01 00 00 00 00 00 ff ff 04"),
            _parse_unmap,
            start_unmap,
        ),
        Command(
            "WRITE SAME(10)",
            Kind.WRITE,
            usage("41 18 ff ff ff ff 00 ff ff 04"),
            _parse_write_same(disk, 10),
            start_write_same,
        ),
        Command(
            "WRITE SAME(16)",
            Kind.WRITE,
            usage("93 19 ff ff ff ff ff ff ff ff ff ff ff ff 00 04"),
            _parse_write_same(disk, 16),
            start_write_same,
        ),
    ]


async def _zero(disk: DiskDevice, lba: int, blocks: int, *, unmap: bool) -> None:
    """Zeros, piece by piece, so that an abort and other commands get their turn."""
    offset, left = lba * disk.block_bytes, blocks * disk.block_bytes
    while left:
        nbytes = min(left, limits.ZERO_BYTES_MAX)
        await disk.volume.zero(offset, nbytes, unmap=unmap)
        offset += nbytes
        left -= nbytes
        if left:
            await disk.give_way()


# --- UNMAP ----------------------------------------------------------------------------------------

_parse_list_length = data_out(7, 2)


def _parse_unmap(req: SCSIRequest) -> None:
    _parse_list_length(req)
    if req.cdb[1] & 1:
        raise refuse(1, 0)  # ANCHOR


async def _unmap(disk: DiskDevice, req: SCSIRequest) -> None:
    data = await req.receive_parameters()
    for lba, blocks in joined(unmap_ranges(disk, data, req.length)):
        await _zero(disk, lba, blocks, unmap=True)
    req.complete()


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same blocks, with ranges that follow one another as one: one I/O, and larger holes."""
    found: list[tuple[int, int]] = []
    for lba, blocks in ranges:
        if found and sum(found[-1]) == lba:
            lba, blocks = found[-1][0], found.pop()[1] + blocks
        found.append((lba, blocks))
    return found


def unmap_ranges(disk: DiskDevice, data: bytes, list_bytes: int) -> list[tuple[int, int]]:
    """(LBA, number of blocks) of each descriptor of a parameter list of ``list_bytes`` (rule 1)."""
    if not list_bytes:
        return []
    if len(data) < list_bytes or list_bytes < _LIST_HEADER_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    _, descriptor_bytes = _LIST_HEADER.unpack_from(data)
    if descriptor_bytes > len(data) - _LIST_HEADER_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    count = descriptor_bytes // _DESCRIPTOR.size  # an incomplete last one is ignored
    if count > limits.UNMAP_DESCRIPTORS_MAX:
        raise CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(2, in_cdb=False))
    ranges = []
    blocks_left = limits.UNMAP_BYTES_MAX // disk.block_bytes
    for i in range(count):
        at = _LIST_HEADER_BYTES + i * _DESCRIPTOR.size
        lba, blocks = _DESCRIPTOR.unpack_from(data, at)
        if lba + blocks > disk.blocks:
            raise CheckCondition(out_of_range(disk, lba))
        blocks_left -= blocks
        if blocks_left < 0:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(at + 8, in_cdb=False))
        ranges.append((lba, blocks))
    return ranges


# --- WRITE SAME -----------------------------------------------------------------------------------


def _parse_write_same(disk: DiskDevice, cdb_bytes: int) -> Step:
    refused = PROTECT | _ANCHOR | _OBSOLETE_DATA
    if cdb_bytes == 10:
        refused |= _NDOB  # only WRITE SAME(16) has it
    blocks_max = limits.WRITE_SAME_BYTES_MAX // disk.block_bytes
    parse_range = block_range(
        disk, cdb_bytes, Direction.NONE, refused=refused, blocks_max=blocks_max
    )

    def parse(req: SCSIRequest) -> None:
        parse_range(req)
        if not req.blocks:
            raise refuse(BLOCKS_AT[cdb_bytes])  # "the rest" is more than WSNZ allows
        if not req.cdb[1] & _NDOB:
            req.direction = Direction.TO_DEVICE
            req.length = disk.block_bytes

    return parse


async def _write_same(disk: DiskDevice, req: SCSIRequest) -> None:
    pattern = await req.receive_parameters()
    if any(pattern):
        await _fill(disk, req, pattern)
    else:
        await _zero(disk, req.lba, req.blocks, unmap=bool(req.cdb[1] & _UNMAP))
    req.complete()


async def _fill(disk: DiskDevice, req: SCSIRequest, pattern: bytes) -> None:
    """Rule 4.  The writes go through the store's own threads: the loop is for others meanwhile."""
    volume = disk.volume
    share = req.hba.share
    offset, left = req.lba * disk.block_bytes, req.blocks * disk.block_bytes
    segments = await Buffers(share, 1)
    try:
        segments[0][:] = pattern * (SEGMENT_BYTES // len(pattern))
        window = segments * (limits.WINDOW_BYTES // SEGMENT_BYTES)
        turn = limits.TURN_BYTES_MAX
        while left:
            nbytes = min(left, limits.WINDOW_BYTES)
            await volume.write(offset, views_of(window, nbytes), nbytes)
            offset += nbytes
            left -= nbytes
            turn -= nbytes
            if turn <= 0:
                turn = limits.TURN_BYTES_MAX
                await disk.give_way()
    finally:
        share.give(segments)
