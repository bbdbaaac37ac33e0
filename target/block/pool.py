"""The bounded buffer pool: every byte of command data on a node lives in its segments.

One arena of equal segments is cut when the node starts; a scatter list is a list of segments.
There is one size only, so nothing can fragment and the accounting below is exact.

Rules:

1. Segments are taken through a :class:`Share` (one per session).  ``limit`` keeps one initiator
   from taking what the others need; it follows the number of sessions.
2. A session *reserves* segments for the data that initiators may send unasked (immediate data and
   first bursts).  Its command window is cut to fit the reservation, so unsolicited data always
   finds its segments and reading a socket never has to stop in the middle of one (no deadlock
   between a command that waits for data and the data behind another command).
3. All else (solicited writes, reads) is taken from the other half of the pool, so that a session
   can begin whatever others have, and waits in turn, one waiter of each session after the other.
   Holders of such segments never wait for more of them, so they always come back.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from target.block.wait import PENDING, Resume, Wait, _Pending

SEGMENT_BYTES = 16384
POOL_BYTES_MIN = 8 << 20
# What the largest command that cannot be split needs at once: VERIFY compares two windows and
# COMPARE AND WRITE holds two copies of 255 blocks of 4 KiB.
SHARE_SEGMENTS_MIN = 2 * (1 << 20) // SEGMENT_BYTES


@dataclass(slots=True, eq=False)
class Waiter:
    """A request for ``wanted`` segments, content with ``least``."""

    share: Share
    wanted: int
    least: int
    resume: Resume


def segments_for(nbytes: int) -> int:
    """How many segments hold ``nbytes``."""
    return -(-nbytes // SEGMENT_BYTES)


def views_of(segments: Sequence[memoryview], nbytes: int) -> list[memoryview]:
    """The scatter list of exactly ``nbytes`` at the front of ``segments``."""
    if 0 < nbytes < SEGMENT_BYTES:  # as most are
        return [segments[0][:nbytes]]
    full, rest = divmod(nbytes, SEGMENT_BYTES)
    views = list(segments[:full])
    if rest:
        views.append(segments[full][:rest])
    return views


class BufferPool:
    """``total_bytes`` of memory in segments; never exceeded, never grown."""

    def __init__(self, total_bytes: int) -> None:
        if total_bytes < POOL_BYTES_MIN:
            raise ValueError(f"buffer memory of {total_bytes} bytes is below {POOL_BYTES_MIN}")
        self.segments_total = total_bytes // SEGMENT_BYTES
        # Anonymous memory is touched page by page as segments are used, and the free list is a
        # stack: a node that is hardly used stays small, and hot segments stay in the cache.
        self._arena = mmap.mmap(-1, self.segments_total * SEGMENT_BYTES)
        view = memoryview(self._arena)
        self.free = [
            view[i * SEGMENT_BYTES : (i + 1) * SEGMENT_BYTES]
            for i in reversed(range(self.segments_total))
        ]
        self.reserved = 0  # set aside by shares, whether taken or not
        self.reserve_limit = self.segments_total // 2  # rule 2 may have this much, rule 3 the rest
        self.unreserved_total = self.segments_total - self.reserve_limit
        self.spare = self.unreserved_total  # of that rest, free
        self.shares: list[Share] = []
        self._waiting: deque[Waiter] = deque()
        self._short = False  # somebody waits for the pool, not just for a share of its own
        self._serving = False

    @property
    def used(self) -> int:
        """Segments that are out."""
        return self.segments_total - len(self.free)

    @property
    def waiting(self) -> int:
        """Requests that wait for segments."""
        return len(self._waiting)

    def open_share(self) -> Share:
        """A new user of the pool, at first with nothing reserved."""
        share = Share(self)
        self.shares.append(share)
        self._set_limits()
        return share

    def _set_limits(self) -> None:
        limit = max(SHARE_SEGMENTS_MIN, self.unreserved_total // max(1, len(self.shares)))
        for share in self.shares:
            share.limit = limit

    def _close_share(self, share: Share) -> None:
        self.shares.remove(share)
        self._set_limits()
        self._serve()

    def _serve(self) -> None:
        """Hand what came back to those who wait, sessions in turn.

        Who is served may give back at once: the same loop hands that on, not a deeper one.
        """
        if self._serving:
            return
        self._serving = True
        try:
            self._serve_in_turn()
        finally:
            self._serving = False

    def _serve_in_turn(self) -> None:
        self._short = False
        passed = 0
        while passed < len(self._waiting):
            waiter = self._waiting[0]
            share = waiter.share
            count = min(waiter.wanted, share.limit - share.held, self.spare)
            if count >= waiter.least:
                self._waiting.popleft()
                waiter.resume(share.grab(count))
                passed = 0
            elif self.spare < waiter.least:
                self._short = True
                return  # nobody overtakes: a large one behind small ones would starve
            else:
                self._waiting.rotate(-1)  # over its share: the next session's turn
                passed += 1


class Share:
    """One session's part of the pool (rules 1 and 2)."""

    def __init__(self, pool: BufferPool) -> None:
        self.pool = pool
        self.held = 0  # unreserved segments that are out
        self.limit = 0
        self.reserved = 0
        self.reserved_out = 0

    def take(self, count: int) -> list[memoryview] | None:
        """``count`` segments at once, or None: then wait for them with :class:`Buffers`."""
        pool = self.pool
        if pool.spare < count or self.held + count > self.limit or pool._short:
            return None
        pool.spare -= count  # `grab` in line
        self.held += count
        free = pool.free
        if count == 1:  # as most reads take it
            return [free.pop()]
        assert count > 0, "no segments at all are asked for"
        segments = free[-count:]
        del free[-count:]
        return segments

    def grab(self, count: int) -> list[memoryview]:
        """Take segments that are known to be spare."""
        pool = self.pool
        pool.spare -= count
        self.held += count
        free = pool.free
        assert count > 0, "no segments at all are asked for"
        segments = free[-count:]
        del free[-count:]
        return segments

    def give(self, segments: list[memoryview]) -> None:
        """Give back what :meth:`take` or :class:`Buffers` gave.  The list is not used again."""
        pool = self.pool
        count = len(segments)
        pool.free += segments
        pool.spare += count
        self.held -= count
        assert self.held >= 0, "segments given back twice"
        if pool._waiting:
            pool._serve()

    def reserve(self, count: int) -> bool:
        """Set ``count`` more segments aside for unsolicited data, if the pool can."""
        pool = self.pool
        if pool.reserved + count > pool.reserve_limit:
            return False
        pool.reserved += count
        self.reserved += count
        return True

    def unreserve(self, count: int) -> None:
        """Give up ``count`` of the reserved segments that are not out."""
        assert count <= self.reserved - self.reserved_out, "unreserving segments in use"
        self.reserved -= count
        self.pool.reserved -= count

    def take_reserved(self, count: int) -> list[memoryview]:
        """``count`` of the reserved segments; the window guarantees that they are there."""
        assert count > 0, "no segments at all are asked for"
        self.reserved_out += count
        assert self.reserved_out <= self.reserved, "unsolicited data past the reservation"
        free = self.pool.free
        segments = free[-count:]
        del free[-count:]
        return segments

    def give_reserved(self, segments: list[memoryview]) -> None:
        """Give back what :meth:`take_reserved` gave; it stays reserved."""
        self.pool.free += segments
        self.reserved_out -= len(segments)
        assert self.reserved_out >= 0, "reserved segments given back twice"

    def close(self) -> None:
        """End the share; all that it held must have come back."""
        assert self.held == 0, f"{self.held} segments leaked"
        assert self.reserved_out == 0, f"{self.reserved_out} reserved segments leaked"
        self.unreserve(self.reserved)
        self.pool._close_share(self)


class Buffers(Wait[list[memoryview]]):
    """Wait for segments: ``wanted`` of them, or fewer down to ``least`` when they are scarce."""

    __slots__ = ("_least", "_share", "_waiter", "_wanted")
    what = "buffers"

    def __init__(self, share: Share, wanted: int, least: int = 1) -> None:
        self._share = share
        self._wanted = wanted
        self._least = min(least, wanted)
        self._waiter: Waiter | None = None

    def begin(self, resume: Resume) -> list[memoryview] | BaseException | _Pending:
        share, pool = self._share, self._share.pool
        count = min(self._wanted, share.limit - share.held, pool.spare)
        if count >= self._least and not pool._short:
            return share.grab(count)
        self._waiter = Waiter(share, self._wanted, self._least, self._resumed(resume))
        pool._waiting.append(self._waiter)
        pool._short = pool._short or pool.spare < self._least
        return PENDING

    def _resumed(self, resume: Resume) -> Resume:
        def granted(segments: Any) -> None:
            self._waiter = None
            resume(segments)

        return granted

    def cancel(self) -> bool:
        if self._waiter is not None:
            pool = self._share.pool
            pool._waiting.remove(self._waiter)
            self._waiter = None
            # Where nobody waits for the pool itself, each has been looked at: it stood in no way.
            if pool._short:
                pool._serve()
        return True
