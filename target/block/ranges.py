"""The order of overlapping I/O on a volume.

An I/O that cannot be done on the spot is registered with its byte range.  One that conflicts with
an earlier one (they overlap and one of them writes) starts when that has ended.  Each I/O waits for
earlier ones only, so there is no deadlock and no overtaking; each block behaves as one register.

Ranges are filed by the chunks that they touch, so what an I/O costs does not grow with the number
of others in flight elsewhere on the volume.  Writes are filed apart from reads: a read among reads
looks at none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class RangeTicket:
    """One registered I/O: bytes [start, end), which lie in ``chunks``."""

    __slots__ = ("blockers", "chunks", "dependents", "end", "holds", "proceed", "start", "writes")

    def __init__(
        self, start: int, end: int, chunks: range, writes: bool, proceed: Callable[[], None]
    ) -> None:
        self.start = start
        self.end = end
        self.chunks = chunks
        self.writes = writes
        self.proceed = proceed
        self.holds = False  # it keeps others out, as a writer does, and writes nothing new
        self.blockers = 0  # earlier I/Os that must end first
        self.dependents: list[RangeTicket] = []


_Tickets = dict[int, dict[RangeTicket, None]]  # by chunk, in the order of their coming


class RangeOrder:
    """The I/Os in flight on one volume."""

    def __init__(self, chunk_bytes: int) -> None:
        self._shift = chunk_bytes.bit_length() - 1
        self._reads: _Tickets = {}
        self._writes: _Tickets = {}
        self._ready: deque[RangeTicket] = deque()  # their turn has come
        self._starting = False
        self.idle = True  # nothing is in flight: an I/O on the spot needs no look-up

    def __len__(self) -> int:
        chunks = (*self._reads.values(), *self._writes.values())
        return len({ticket for tickets in chunks for ticket in tickets})

    def _chunks(self, start: int, end: int) -> range:
        return range(start >> self._shift, ((end - 1) >> self._shift) + 1)

    def _conflicts(self, start: int, end: int, chunks: range, writes: bool) -> list[RangeTicket]:
        """Those for which an I/O on [start, end) has to wait; one of several chunks comes again."""
        found: list[RangeTicket] = []
        for by_chunk in (self._writes, self._reads) if writes else (self._writes,):
            if by_chunk:
                for chunk in chunks:
                    for ticket in by_chunk.get(chunk, ()):
                        if ticket.start < end and start < ticket.end:
                            found.append(ticket)
        return found

    def free(self, start: int, end: int, writes: bool) -> bool:
        """Whether an I/O on [start, end) may be done on the spot."""
        if not writes and not self._writes:
            return True
        return not self._conflicts(start, end, self._chunks(start, end), writes)

    def enter(self, start: int, end: int, writes: bool, proceed: Callable[[], None]) -> RangeTicket:
        """Register an I/O; ``proceed()`` is called, perhaps at once, when its turn has come."""
        chunks = self._chunks(start, end)
        ticket = RangeTicket(start, end, chunks, writes, proceed)
        if earlier := self._conflicts(start, end, chunks, writes):
            earlier = list(dict.fromkeys(earlier))
            ticket.blockers = len(earlier)
            for other in earlier:
                other.dependents.append(ticket)
        by_chunk = self._writes if writes else self._reads
        self.idle = False
        for chunk in chunks:
            by_chunk.setdefault(chunk, {})[ticket] = None
        if not ticket.blockers:
            proceed()
        return ticket

    def when_written(self, done: Callable[[], None]) -> None:
        """``done()`` when the writes that are registered now have ended; no I/O waits for that.

        What holds a range, perhaps for long, is none.
        """
        writes = {
            ticket for tickets in self._writes.values() for ticket in tickets if not ticket.holds
        }
        waiter = RangeTicket(0, 0, range(0), False, done)
        waiter.blockers = len(writes)
        for ticket in writes:
            ticket.dependents.append(waiter)
        if not writes:
            done()

    def leave(self, ticket: RangeTicket) -> None:
        """An I/O has ended: those that waited for it may go."""
        by_chunk = self._writes if ticket.writes else self._reads
        for chunk in ticket.chunks:
            tickets = by_chunk[chunk]
            del tickets[ticket]
            if not tickets:
                del by_chunk[chunk]
        self.idle = not self._writes and not self._reads
        for dependent in ticket.dependents:
            dependent.blockers -= 1
            if not dependent.blockers:
                self._ready.append(dependent)
        if self._ready and not self._starting:
            self._start_ready()

    def _start_ready(self) -> None:
        """One after the other: an I/O that ends at once does not start the next inside itself."""
        self._starting = True
        try:
            while self._ready:
                self._ready.popleft().proceed()
        finally:
            self._starting = False
