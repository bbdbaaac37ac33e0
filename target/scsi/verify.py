"""VERIFY, WRITE AND VERIFY, COMPARE AND WRITE (SBC-3 5.29 to 5.31, 5.39 to 5.41, 5.2).

Rules:

1. BYTCHK 00b: the blocks can be read.  01b: they equal the data-out, byte by byte.  11b: each
   equals the one block of data-out.  10b is refused, and for WRITE AND VERIFY 11b too: that would
   be a WRITE SAME.
2. A difference ends in MISCOMPARE with its offset in bytes from the first block, as INFORMATION.
3. WRITE AND VERIFY has its data on stable storage before it reads it back.
4. COMPARE AND WRITE takes exactly the data that its CDB speaks of.  Where the initiator expects to
   send more or less, the two sides disagree about where the comparison ends and the new data
   begins: nothing may be written, and INVALID FIELD IN CDB says so.  Zero blocks and zero bytes is
   a command that does nothing, well.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import eq
from typing import TYPE_CHECKING, Final

from target.block.extents import cut_buffers
from target.block.pool import SEGMENT_BYTES, Buffers, segments_for, views_of
from target.scsi.cdb import FUA, NACA, PROTECT, block_range, out_of_range, refuse
from target.scsi.command import Command, Kind, Step, usage
from target.scsi.limits import TRANSFER_BYTES_MAX, TURN_BYTES_MAX, WINDOW_BYTES
from target.scsi.readwrite import WholeBlocks
from target.scsi.request import Direction
from target.scsi.sense import INVALID_FIELD_IN_COMMAND_IU, MISCOMPARE, CheckCondition

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_BYTCHK_BIT: Final = 2
_MEDIUM: Final = 0
_COMPARE: Final = 1
_RESERVED: Final = 2
_COMPARE_ONE: Final = 3

# Flags, LBA, number of blocks, CONTROL
_COMPARE_AND_WRITE: Final = struct.Struct(">xBQ3xBxB").unpack_from
_COMPARE_AND_WRITE_BLOCKS_AT: Final = 13

_ROWS: Final = (
    (10, "2f", "2e", " 16 ff ff ff ff 00 ff ff 04"),
    (12, "af", "ae", " 16 ff ff ff ff ff ff ff ff 00 04"),
    (16, "8f", "8e", " 16 ff ff ff ff ff ff ff ff ff ff ff ff 00 04"),
)


def commands(disk: DiskDevice) -> list[Command]:
    """The comparing commands for a disk."""

    def start_verify(req: SCSIRequest) -> None:
        disk.check_readable()
        if _bytchk(req) == _COMPARE_ONE and req.expected != req.length:
            raise CheckCondition(INVALID_FIELD_IN_COMMAND_IU)  # not one block
        req.run(_VERIFY[_bytchk(req)](disk, req))

    def start_write_and_verify(req: SCSIRequest) -> None:
        disk.check_writable()
        req.run(_write_and_verify(disk, req))

    rows = [
        Command(
            "COMPARE AND WRITE",
            Kind.EXCLUSIVE,
            usage("89 18 ff ff ff ff ff ff ff ff 00 00 00 ff 00 04"),
            _parse_compare_and_write(disk),
            _start_compare_and_write(disk),
        )
    ]
    for size, verify, write, rest in _ROWS:
        parse_verify, parse_write = _parse_verify(disk, size), _parse_write_and_verify(disk, size)
        rows += [
            Command(f"VERIFY({size})", Kind.READ, usage(verify + rest), parse_verify, start_verify),
            Command(
                f"WRITE AND VERIFY({size})",
                Kind.WRITE,
                usage(write + rest),
                parse_write,
                start_write_and_verify,
            ),
        ]
    return rows


def _bytchk(req: SCSIRequest) -> int:
    return req.cdb[1] >> 1 & 3


# --- comparing ------------------------------------------------------------------------------------


def first_difference(found: Sequence[memoryview], wanted: Sequence[memoryview]) -> int | None:
    """Where two scatter lists of one length differ first; None if nowhere."""
    at = 0
    for view in wanted:
        for piece in cut_buffers(found, at, len(view)):
            here = view[: len(piece)]
            # One copy, and then memcmp: comparing two memoryviews goes element by element.
            if bytes(piece) != here:
                return at + list(map(eq, piece, here)).index(False)
            at += len(piece)
            view = view[len(piece) :]
    return None


async def _check(
    disk: DiskDevice,
    req: SCSIRequest,
    at: int,
    scratch: Sequence[memoryview],
    wanted: Sequence[memoryview],
) -> None:
    """What is at byte ``at`` of the request's range is ``wanted`` (rule 2)."""
    nbytes = sum(map(len, wanted))
    await disk.volume.read(req.lba * disk.block_bytes + at, scratch, nbytes)
    different = first_difference(scratch, wanted)
    if different is not None:
        raise CheckCondition(MISCOMPARE.at(at + different))


# --- VERIFY ---------------------------------------------------------------------------------------


def _parse_verify(disk: DiskDevice, cdb_bytes: int) -> Step:
    blocks_max = TRANSFER_BYTES_MAX // disk.block_bytes
    parse_range = block_range(disk, cdb_bytes, Direction.NONE, blocks_max=blocks_max)

    def parse(req: SCSIRequest) -> None:
        parse_range(req)
        match _bytchk(req):
            case 2:
                raise refuse(1, _BYTCHK_BIT)
            case 1:
                req.direction = Direction.TO_DEVICE
                req.length = req.blocks * disk.block_bytes
            case 3:
                req.direction = Direction.TO_DEVICE
                req.length = disk.block_bytes if req.blocks else 0

    return parse


async def _verify_medium(disk: DiskDevice, req: SCSIRequest) -> None:
    await read_through(disk, req, req.blocks * disk.block_bytes)
    req.complete()


async def read_through(disk: DiskDevice, req: SCSIRequest, nbytes: int) -> None:
    """Read that much from the request's LBA on, to no end but reading it."""
    share = req.hba.share
    offset = req.lba * disk.block_bytes
    turn = TURN_BYTES_MAX
    while nbytes:
        segments = await Buffers(share, segments_for(min(nbytes, WINDOW_BYTES)))
        count = min(nbytes, len(segments) * SEGMENT_BYTES)
        try:
            await disk.volume.read(offset, views_of(segments, count), count)
        finally:
            share.give(segments)
        offset += count
        nbytes -= count
        turn -= count
        if turn <= 0:
            turn = TURN_BYTES_MAX
            await disk.give_way()


async def _verify_compare(disk: DiskDevice, req: SCSIRequest) -> None:
    while (at := req.moved) < req.transfer:
        chunk, scratch = await req.receive_with_scratch()
        try:
            await _check(disk, req, at, scratch.views, chunk.views)
        finally:
            chunk.release()
            scratch.release()
    req.complete()


async def _verify_compare_one(disk: DiskDevice, req: SCSIRequest) -> None:
    block = await req.receive_parameters()
    share = req.hba.share
    wanted = memoryview(block * (SEGMENT_BYTES // disk.block_bytes))
    at, end = 0, req.blocks * disk.block_bytes
    turn = TURN_BYTES_MAX
    while at < end:
        segments = await Buffers(share, segments_for(min(end - at, WINDOW_BYTES)))
        nbytes = min(end - at, len(segments) * SEGMENT_BYTES)
        views = views_of(segments, nbytes)
        try:
            await _check(disk, req, at, views, [wanted[: len(view)] for view in views])
        finally:
            share.give(segments)
        at += nbytes
        turn -= nbytes
        if turn <= 0:
            turn = TURN_BYTES_MAX
            await disk.give_way()
    req.complete()


_VERIFY: Final = {
    _MEDIUM: _verify_medium,
    _COMPARE: _verify_compare,
    _COMPARE_ONE: _verify_compare_one,
}


# --- WRITE AND VERIFY -----------------------------------------------------------------------------


def _parse_write_and_verify(disk: DiskDevice, cdb_bytes: int) -> Step:
    blocks_max = TRANSFER_BYTES_MAX // disk.block_bytes
    parse_range = block_range(disk, cdb_bytes, Direction.TO_DEVICE, blocks_max=blocks_max)

    def parse(req: SCSIRequest) -> None:
        parse_range(req)
        if _bytchk(req) in (_RESERVED, _COMPARE_ONE):
            raise refuse(1, _BYTCHK_BIT)

    return parse


async def _write_and_verify(disk: DiskDevice, req: SCSIRequest) -> None:
    blocks = WholeBlocks(req, disk.block_bytes, with_scratch=True)
    offset = req.lba * disk.block_bytes
    at = 0
    while blocks.left:
        try:
            views, nbytes = await blocks.next()
            if nbytes:
                await disk.volume.write(offset + at, views, nbytes, True)
                await _read_back(disk, req, at, blocks.scratch, views, nbytes)
            at += nbytes
        finally:
            blocks.release()
    req.complete()


async def _read_back(
    disk: DiskDevice,
    req: SCSIRequest,
    at: int,
    scratch: Sequence[memoryview],
    views: Sequence[memoryview],
    nbytes: int,
) -> None:
    """In pieces: a window may be longer than its scratch list by less than a block."""
    scratch_bytes = sum(map(len, scratch))
    for done in range(0, nbytes, scratch_bytes):
        count = min(scratch_bytes, nbytes - done)
        into = cut_buffers(scratch, 0, count)
        if _bytchk(req) == _COMPARE:
            await _check(disk, req, at + done, into, cut_buffers(views, done, count))
        else:
            await disk.volume.read(req.lba * disk.block_bytes + at + done, into, count)


# --- COMPARE AND WRITE ----------------------------------------------------------------------------


def _parse_compare_and_write(disk: DiskDevice) -> Step:
    def parse(req: SCSIRequest) -> None:
        flags, lba, blocks, control = _COMPARE_AND_WRITE(req.cdb)
        if flags & PROTECT:
            raise refuse(1, 7)
        if control & NACA:
            raise refuse(15, 2)
        if blocks > disk.compare_and_write_blocks_max:
            raise refuse(_COMPARE_AND_WRITE_BLOCKS_AT)
        if lba + blocks > disk.blocks:
            raise CheckCondition(out_of_range(disk, lba))
        req.direction = Direction.TO_DEVICE
        req.lba = lba
        req.blocks = blocks
        req.length = 2 * blocks * disk.block_bytes
        req.fua = bool(flags & FUA)

    return parse


def _start_compare_and_write(disk: DiskDevice) -> Step:
    def start(req: SCSIRequest) -> None:
        disk.check_writable()
        if req.expected != req.length:
            raise refuse(_COMPARE_AND_WRITE_BLOCKS_AT)  # rule 4
        if req.length:
            req.run(_compare_and_write(disk, req))
        else:
            req.complete()

    return start


async def _compare_and_write(disk: DiskDevice, req: SCSIRequest) -> None:
    half = req.length // 2
    chunk = await req.receive_all()
    try:
        await disk.volume.compare_and_write(
            req.lba * disk.block_bytes,
            cut_buffers(chunk.views, 0, half),
            cut_buffers(chunk.views, half, half),
            half,
            req.fua,
        )
    finally:
        chunk.release()
    req.complete()
