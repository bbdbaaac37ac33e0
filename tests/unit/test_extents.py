"""Cutting ranges and scatter lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from target.block.extents import Extent, cut, cut_buffers

CHUNK = 16


def test_a_range_in_one_chunk_is_one_extent() -> None:
    assert cut(3, 5, CHUNK, lambda chunk: 7) == [Extent(7, 3, 5)]


def test_a_range_is_cut_where_the_store_changes() -> None:
    assert cut(10, 30, CHUNK, lambda chunk: chunk % 2) == [
        Extent(0, 10, 6),
        Extent(1, 16, 16),
        Extent(0, 32, 8),
    ]


def test_neighbouring_chunks_of_one_store_are_one_extent() -> None:
    assert cut(10, 30, CHUNK, lambda chunk: 0) == [Extent(0, 10, 30)]


def test_no_bytes_are_no_extents() -> None:
    assert cut(10, 0, CHUNK, lambda chunk: 0) == []


@given(
    offset=st.integers(0, 200),
    length=st.integers(0, 200),
    stores=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_extents_cover_the_range_and_lie_where_their_chunks_do(
    offset: int, length: int, stores: list[int]
) -> None:
    extents = cut(offset, length, CHUNK, stores.__getitem__)
    at = offset
    for extent in extents:
        assert extent.offset == at
        assert extent.length > 0
        for byte in range(extent.offset, extent.offset + extent.length):
            assert stores[byte // CHUNK] == extent.store
        at += extent.length
    assert at == offset + length


@given(
    pieces=st.lists(st.binary(max_size=9), max_size=8),
    at=st.integers(0, 40),
    length=st.integers(1, 40),
)
def test_a_part_of_a_scatter_list_is_that_part_of_its_bytes(
    pieces: list[bytes], at: int, length: int
) -> None:
    whole = b"".join(pieces)
    length = min(length, len(whole) - at)
    if length <= 0:
        return
    part = cut_buffers([memoryview(piece) for piece in pieces], at, length)
    assert b"".join(part) == whole[at : at + length]


def test_cutting_copies_nothing() -> None:
    data = bytearray(8)
    (part,) = cut_buffers([memoryview(data)], 2, 3)
    part[:] = b"abc"
    assert data == b"\0\0abc\0\0\0"
    assert cut_buffers((), 0, 0) == ()
