"""How large the disk is and what of it is in use (SBC-3 5.16, 5.17, 5.6)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, out_of_range, refuse
from target.scsi.command import Access, Command, Kind, check_control, usage
from target.scsi.request import Direction
from target.scsi.sense import CheckCondition
from workers.store import StatusExtent

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_CAPACITY10_BYTES: Final = 8
_LBA10_MAX: Final = 0xFFFFFFFF
_LBPME_LBPRZ: Final = 0xC000  # thin, and an unmapped block reads as zeros
_STATUS_BLOCKS_MAX: Final = 0xFFFFFFFF
_MAPPED: Final = 0
_DEALLOCATED: Final = 1
_STATUS_HEADER_BYTES: Final = 8
_STATUS_DESCRIPTOR: Final = struct.Struct(">QIB3x")


def commands(disk: DiskDevice) -> list[Command]:
    """READ CAPACITY and GET LBA STATUS for a disk."""

    def parse10(req: SCSIRequest) -> None:
        check_control(req)
        req.direction = Direction.FROM_DEVICE
        req.length = _CAPACITY10_BYTES
        _check_pmi(disk, int.from_bytes(req.cdb[2:6], "big"), 2, req.cdb[8] & 1)

    def start10(req: SCSIRequest) -> None:
        last = min(disk.blocks - 1, _LBA10_MAX)
        req.respond(struct.pack(">II", last, disk.block_bytes), req.length)

    parse_allocation = data_in(10, 4)

    def parse16(req: SCSIRequest) -> None:
        parse_allocation(req)
        _check_pmi(disk, int.from_bytes(req.cdb[2:10], "big"), 2, req.cdb[14] & 1)

    def start16(req: SCSIRequest) -> None:
        # One logical block per physical block, as QEMU and LIO say of files: a store writes any
        # block.  What is quick (4 KiB) stands in the Block Limits page, where initiators look for
        # alignment; libiscsi's suite takes an exponent above 0 for a mistake.
        last = disk.blocks - 1
        data = struct.pack(">QIBBH16x", last, disk.block_bytes, 0, 0, _LBPME_LBPRZ)
        req.respond(data, req.length)

    def parse_status(req: SCSIRequest) -> None:
        parse_allocation(req)
        req.lba = int.from_bytes(req.cdb[2:10], "big")
        if req.lba >= disk.blocks:
            raise CheckCondition(out_of_range(disk, req.lba))

    def start_status(req: SCSIRequest) -> None:
        disk.check_readable()
        req.run(_get_lba_status(disk, req))

    return [
        Command(
            "READ CAPACITY(10)",
            Kind.INFORM,
            usage("25 00 ff ff ff ff 00 00 01 04"),
            parse10,
            start10,
            access=Access.ALWAYS,
        ),
        Command(
            "READ CAPACITY(16)",
            Kind.INFORM,
            usage("9e 10 ff ff ff ff ff ff ff ff ff ff ff ff 01 04"),
            parse16,
            start16,
            service_action=0x10,
            access=Access.ALWAYS,
        ),
        Command(
            "GET LBA STATUS",
            Kind.READ,
            usage("9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 04"),
            parse_status,
            start_status,
            service_action=0x12,
        ),
    ]


def _check_pmi(disk: DiskDevice, lba: int, lba_at: int, pmi: int) -> None:
    """PMI asks where a delay begins after an LBA: nowhere before the end (SBC-2 5.10.1)."""
    if not pmi and lba:
        raise refuse(lba_at)
    if lba >= disk.blocks:
        raise CheckCondition(out_of_range(disk, lba))


async def _get_lba_status(disk: DiskDevice, req: SCSIRequest) -> None:
    """Runs from the LBA on, as many as fit: the initiator asks again where they end."""
    block = disk.block_bytes
    begin = req.lba * block
    extents = await disk.volume.block_status(begin, disk.blocks * block - begin)
    fit = max(1, (req.length - _STATUS_HEADER_BYTES) // _STATUS_DESCRIPTOR.size)
    body = b"".join(
        _STATUS_DESCRIPTOR.pack(lba, blocks, _MAPPED if mapped else _DEALLOCATED)
        for lba, blocks, mapped in islice(_describable(whole_blocks(extents, block)), fit)
    )
    req.respond(struct.pack(">I4x", 4 + len(body)) + body, req.length)


def _describable(runs: list[tuple[int, int, bool]]) -> Iterator[tuple[int, int, bool]]:
    """None of more blocks than a descriptor has room for; each begins where the last one ends."""
    for lba, blocks, mapped in runs:
        for done in range(0, blocks, _STATUS_BLOCKS_MAX):
            yield lba + done, min(blocks - done, _STATUS_BLOCKS_MAX), mapped


def whole_blocks(extents: list[StatusExtent], block_bytes: int) -> list[tuple[int, int, bool]]:
    """(LBA, number of blocks, mapped): a block that is mapped in part is mapped."""
    runs: list[tuple[int, int, bool]] = []
    done = extents[0].offset // block_bytes if extents else 0  # first LBA that is not in a run
    for extent in extents:
        end = extent.offset + extent.length
        stop = -(-end // block_bytes) if extent.mapped else end // block_bytes
        if stop <= done:
            continue  # less than a block, and what there is of it has been counted
        if runs and runs[-1][2] == extent.mapped:
            first, count, mapped = runs[-1]
            runs[-1] = (first, count + stop - done, mapped)
        else:
            runs.append((done, stop - done, extent.mapped))
        done = stop
    return runs
