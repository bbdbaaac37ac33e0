"""INQUIRY: the standard data and the vital product data pages (SPC-4 6.6, 7.8; SBC-3 6.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.scsi import limits
from target.scsi.cdb import data_in, refuse
from target.scsi.command import Access, Command, Kind, usage

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_EVPD: Final = 0x01
_CMDDT: Final = 0x02

VERSION_SPC4: Final = 6
_HISUP: Final = 0x10  # LUNs are hierarchical, as SAM says
_RESPONSE_FORMAT: Final = 2
_TPGS: Final = 0x30  # asymmetric access, implicit and explicit (port_groups.py)
_CMDQUE: Final = 0x02
# SPC-4 6.6.2: what this device is made to, without claiming a revision of it.
VERSION_DESCRIPTORS: Final = (
    0x00A0,  # SAM-5
    0x0460,  # SPC-4
    0x04C0,  # SBC-3
    0x0960,  # iSCSI
)
NON_ROTATING: Final = 1
THIN: Final = 2

Page = Callable[["DiskDevice"], bytes]


def commands(disk: DiskDevice) -> list[Command]:
    """INQUIRY for a disk."""

    def start(req: SCSIRequest) -> None:
        cdb = req.cdb
        if cdb[1] & _CMDDT:
            raise refuse(1, 1)
        if not cdb[1] & _EVPD:
            if cdb[2]:
                raise refuse(2)
            req.respond(standard_data(disk), req.length)
            return
        page = VPD_PAGES.get(cdb[2])
        if page is None:
            raise refuse(2)
        body = page(disk)
        req.respond(struct.pack(">BBH", 0, cdb[2], len(body)) + body, req.length)

    return [
        Command(
            "INQUIRY",
            Kind.INFORM,
            usage("12 03 ff ff ff 04"),
            data_in(3, 2),
            start,
            through_unit_attention=True,
            access=Access.ALWAYS,
        )
    ]


def standard_data(disk: DiskDevice) -> bytes:
    """SPC-4 table 173: a direct access block device, fixed medium, 96 bytes."""
    data = bytearray(96)
    data[2:8] = VERSION_SPC4, _HISUP | _RESPONSE_FORMAT, len(data) - 5, _TPGS, 0, _CMDQUE
    data[8:36] = disk.identity.inquiry_text()
    struct.pack_into(f">{len(VERSION_DESCRIPTORS)}H", data, 58, *VERSION_DESCRIPTORS)
    return bytes(data)


def _supported_pages(disk: DiskDevice) -> bytes:
    return bytes(sorted(VPD_PAGES))


def _serial_number(disk: DiskDevice) -> bytes:
    return disk.identity.serial.encode("ascii")


def _identification(disk: DiskDevice) -> bytes:
    return disk.identity.designators() + b"".join(disk.port_designators)


def _extended_inquiry(disk: DiskDevice) -> bytes:
    """SPC-4 7.8.7; bytes are counted from the head of the page there."""
    body = bytearray(60)
    body[5 - 4] = 0x07  # HEADSUP, ORDSUP, SIMPSUP
    body[6 - 4] = 0x01  # V_SUP: there is a volatile cache
    body[7 - 4] = 0x01  # LUICLR: REPORT LUNS clears its unit attention in all logical units
    return bytes(body)


def _block_limits(disk: DiskDevice) -> bytes:
    """SBC-3 6.5.3.  Every limit is finite and every one is enforced."""
    block = disk.block_bytes
    physical = max(1, limits.PHYSICAL_BLOCK_BYTES // block)
    return struct.pack(
        ">BBHIIIIIIIQ20x",
        0x01,  # WSNZ: WRITE SAME of "all the rest" is refused
        disk.compare_and_write_blocks_max,
        physical,  # optimal transfer length granularity
        limits.TRANSFER_BYTES_MAX // block,
        limits.TRANSFER_BYTES_OPTIMAL // block,
        limits.TRANSFER_BYTES_MAX // block,  # maximum prefetch length
        limits.UNMAP_BYTES_MAX // block,
        limits.UNMAP_DESCRIPTORS_MAX,
        physical,  # optimal unmap granularity
        1 << 31,  # UGAVALID, unmap granularity alignment 0
        limits.WRITE_SAME_BYTES_MAX // block,
    )


def _characteristics(disk: DiskDevice) -> bytes:
    """SBC-3 6.5.2."""
    return struct.pack(">H58x", NON_ROTATING)


def _provisioning(disk: DiskDevice) -> bytes:
    """SBC-3 6.5.4: LBPU, LBPWS, LBPWS10, LBPRZ; thin; no thresholds, no anchored blocks."""
    return bytes((0, 0xE4, THIN, 0))


VPD_PAGES: Final[dict[int, Page]] = {
    0x00: _supported_pages,
    0x80: _serial_number,
    0x83: _identification,
    0x86: _extended_inquiry,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}
