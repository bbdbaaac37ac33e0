"""Logical unit numbers on the wire (SAM-5 4.7)."""

from __future__ import annotations

from collections.abc import Iterator


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
