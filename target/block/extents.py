"""Cutting a byte range of a volume into the extents that lie in one store each; scatter lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Extent(NamedTuple):
    """``length`` bytes at ``offset`` of the volume, held by store number ``store``."""

    store: int
    offset: int
    length: int


def cut(offset: int, length: int, chunk_bytes: int, place: Callable[[int], int]) -> list[Extent]:
    """Extents of [offset, offset + length) in order; neighbours in one store are one extent."""
    extents: list[Extent] = []
    end = offset + length
    while offset < end:
        chunk = offset // chunk_bytes
        stop = min(end, (chunk + 1) * chunk_bytes)
        store = place(chunk)
        if extents and extents[-1].store == store:
            last = extents[-1]
            extents[-1] = Extent(store, last.offset, stop - last.offset)
        else:
            extents.append(Extent(store, offset, stop - offset))
        offset = stop
    return extents


def cut_buffers(buffers: Sequence[memoryview], at: int, length: int) -> Sequence[memoryview]:
    """The part [at, at + length) of a scatter list, without copying."""
    if not buffers:
        return buffers
    out: list[memoryview] = []
    for view in buffers:
        size = len(view)
        if at >= size:
            at -= size
            continue
        piece = view[at : at + length] if at or length < size else view
        out.append(piece)
        length -= len(piece)
        at = 0
        if not length:
            break
    return out
