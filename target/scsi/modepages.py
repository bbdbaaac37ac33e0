"""MODE SENSE and MODE SELECT, 6 and 10 (SPC-4 6.9 to 6.12, 7.5).  The pages are in ``modes.py``.

MODE SELECT is all or nothing: every byte of the parameter list is checked before one is believed.
The parameters are shared by all I_T nexuses, so a change is told to the others.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from target.scsi.cdb import data_in, data_out, refuse
from target.scsi.command import Command, Kind, Step, usage
from target.scsi.modes import CACHING, WCE, ModePage
from target.scsi.sense import (
    INVALID_FIELD_IN_PARAMETERS,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_PARAMETERS_NOT_SUPPORTED,
    CheckCondition,
)
from target.scsi.settings import PageBytes, Set, SettingsChange

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

# MODE SENSE, byte 1
_DBD: Final = 0x08
_LLBAA: Final = 0x10
# MODE SENSE, byte 2: the page control field
_CHANGEABLE: Final = 1
_DEFAULT: Final = 2
_SAVED: Final = 3
_ALL_PAGES: Final = 0x3F
_ALL_SUBPAGES: Final = 0xFF
# MODE SELECT, byte 1
_PF: Final = 0x10
_RTD_SP: Final = 0x03
# Mode parameter header
_WP: Final = 0x80
_DPOFUA: Final = 0x10
_LONGLBA: Final = 0x01
# Mode page
_SPF: Final = 0x40
_PAGE_CODE: Final = 0x3F

_SHORT_DESCRIPTOR: Final = struct.Struct(">II")  # the upper byte of the block length is reserved
_LONG_DESCRIPTOR: Final = struct.Struct(">Q4xI")
_BLOCKS_ALL_SHORT: Final = 0xFFFFFFFF
_BLOCKS_ALL_LONG: Final = (1 << 64) - 1
_BLOCK_LENGTH_SHORT: Final = 0xFFFFFF

PageKey = tuple[int, int]


def commands(disk: DiskDevice) -> list[Command]:
    """Rows of the opcode table."""
    sense, select = _Sense(disk), _Select(disk)

    def row(name: str, kind: Kind, bits: str, parse: Step, start: Step) -> Command:
        return Command(name, kind, usage(bits), parse, start)

    return [
        row("MODE SENSE(6)", Kind.INFORM, "1a 08 ff ff ff 04", data_in(4, 1), sense.start6),
        row(
            "MODE SENSE(10)",
            Kind.INFORM,
            "5a 18 ff ff 00 00 00 ff ff 04",
            data_in(7, 2),
            sense.start10,
        ),
        row("MODE SELECT(6)", Kind.CONTROL, "15 11 00 00 ff 04", _parse_select(4, 1), select.start),
        row(
            "MODE SELECT(10)",
            Kind.CONTROL,
            "55 11 00 00 00 00 00 ff ff 04",
            _parse_select(7, 2),
            select.start,
        ),
    ]


# --- MODE SENSE -----------------------------------------------------------------------------------


class _Sense:
    def __init__(self, disk: DiskDevice) -> None:
        self._disk = disk

    def start6(self, req: SCSIRequest) -> None:
        pages = self._pages(req.cdb)
        descriptor = self._descriptor(req.cdb, long=False)
        length = 3 + len(descriptor) + len(pages)
        header = bytes((length, 0, self._device_specific(req), len(descriptor)))
        req.respond(header + descriptor + pages, req.length)

    def start10(self, req: SCSIRequest) -> None:
        pages = self._pages(req.cdb)
        long = bool(req.cdb[1] & _LLBAA)
        descriptor = self._descriptor(req.cdb, long=long)
        header = struct.pack(
            ">HxBBxH",
            6 + len(descriptor) + len(pages),
            self._device_specific(req),
            _LONGLBA if long and descriptor else 0,
            len(descriptor),
        )
        req.respond(header + descriptor + pages, req.length)

    def _device_specific(self, req: SCSIRequest) -> int:
        """SBC-3 6.4.1."""
        protected = self._disk.write_protected or req.attachment.read_only
        return _DPOFUA | (_WP if protected else 0)

    def _descriptor(self, cdb: bytes, *, long: bool) -> bytes:
        """SBC-3 6.4.2."""
        disk = self._disk
        if cdb[1] & _DBD:
            return b""
        if long:
            return _LONG_DESCRIPTOR.pack(disk.blocks, disk.block_bytes)
        return _SHORT_DESCRIPTOR.pack(min(disk.blocks, _BLOCKS_ALL_SHORT), disk.block_bytes)

    def _pages(self, cdb: bytes) -> bytes:
        control, code, subpage = cdb[2] >> 6, cdb[2] & _PAGE_CODE, cdb[3]
        if control == _SAVED:
            raise CheckCondition(SAVING_PARAMETERS_NOT_SUPPORTED)
        if code == _ALL_PAGES and subpage not in (0, _ALL_SUBPAGES):
            raise refuse(3)
        modes = self._disk.modes
        wanted = [
            page
            for page in modes.pages.values()
            if code in (page.code, _ALL_PAGES) and subpage in (page.subpage, _ALL_SUBPAGES)
        ]
        if not wanted:
            known = any(page.code == code for page in modes.pages.values())
            raise refuse(3) if known else refuse(2, 5)
        if control == _CHANGEABLE:
            return b"".join(page.changeable for page in wanted)
        if control == _DEFAULT:
            return b"".join(page.default for page in wanted)
        return b"".join(modes.current(page.key) for page in wanted)


# --- MODE SELECT ----------------------------------------------------------------------------------


def _parse_select(at: int, size: int) -> Step:
    parse_length = data_out(at, size)

    def parse(req: SCSIRequest) -> None:
        parse_length(req)
        flags = req.cdb[1]
        if flags & _RTD_SP:  # nothing can be saved; reverting to defaults (SPC-5) is not known
            raise refuse(1, (flags & _RTD_SP).bit_length() - 1)
        if req.length and not flags & _PF:
            raise refuse(1, 4)  # pages in a format of the vendor's: there is none

    return parse


class _Select:
    def __init__(self, disk: DiskDevice) -> None:
        self._disk = disk

    def start(self, req: SCSIRequest) -> None:
        if req.length:
            req.run(self._select(req))
        else:
            req.complete()  # an empty list changes nothing and is no error (SPC-4 6.9)

    async def _select(self, req: SCSIRequest) -> None:
        data = await req.receive_parameters()
        # MODE SELECT(6) has the short header.
        await self._apply(req, self._parse(data, 4 if len(req.command.usage) == 6 else 8))
        req.complete()

    async def _apply(self, req: SCSIRequest, values: dict[PageKey, bytes]) -> None:
        disk, settings = self._disk, req.attachment.unit.settings
        # SBC-3 6.4.5: what the cache holds is written before WCE counts as zero.  Writes go to
        # stable storage once it is set; what came before is flushed then.  So even if it is zero
        # already: whoever has set it may not have come to flush.
        uncached = CACHING in values and not values[CACHING][2] & WCE
        flushes = uncached and not disk.volume.read_only
        change = Set(req.attachment, SettingsChange(_pages(values), anew=flushes))
        try:
            await change
            if flushes:
                await disk.volume.flush()
        except BaseException:
            undone = change.undone
            if flushes and undone is not None:  # it may be set all the same
                settings.change(undone, _tried, req.attachment)
            raise

    def _parse(self, data: bytes, header_bytes: int) -> dict[PageKey, bytes]:
        """The new values of the pages in a parameter list; raises what is wrong with it."""
        if len(data) < header_bytes:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        short = header_bytes == 4
        if data[1 if short else 2]:
            raise _wrong(1 if short else 2)  # MEDIUM TYPE (SBC-3 6.4.1)
        long = not short and bool(data[4] & _LONGLBA)
        descriptor_bytes = data[3] if short else int.from_bytes(data[6:8], "big")
        at = header_bytes + descriptor_bytes
        if descriptor_bytes not in (0, 16 if long else 8):
            raise _wrong(3 if short else 6)
        if len(data) < at:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        if descriptor_bytes:
            self._check_descriptor(data[header_bytes:at], header_bytes)
        values: dict[PageKey, bytes] = {}
        while at < len(data):
            page = self._page_at(data, at)
            body = data[at : at + len(page.default)]
            current = values.get(page.key, self._disk.modes.current(page.key))
            values[page.key] = _checked(page, body, current, at)
            at += len(body)
        return values

    def _check_descriptor(self, descriptor: bytes, at: int) -> None:
        """The size of a volume is not changed by MODE SELECT: only what is already so is taken.

        Zero blocks means "as it is" and all ones "as many as there can be" (SBC-3 6.4.2).
        """
        if len(descriptor) == _LONG_DESCRIPTOR.size:
            blocks, block_bytes = _LONG_DESCRIPTOR.unpack(descriptor)
            unchanged = {0, self._disk.blocks, _BLOCKS_ALL_LONG}
            length_at = 12
        else:
            blocks, block_bytes = _SHORT_DESCRIPTOR.unpack(descriptor)
            block_bytes &= _BLOCK_LENGTH_SHORT
            unchanged = {0, self._disk.blocks, _BLOCKS_ALL_SHORT}
            length_at = 5
        if blocks not in unchanged:
            raise _wrong(at)
        if block_bytes != self._disk.block_bytes:
            raise _wrong(at + length_at)

    def _page_at(self, data: bytes, at: int) -> ModePage:
        pages = self._disk.modes.pages
        in_subpage_format = bool(data[at] & _SPF)
        header_bytes = 4 if in_subpage_format else 2
        if len(data) - at < header_bytes:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        code = data[at] & _PAGE_CODE  # PS, bit 7, is reserved here and comes back as it was sent
        if not any(page.code == code for page in pages.values()):
            raise _wrong(at, 5)
        subpage = data[at + 1] if in_subpage_format else 0
        page = pages.get((code, subpage))
        if page is None or page.header_bytes != header_bytes:
            raise _wrong(at + 1) if in_subpage_format else _wrong(at, 6)
        if data[at + header_bytes // 2 : at + header_bytes] != page.length_field:
            raise _wrong(at + header_bytes // 2)
        if len(data) - at < len(page.default):
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        return page


def _checked(page: ModePage, body: bytes, current: bytes, at: int) -> bytes:
    """The new bytes of a page; raises where a bit differs that cannot be changed."""
    new = bytearray(current)
    for i in range(page.header_bytes, len(body)):
        frozen = (body[i] ^ current[i]) & ~page.changeable[i]
        if frozen:
            raise _wrong(at + i, frozen.bit_length() - 1)
        new[i] = body[i]
    return bytes(new)


def _pages(values: dict[PageKey, bytes]) -> tuple[PageBytes, ...]:
    return tuple(PageBytes(*key, data) for key, data in values.items())


def _tried(outcome: Exception | None) -> None:
    """The initiator is told what went wrong before."""


def _wrong(byte: int, bit: int | None = None) -> CheckCondition:
    return CheckCondition(INVALID_FIELD_IN_PARAMETERS.field(byte, bit, in_cdb=False))
