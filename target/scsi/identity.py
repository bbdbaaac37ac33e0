"""Who a disk says it is: names and designators, all derived from the UUID of its volume.

The same volume has the same names whatever node, target or port serves it, before and after a
restart: multipath software joins the paths by them.

The NAA designator is of format 6 (IEEE Registered Extended), which every multipath software takes.
Its company id is not one of the IEEE's: bit 1 of the first octet (U/L) is set, which marks the 24
bits as locally administered, so it collides with no vendor's.  The 100 bits below it are the last
25 hexadecimal digits of the UUID, so that a WWID can be traced back to its volume by eye.
docs/decisions/0007-naa-designator.md has the alternatives.
"""

from __future__ import annotations

import struct
import uuid as uuids
from dataclasses import dataclass
from typing import Final

VENDOR: Final = b"LUNMESH "
PRODUCT: Final = "Volume"
REVISION: Final = "0001"
COMPANY_ID: Final = 0xF24C4D  # F2h: locally administered (U/L), individual (I/G); then "LM"
assert COMPANY_ID >> 16 & 0x03 == 0x02

_CODE_BINARY: Final = 1
_CODE_ASCII: Final = 2
_TYPE_T10_VENDOR_ID: Final = 1
_TYPE_NAA: Final = 3


def naa_of(uuid: uuids.UUID) -> bytes:
    """The 16 bytes of the NAA designator (SPC-4 7.8.6.6.5)."""
    return (6 << 124 | COMPANY_ID << 100 | uuid.int & (1 << 100) - 1).to_bytes(16, "big")


def designator(
    kind: int, code_set: int, body: bytes, *, association: int = 0, protocol: int | None = None
) -> bytes:
    """A designation descriptor (SPC-4 7.8.6.1); ``protocol`` sets PIV."""
    first = code_set | (protocol << 4 if protocol is not None else 0)
    second = kind | association << 4 | (0x80 if protocol is not None else 0)
    return struct.pack(">BBxB", first, second, len(body)) + body


@dataclass(frozen=True, slots=True)
class Identity:
    """What INQUIRY tells of a logical unit."""

    serial: str
    naa: bytes
    product: str = PRODUCT
    revision: str = REVISION

    @classmethod
    def of(cls, uuid: uuids.UUID) -> Identity:
        """The identity of the volume with this UUID."""
        return cls(uuid.hex, naa_of(uuid))

    def inquiry_text(self) -> bytes:
        """T10 vendor identification, product identification, product revision level (28 bytes)."""
        product = self.product.encode("ascii").ljust(16)[:16]
        return VENDOR + product + self.revision.encode("ascii").ljust(4)[:4]

    def designators(self) -> bytes:
        """Those of the logical unit; those of its ports are added by whoever knows the port."""
        name = VENDOR + self.serial.encode("ascii")
        return designator(_TYPE_NAA, _CODE_BINARY, self.naa) + designator(
            _TYPE_T10_VENDOR_ID, _CODE_ASCII, name
        )
