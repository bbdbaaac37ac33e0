"""RFC 1982 serial numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from target.iscsi.serial import HALF, MASK, add, distance, lt, lte

serials = st.integers(0, MASK)
steps = st.integers(1, HALF - 1)


@given(serials, steps)
def test_what_was_added_to_comes_before(a: int, n: int) -> None:
    b = add(a, n)
    assert lt(a, b)
    assert not lt(b, a)
    assert lte(a, b)
    assert not lte(b, a)
    assert distance(a, b) == n
    assert distance(b, a) == -n
    assert add(b, -n) == a


@given(serials)
def test_a_number_does_not_come_before_itself(a: int) -> None:
    assert not lt(a, a)
    assert lte(a, a)
    assert distance(a, a) == 0


@given(serials)
def test_opposite_numbers_have_no_order(a: int) -> None:
    b = add(a, HALF)
    assert not lt(a, b)
    assert not lt(b, a)


def test_the_wrap() -> None:
    assert add(MASK) == 0
    assert lt(MASK, 0)
    assert not lt(0, MASK)
    assert lt(0xFFFFFFF0, 0x10)
    assert distance(0xFFFFFFF0, 0x10) == 0x20
