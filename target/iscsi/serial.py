"""Serial number arithmetic (RFC 1982) for CmdSN, StatSN, DataSN and R2TSN.

RFC 7143 4.2.2.1: sequence numbers are 32 bits wide, wrap around, and are compared as serials.  Two
numbers exactly 2**31 apart have no order: both ``lt(a, b)`` and ``lt(b, a)`` are False.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
HALF: Final = 0x80000000


def add(a: int, n: int = 1) -> int:
    """``a`` moved on by ``n`` (RFC 1982 3.1), which may be negative to go back."""
    return (a + n) & MASK


def lt(a: int, b: int) -> bool:
    """Whether ``a`` comes before ``b`` (RFC 1982 3.2)."""
    return 0 < ((b - a) & MASK) < HALF


def lte(a: int, b: int) -> bool:
    """Whether ``a`` is ``b`` or comes before it."""
    return ((b - a) & MASK) < HALF


def distance(a: int, b: int) -> int:
    """How far ``b`` lies after ``a``, in [-2**31, 2**31)."""
    return ((b - a + HALF) & MASK) - HALF
