"""LOG SENSE (SPC-4 6.7, 7.3): the supported pages, temperature and informational exceptions.

There is no LOG SELECT: nothing here is a counter that could be reset or a threshold to be set.  The
logical block provisioning page (SBC-3 6.3.4) is left out too: its resources are counted in units of
threshold sets, and there are no thresholds.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, refuse
from target.scsi.command import Access, Command, Kind, usage

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_SP: Final = 0x01
_PAGE_CODE: Final = 0x3F
_DS: Final = 0x80  # the parameters of this page cannot be saved
_SPF: Final = 0x40
_ALL_SUBPAGES: Final = 0xFF
_SUPPORTED_PAGES: Final = 0x00

_NO_TEMPERATURE: Final = 0xFF  # none could be taken (SPC-4 7.3.20)
_BINARY_LIST: Final = 0x03  # FORMAT AND LINKING of the parameter control byte
# Page → parameter code → value.  A volume may lie on many disks of many hosts: it has no
# temperature of its own, and what is wrong with it is reported by the command that meets it.
PAGES: Final[dict[int, dict[int, bytes]]] = {
    0x0D: {0x0000: bytes((0, _NO_TEMPERATURE)), 0x0001: bytes((0, _NO_TEMPERATURE))},
    0x2F: {0x0000: bytes((0, 0, _NO_TEMPERATURE, 0))},
}


def commands(disk: DiskDevice) -> list[Command]:
    """Rows of the opcode table."""
    return [
        Command(
            "LOG SENSE",
            Kind.INFORM,
            usage("4d 01 ff ff 00 ff ff ff ff 04"),
            data_in(7, 2),
            _start,
            access=Access.ALWAYS,
        )
    ]


def _start(req: SCSIRequest) -> None:
    """PC does not matter: parameters in list format have one value only (SPC-4 7.3.2.2.2)."""
    cdb = req.cdb
    if cdb[1] & _SP:
        raise refuse(1, 0)  # nothing can be saved
    code, subpage, pointer = cdb[2] & _PAGE_CODE, cdb[3], int.from_bytes(cdb[5:7], "big")
    if code != _SUPPORTED_PAGES and code not in PAGES:
        raise refuse(2, 5)
    if subpage not in (0, _ALL_SUBPAGES):
        raise refuse(3)
    if code == _SUPPORTED_PAGES or subpage:
        if pointer:
            raise refuse(5)  # lists of pages have no parameters
        flags, body = 0, _list_of_pages(code, subpage)
    else:
        flags, body = _DS, _parameters(PAGES[code], pointer)
    flags |= _SPF if subpage else 0
    req.respond(struct.pack(">BBH", flags | code, subpage, len(body)) + body, req.length)


def _list_of_pages(code: int, subpage: int) -> bytes:
    """SPC-4 7.3.17, 7.3.18 (with subpages) and 7.3.19 (the subpages of one page)."""
    if not subpage:
        return bytes((_SUPPORTED_PAGES, *PAGES))
    codes = (_SUPPORTED_PAGES, *PAGES) if code == _SUPPORTED_PAGES else (code,)
    return b"".join(bytes((c, 0, c, _ALL_SUBPAGES)) for c in codes)


def _parameters(page: dict[int, bytes], pointer: int) -> bytes:
    """The parameters from the one that the pointer names on."""
    if pointer > max(page):
        raise refuse(5)
    return b"".join(
        struct.pack(">HBB", code, _BINARY_LIST, len(value)) + value
        for code, value in page.items()
        if code >= pointer
    )
