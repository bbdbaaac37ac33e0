"""Logical unit numbers on the wire (SAM-5 4.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class LunAddress(NamedTuple):
    """Where a logical unit stands: in the LUN map of a target (empty: of the one that a node has
    anyway).
    """

    target: str
    number: int

    def __str__(self) -> str:
        return f"{self.number}@{self.target}" if self.target else str(self.number)

    @classmethod
    def parse(cls, text: str) -> LunAddress:
        """What ``str`` has made.  Raises ValueError."""
        number, _, target = text.partition("@")
        return cls(target, int(number))


def encode_lun(number: int) -> bytes:
    """Eight bytes of LUN: peripheral device addressing below 256, flat space above (SAM-5 4.7)."""
    if number < 256:
        return bytes((0, number)) + bytes(6)
    return (0x4000 | number).to_bytes(2, "big") + bytes(6)


def lun_spellings(number: int) -> Iterator[bytes]:
    """All encodings by which an initiator may name a LUN."""
    yield encode_lun(number)
    if number < 256:
        yield (0x4000 | number).to_bytes(2, "big") + bytes(6)
