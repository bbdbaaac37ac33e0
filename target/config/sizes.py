"""Sizes as people write them: ``1G``, ``512MiB``, ``1.5T``, ``1048576``."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE = re.compile(r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?) ?(?P<unit>[A-Za-z]*)")
_UNITS = ("K", "M", "G", "T", "P", "E")
_DECIMAL_UNITS = frozenset(f"{unit}B" for unit in _UNITS)
# File offsets are signed 64-bit numbers.
SIZE_MAX = 2**63 - 1


def parse_size(text: str | int) -> int:
    """Bytes.  Units are powers of 1024, with or without ``iB``; a bare number is bytes."""
    if isinstance(text, int):
        nbytes = Fraction(text)
    else:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"bad size {_shown(text)}: write it as 512M, 1G or 1GiB")
        nbytes = Fraction(match["number"]) * _unit(text, match["unit"].upper())
    if nbytes.denominator != 1:
        raise ValueError(f"bad size {_shown(text)}: not a whole number of bytes")
    if not 0 < nbytes <= SIZE_MAX:
        raise ValueError(f"bad size {_shown(text)}: must be between 1 byte and 8 EiB")
    return int(nbytes)


def _unit(text: str, unit: str) -> int:
    if unit in ("", "B"):
        return 1
    if unit in _DECIMAL_UNITS:
        # Tools disagree whether 1GB is 10^9 or 2^30 bytes; a disk's size is not a thing to guess.
        raise ValueError(f"bad size {_shown(text)}: write {unit[0]} or {unit[0]}iB, powers of 1024")
    letter = unit.removesuffix("IB")
    if letter not in _UNITS:
        raise ValueError(f"bad size {_shown(text)}: no unit {unit!r}, use K, M, G, T, P or E")
    return 1 << 10 * (_UNITS.index(letter) + 1)


def _shown(text: str | int) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "…'"


def format_size(nbytes: int) -> str:
    """``1 GiB``, ``1.5 TiB``, ``1000 bytes``: exact where it is short, else to two decimals."""
    if nbytes < 1024:
        return f"{nbytes} bytes"
    power = min((nbytes.bit_length() - 1) // 10, len(_UNITS))
    number = f"{nbytes / (1 << 10 * power):.2f}".rstrip("0").rstrip(".")
    return f"{number} {_UNITS[power - 1]}iB"
