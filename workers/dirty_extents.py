"""Bytes that are written and not yet where they belong: what lies where, newer over older."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class DirtyExtents:
    """Pieces that do not overlap, by where they begin."""

    __slots__ = ("_data", "_starts", "nbytes")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: list[bytes] = []
        self.nbytes = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return zip(self._starts, self._data, strict=True)

    def put(self, start: int, data: bytes) -> None:
        """``data`` is what lies at ``start`` from now on."""
        starts, kept = self._starts, self._data
        stop = start + len(data)
        first = bisect_left(starts, start)
        if first and starts[first - 1] + len(kept[first - 1]) > start:
            first -= 1
        last = bisect_left(starts, stop, first)
        pieces = [(start, data)]
        if last > first:
            left, right = starts[first], starts[last - 1]
            if left < start:
                pieces.insert(0, (left, kept[first][: start - left]))
            if right + len(kept[last - 1]) > stop:
                pieces.append((stop, kept[last - 1][stop - right :]))
        self.nbytes += sum(len(it) for _, it in pieces) - sum(map(len, kept[first:last]))
        starts[first:last] = [at for at, _ in pieces]
        kept[first:last] = [it for _, it in pieces]

    def put_all(self, others: DirtyExtents) -> None:
        """Those over these."""
        for start, data in others:
            self.put(start, data)

    def within(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """What of it lies in that range, cut to it."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < stop:
            at, data = self._starts[index], self._data[index]
            if at + len(data) > start:
                yield max(at, start), data[max(0, start - at) : stop - at]
            index += 1
