"""READ and WRITE, 6, 10, 12 and 16 (SBC-3 5.10 to 5.13 and 5.32 to 5.35): the hot path.

Rules:

1. What is at hand is done in ``start``, without waiting and without a coroutine: a read whose
   segments are free and whose bytes are cached; a write whose data came with the command.  Data
   that can be written on the spot is, from where it was received, without being copied.
2. Everything else runs in windows of at most ``WINDOW_BYTES``, so that memory does not grow with
   the command.
3. If the initiator expects fewer bytes than the CDB says, as many are read, and as many *whole*
   blocks written: a block is never written in part.  The HBA reports the residual.
4. FUA: a write is on stable storage before it is answered.  A read is preceded by a flush while the
   volume caches writes, so that what it returns is what the medium has (SBC-3 4.15.4).  DPO is a
   hint for a cache that is the kernel's, not ours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from target.block.extents import cut_buffers
from target.block.pool import SEGMENT_BYTES, views_of
from target.scsi.cdb import DPO, FUA, NACA, PROTECT, RANGES, out_of_range, range_sense, refuse
from target.scsi.command import Command, Kind, Step, usage
from target.scsi.limits import TRANSFER_BYTES_MAX, WINDOW_BYTES
from target.scsi.request import Direction, Solicited
from target.scsi.sense import CheckCondition

if TYPE_CHECKING:
    from target.block.volume import Volume
    from target.scsi.disk import DiskDevice
    from target.scsi.request import Chunk, SCSIRequest

_CDB6: Final = struct.Struct(">IBB").unpack_from  # opcode and 21 bits of LBA, blocks, CONTROL
_LBA6: Final = 0x1FFFFF
_BLOCKS6_OF_ZERO: Final = 256
assert DPO | FUA == 0x18  # of the usage data below


def commands(disk: DiskDevice) -> list[Command]:
    """READ and WRITE for a disk."""
    read, write = Direction.FROM_DEVICE, Direction.TO_DEVICE
    start_read, start_write = _start_read(disk), _start_write(disk)
    cold = [
        ("READ(6)", Kind.READ, "08 1f ff ff ff 04", _parse6(disk, read), start_read),
        ("WRITE(6)", Kind.WRITE, "0a 1f ff ff ff 04", _parse6(disk, write), start_write),
    ]
    for size, read_opcode, write_opcode, rest in (
        (10, "28", "2a", " 18 ff ff ff ff 00 ff ff 04"),
        (12, "a8", "aa", " 18 ff ff ff ff ff ff ff ff 00 04"),
        (16, "88", "8a", " 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 04"),
    ):
        parse_read, parse_write = _parse(disk, size, read), _parse(disk, size, write)
        cold += [
            (f"READ({size})", Kind.READ, read_opcode + rest, parse_read, start_read),
            (f"WRITE({size})", Kind.WRITE, write_opcode + rest, parse_write, start_write),
        ]
    return [Command(name, kind, usage(bits), p, s) for name, kind, bits, p, s in cold]


# --- parsing --------------------------------------------------------------------------------------


def _parse(disk: DiskDevice, cdb_bytes: int, direction: Direction) -> Step:
    """``cdb.block_range`` in line: this runs for every command."""
    unpack = RANGES[cdb_bytes]
    block_bytes = disk.block_bytes
    blocks_max = TRANSFER_BYTES_MAX // block_bytes
    way = int(direction)
    unusual = PROTECT | FUA

    def parse(req: SCSIRequest) -> None:
        flags, lba, blocks, control = unpack(req.cdb)
        wrong = False
        if flags & unusual or control:
            wrong = bool(flags & PROTECT or control & NACA)
            req.fua = bool(flags & FUA)
        if wrong or blocks > blocks_max or lba + blocks > disk.blocks:
            raise CheckCondition(range_sense(disk, cdb_bytes, req.cdb, PROTECT, blocks_max))
        req.direction = way
        req.lba = lba
        req.blocks = blocks
        req.length = blocks * block_bytes

    return parse


def _parse6(disk: DiskDevice, direction: Direction) -> Step:
    block_bytes = disk.block_bytes
    way = int(direction)

    def parse(req: SCSIRequest) -> None:
        word, blocks, control = _CDB6(req.cdb)
        lba = word & _LBA6
        blocks = blocks or _BLOCKS6_OF_ZERO
        if control & NACA:
            raise refuse(5, 2)
        if lba + blocks > disk.blocks:
            raise CheckCondition(out_of_range(disk, lba))
        req.direction = way
        req.lba = lba
        req.blocks = blocks
        req.length = blocks * block_bytes

    return parse


# --- reading --------------------------------------------------------------------------------------


def _start_read(disk: DiskDevice) -> Step:
    volume = disk.volume
    block_bytes = disk.block_bytes

    def start(req: SCSIRequest) -> None:
        if disk.unreadable is not None:
            raise CheckCondition(disk.unreadable)
        nbytes = req.transfer
        if nbytes and nbytes <= WINDOW_BYTES and not req.fua:
            hba = req.hba
            share = hba.share
            count = 1 if nbytes <= SEGMENT_BYTES else -(-nbytes // SEGMENT_BYTES)
            segments = share.take(count)
            if segments is not None:
                if nbytes < SEGMENT_BYTES:
                    views = [segments[0][:nbytes]]
                elif nbytes == SEGMENT_BYTES:
                    views = segments
                else:
                    views = views_of(segments, nbytes)
                try:
                    at_hand = volume.read_now(req.lba * block_bytes, views, nbytes)
                except BaseException:
                    share.give(segments)
                    raise
                if at_hand:
                    req.moved = nbytes
                    if not hba.answer(req, views, segments):
                        hba.data_in(req, views, segments)
                        req.complete()
                else:
                    req.run(_read_into(volume, req, segments, views, nbytes))
                return
        req.run(_read(volume, req))

    return start


async def _read_into(
    volume: Volume,
    req: SCSIRequest,
    segments: list[memoryview],
    views: list[memoryview],
    nbytes: int,
) -> None:
    """All of a read that fits the segments which have been taken for it."""
    try:
        found = await volume.fetch(req.lba * volume.block_bytes, views, nbytes)
    except BaseException:
        req.hba.share.give(segments)
        raise
    req.moved = nbytes
    # Where the data are not in the segments, these stand for them: data in flight stay bounded.
    req.hba.data_in(req, found, segments)
    req.complete()


async def _read(volume: Volume, req: SCSIRequest) -> None:
    if req.fua and volume.write_cache and not volume.read_only:
        await volume.flush()
    offset = req.lba * volume.block_bytes
    while rest := req.transfer - req.moved:
        segments = await req.buffers(rest)
        nbytes = min(rest, len(segments) * SEGMENT_BYTES)
        views: Sequence[memoryview] = views_of(segments, nbytes)
        try:
            if not volume.read_now(offset, views, nbytes):
                views = await volume.fetch(offset, views, nbytes)
        except BaseException:
            req.hba.share.give(segments)
            raise
        req.send(views, nbytes, segments)
        offset += nbytes
        if nbytes < rest:
            await req.sent()
    req.complete()


# --- writing --------------------------------------------------------------------------------------


def _start_write(disk: DiskDevice) -> Step:
    volume = disk.volume
    block_bytes = disk.block_bytes

    def start(req: SCSIRequest) -> None:
        if disk.unwritable is not None:
            raise CheckCondition(disk.unwritable)
        nbytes = req.transfer
        if nbytes == req.length and not req.early_missing:
            early = req.early_length
            if early == nbytes:
                if not req.fua and volume.write_now(req.lba * block_bytes, req.early, nbytes):
                    req.moved = nbytes
                    req.complete()
                else:
                    req.run(_write_early(volume, req, nbytes))
                return
            if (
                req.early_transient
                and not (early % block_bytes or req.fua)
                and volume.write_now(req.lba * block_bytes, req.early, early)
            ):
                req.early_used()
            if nbytes - req.moved <= WINDOW_BYTES:
                rest = nbytes - early
                segments = req.hba.share.take((rest + SEGMENT_BYTES - 1) // SEGMENT_BYTES)
                if segments is not None:
                    req.run(_write_rest(volume, req, segments, rest))
                    return
        req.run(_write(volume, req))

    return start


async def _write_early(volume: Volume, req: SCSIRequest, nbytes: int) -> None:
    """All of a write whose data came with the command."""
    await volume.write(req.lba * volume.block_bytes, req.early, nbytes, req.fua)
    req.moved = nbytes
    req.complete()


async def _write_rest(
    volume: Volume, req: SCSIRequest, segments: list[memoryview], rest: int
) -> None:
    """A write the rest of whose data fits ``segments``.

    What has come with the command is written already, or goes with the rest: one I/O of a store
    that is far away, not two in turn.
    """
    offset = req.lba * volume.block_bytes + req.moved
    nbytes = req.transfer - req.moved
    req.moved = req.transfer - rest
    try:
        views = segments
        if rest & SEGMENT_BYTES - 1:
            views = views_of(segments, rest)
        here = await Solicited(req, views, rest, in_place=True)
        early = req.early
        data = [*early, *views] if here is None else [*early, here]
        if req.fua or not volume.write_now(offset, data, nbytes):
            if here is not None:  # the receive buffer goes on: a copy, which the segments stand for
                data = [memoryview(b"".join(data))]
            await volume.write(offset, data, nbytes, req.fua)
        req.moved += rest
    finally:
        req.hba.share.give(segments)
    req.complete()


async def _write(volume: Volume, req: SCSIRequest) -> None:
    blocks = WholeBlocks(req, volume.block_bytes)
    offset = req.lba * volume.block_bytes + req.moved
    while blocks.left:
        try:
            views, nbytes = await blocks.next()
            if req.fua or not volume.write_now(offset, views, nbytes):
                await volume.write(offset, views, nbytes, req.fua)
            offset += nbytes
        finally:
            blocks.release()
    req.complete()


class WholeBlocks:
    """The data-out of a request in windows of whole blocks.

    Data that comes with a command may end in the middle of a block.  Such a tail (less than a
    block) is carried over to the front of the next window.  ``with_scratch``: each window comes
    with a second scatter list, as long as what was received, to read into.
    """

    def __init__(self, req: SCSIRequest, block_bytes: int, *, with_scratch: bool = False) -> None:
        self.scratch: Sequence[memoryview] = ()
        self._with_scratch = with_scratch
        self._req = req
        self._block_bytes = block_bytes
        # Bytes still to be given out.
        self.left = req.transfer - req.transfer % block_bytes - req.moved
        self._tail = b""
        self._chunks: tuple[Chunk, ...] = ()

    async def next(self) -> tuple[list[memoryview], int]:
        """The next window; it may be empty.  It is the caller's until ``release``."""
        if self._with_scratch:
            chunk, scratch = await self._req.receive_with_scratch()
            self._chunks = (chunk, scratch)
            self.scratch = scratch.views
        else:
            chunk = await self._req.receive()
            self._chunks = (chunk,)
        views, nbytes = chunk.views, chunk.nbytes
        if self._tail:
            views = [memoryview(self._tail), *views]
            nbytes += len(self._tail)
        whole = min(nbytes - nbytes % self._block_bytes, self.left)
        self.left -= whole
        if whole == nbytes:
            self._tail = b""
        else:
            if self.left:
                self._tail = b"".join(cut_buffers(views, whole, nbytes - whole))
            views = list(cut_buffers(views, 0, whole))
        return views, whole

    def release(self) -> None:
        """The window is done with."""
        for chunk in self._chunks:
            chunk.release()
