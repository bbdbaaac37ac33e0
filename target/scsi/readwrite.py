"""READ and WRITE (SBC-3 5.10 to 5.13, 5.28 to 5.31): the hot path.

A CDB is parsed by one ``unpack``.  A command whose data is at hand is one straight pass; every
other one goes on as a coroutine in windows, so that nothing grows with its length.

FUA and DPO.  A FUA write reaches stable storage before its status.  A FUA read needs nothing
special: what the store would read from its medium is what its cache holds.  DPO is a hint about
caching and is accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.block.extents import cut_buffers
from target.block.pool import SEGMENT_BYTES, views_of
from target.scsi.command import Command, Kind, Step, usage
from target.scsi.limits import TRANSFER_BYTES_MAX
from target.scsi.request import WINDOW_BYTES, Direction, SCSIRequest
from target.scsi.sense import INVALID_FIELD_IN_CDB, LBA_OUT_OF_RANGE, CheckCondition

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice

Unpack = Callable[[bytes], tuple[int, ...]]
# Byte 1, LBA, number of blocks
UNPACK10: Final = struct.Struct(">xBIxH").unpack_from
UNPACK12: Final = struct.Struct(">xBII").unpack_from
UNPACK16: Final = struct.Struct(">xBQI").unpack_from
_PROTECT: Final = 0xE0
_FUA: Final = 0x08
_NACA: Final = 0x04


class ReadWrite:
    """The READ and WRITE commands of a disk."""

    def __init__(self, disk: DiskDevice) -> None:
        self._disk = disk
        self._volume = disk.volume
        self._shift = disk.block_bytes.bit_length() - 1
        self._blocks_max = TRANSFER_BYTES_MAX >> self._shift

    def commands(self) -> list[Command]:
        """The rows of the opcode table."""
        rows: list[tuple[str, str, Unpack | None, int]] = [
            ("6", "1F FFFF FF 04", None, 0x08),
            ("10", "18 FFFFFFFF 00 FFFF 04", UNPACK10, 0x28),
            ("12", "18 FFFFFFFF FFFFFFFF 00 04", UNPACK12, 0xA8),
            ("16", "18 FFFFFFFFFFFFFFFF FFFFFFFF 00 04", UNPACK16, 0x88),
        ]
        commands = []
        for size, mask, unpack, opcode in rows:
            for name, kind, direction, start, code in (
                ("READ", Kind.READ, Direction.FROM_DEVICE, self.start_read, opcode),
                ("WRITE", Kind.WRITE, Direction.TO_DEVICE, self.start_write, opcode + 2),
            ):
                parse = (
                    self._parser(direction, unpack, len(usage(mask)))
                    if unpack
                    else self._parser6(direction)
                )
                bits = usage(f"{code:02X} {mask}")
                commands.append(Command(f"{name}({size})", kind, bits, parse, start))
        return commands

    # --- parsing --------------------------------------------------------------------------------

    def _parser(self, direction: Direction, unpack: Unpack, control: int) -> Step:
        disk, shift, blocks_max = self._disk, self._shift, self._blocks_max

        def parse(req: SCSIRequest) -> None:
            cdb = req.cdb
            flags, lba, blocks = unpack(cdb)
            req.direction = direction
            req.lba = lba
            req.blocks = blocks
            req.length = blocks << shift
            if (
                lba + blocks > disk.blocks
                or flags & _PROTECT
                or blocks > blocks_max
                or cdb[control] & _NACA
            ):
                self._refuse(req, flags, control)

        return parse

    def _parser6(self, direction: Direction) -> Step:
        def parse(req: SCSIRequest) -> None:
            cdb = req.cdb
            req.direction = direction
            req.lba = int.from_bytes(cdb[1:4]) & 0x1FFFFF
            req.blocks = cdb[4] or 256
            req.length = req.blocks << self._shift
            if req.lba + req.blocks > self._disk.blocks or cdb[5] & _NACA:
                self._refuse(req, 0, 5)

        return parse

    def _refuse(self, req: SCSIRequest, flags: int, control: int) -> None:
        """Say what is wrong with a READ or WRITE; nothing of it is transferred."""
        req.length = 0
        if flags & _PROTECT:  # no protection information (SBC-3 4.22)
            raise CheckCondition(INVALID_FIELD_IN_CDB.field(1, 7))
        if req.cdb[control] & _NACA:
            raise CheckCondition(INVALID_FIELD_IN_CDB.field(control, 2))
        if req.lba + req.blocks > self._disk.blocks:
            raise CheckCondition(LBA_OUT_OF_RANGE.at(max(req.lba, self._disk.blocks)))
        raise CheckCondition(INVALID_FIELD_IN_CDB)

    # --- READ -----------------------------------------------------------------------------------

    def start_read(self, req: SCSIRequest) -> None:
        """Read what is at hand in one pass."""
        disk = self._disk
        if disk.not_ready is not None:
            raise CheckCondition(disk.not_ready)
        nbytes = req.transfer
        if 0 < nbytes <= WINDOW_BYTES:
            share = req.hba.share
            if nbytes <= SEGMENT_BYTES:
                segments = share.take(1)
                if segments is not None:
                    whole = nbytes == SEGMENT_BYTES
                    views = segments if whole else [segments[0][:nbytes]]
            else:
                segments = share.take(-(-nbytes // SEGMENT_BYTES))
                if segments is not None:
                    views = views_of(segments, nbytes)
            if segments is not None:
                if self._volume.read_now(req.lba << self._shift, views, nbytes):
                    req.moved = nbytes
                    req.hba.data_in(req, views, segments)
                    req.complete()
                    return
                share.give(segments)
        req.run(self._read(req))

    async def _read(self, req: SCSIRequest) -> None:
        offset = req.lba << self._shift
        share = req.hba.share
        while req.moved < req.transfer:
            if req.moved:
                await req.sent()
            segments = await req.buffers(req.transfer - req.moved)
            nbytes = min(len(segments) * SEGMENT_BYTES, req.transfer - req.moved)
            views = views_of(segments, nbytes)
            try:
                if not self._volume.read_now(offset + req.moved, views, nbytes):
                    await self._volume.read(offset + req.moved, views, nbytes)
            except BaseException:
                share.give(segments)
                raise
            req.send(segments, nbytes)
        req.complete()

    # --- WRITE ----------------------------------------------------------------------------------

    def start_write(self, req: SCSIRequest) -> None:
        """Write what is at hand in one pass."""
        disk = self._disk
        if disk.unwritable is not None:
            raise CheckCondition(disk.unwritable)
        nbytes = req.length
        if (
            req.early_have == nbytes
            and nbytes
            and not (req.cdb[1] & _FUA and req.cdb[0] != 0x0A)
            and self._volume.write_now(req.lba << self._shift, req.early, nbytes)
        ):
            req.complete()
            return
        req.run(self._write(req))

    async def _write(self, req: SCSIRequest) -> None:
        offset = req.lba << self._shift
        fua = bool(req.cdb[1] & _FUA) and req.cdb[0] != 0x0A
        # An initiator that sends less than the CDB says: its whole blocks are written.
        req.transfer &= -self._disk.block_bytes
        while req.moved < req.transfer:
            at = offset + req.moved
            chunk = await req.receive()
            try:
                nbytes, views = chunk.nbytes, chunk.views
                if at + nbytes > offset + req.transfer:
                    nbytes = offset + req.transfer - at
                    views = list(cut_buffers(views, 0, nbytes))
                if fua or not self._volume.write_now(at, views, nbytes):
                    await self._volume.write(at, views, nbytes, fua)
            finally:
                chunk.release()
        req.complete()
