"""The mode pages of a disk: their bytes, what of them can be changed, and what they mean.

``modepages.py`` has the commands.  A bit is changeable only if changing it changes what the disk
does.  Nothing is saved: after a reset the defaults hold again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READ_WRITE_ERROR_RECOVERY: Final = (0x01, 0x00)
CACHING: Final = (0x08, 0x00)
CONTROL: Final = (0x0A, 0x00)
CONTROL_EXTENSION: Final = (0x0A, 0x01)
INFORMATIONAL_EXCEPTIONS: Final = (0x1C, 0x00)

WCE: Final = 0x04  # of caching page byte 2
_D_SENSE: Final = 0x04  # of control page byte 2
_SWP: Final = 0x08  # of control page byte 4
_SUBPAGE_FORMAT: Final = 0x40


@dataclass(frozen=True, slots=True)
class ModePage:
    """One mode page: its default bytes and the bits that MODE SELECT may change."""

    code: int
    subpage: int
    default: bytes
    changeable: bytes

    @property
    def key(self) -> tuple[int, int]:
        """Page code and subpage code."""
        return self.code, self.subpage

    @property
    def header_bytes(self) -> int:
        """2 in page_0 format, 4 in subpage format (SPC-4 7.5.7)."""
        return 4 if self.subpage else 2

    @property
    def length_field(self) -> bytes:
        """PAGE LENGTH: one byte in page_0 format, two in subpage format."""
        return self.default[self.header_bytes // 2 : self.header_bytes]


def _page(key: tuple[int, int], body_bytes: int, **fields: tuple[int, int]) -> ModePage:
    """``fields``: byte number (``b2``) → (default, changeable bits)."""
    code, subpage = key
    if subpage:
        header = bytes((code | _SUBPAGE_FORMAT, subpage)) + body_bytes.to_bytes(2, "big")
    else:
        header = bytes((code, body_bytes))
    default = bytearray(header + bytes(body_bytes))
    changeable = bytearray(header + bytes(body_bytes))
    for name, (value, mask) in fields.items():
        default[int(name[1:])] = value
        changeable[int(name[1:])] = mask
    return ModePage(code, subpage, bytes(default), bytes(changeable))


def _changed(page: ModePage, wanted: bytes) -> bytes:
    fields = zip(page.default, page.changeable, wanted, strict=True)
    header, at = page.default[: page.header_bytes], page.header_bytes
    return header + bytes(d & ~c | w & c for d, c, w in list(fields)[at:])


class Modes:
    """The current values of the mode pages of one disk."""

    def __init__(self, *, write_cache: bool) -> None:
        # A write cache that the administrator has switched off stays off: an initiator may ask for
        # more durability than was set up, not for less.
        wce = (WCE, WCE) if write_cache else (0, 0)
        pages = (
            _page(READ_WRITE_ERROR_RECOVERY, 10),  # SBC-3 6.4.7: nothing of it applies
            _page(CACHING, 18, b2=wce),  # SBC-3 6.4.5
            # SPC-4 7.5.10.  Queue algorithm modifier 1: SIMPLE commands may be reordered.
            _page(CONTROL, 10, b2=(0, _D_SENSE), b3=(0x10, 0), b4=(0, _SWP)),
            _page(CONTROL_EXTENSION, 28),  # SPC-4 7.5.11
            # SPC-4 7.5.14.  MRIE 6: reported on request (REQUEST SENSE, LOG SENSE) only.
            _page(INFORMATIONAL_EXCEPTIONS, 10, b3=(0x06, 0)),
        )
        self.pages = {page.key: page for page in pages}
        self._current = {page.key: page.default for page in pages}

    def current(self, key: tuple[int, int]) -> bytes:
        """The bytes of a page as they are now."""
        return self._current[key]

    def set(self, values: dict[tuple[int, int], bytes]) -> bool:
        """These, and the defaults of other pages; whether anything is other than before.

        They may come from a node that lets more be changed: here the rest stays as it is.
        """
        before = self._current
        self._current = {
            key: _changed(page, values.get(key, page.default)) for key, page in self.pages.items()
        }
        return self._current != before

    @property
    def write_cache(self) -> bool:
        """WCE: a write is answered before it is on stable storage."""
        return bool(self._current[CACHING][2] & WCE)

    @property
    def descriptor_sense(self) -> bool:
        """D_SENSE: sense data in descriptor format."""
        return bool(self._current[CONTROL][2] & _D_SENSE)

    @property
    def software_write_protect(self) -> bool:
        """SWP."""
        return bool(self._current[CONTROL][4] & _SWP)
