"""The order of overlapping I/O on a volume.

An I/O that cannot be done on the spot is registered with its byte range.  One that conflicts with
an earlier one (they overlap and one of them writes) starts when that has ended.  Each I/O waits for
earlier ones only, so there is no deadlock and no overtaking; each block behaves as one register.

Ranges are filed by the chunks that they touch, so what an I/O costs does not grow with the number
of others in flight elsewhere on the volume.
"""

from __future__ import annotations

from collections.abc import Callable


class RangeTicket:
    """One registered I/O: bytes [start, end)."""

    __slots__ = ("blockers", "dependents", "end", "proceed", "start", "writes")

    def __init__(self, start: int, end: int, writes: bool, proceed: Callable[[], None]) -> None:
        self.start = start
        self.end = end
        self.writes = writes
        self.proceed = proceed
        self.blockers = 0  # earlier I/Os that must end first
        self.dependents: list[RangeTicket] = []

    def conflicts(self, start: int, end: int, writes: bool) -> bool:
        """Whether an I/O on [start, end) has to wait for this one."""
        return self.start < end and start < self.end and (self.writes or writes)


class RangeOrder:
    """The I/Os in flight on one volume."""

    def __init__(self, chunk_bytes: int) -> None:
        self._shift = chunk_bytes.bit_length() - 1
        self._by_chunk: dict[int, dict[RangeTicket, None]] = {}

    def __len__(self) -> int:
        return len({t for tickets in self._by_chunk.values() for t in tickets})

    @property
    def idle(self) -> bool:
        """Nothing is in flight: an I/O on the spot needs no look-up."""
        return not self._by_chunk

    def _chunks(self, start: int, end: int) -> range:
        return range(start >> self._shift, ((end - 1) >> self._shift) + 1)

    def free(self, start: int, end: int, writes: bool) -> bool:
        """Whether an I/O on [start, end) may be done on the spot."""
        by_chunk = self._by_chunk
        for chunk in self._chunks(start, end):
            for ticket in by_chunk.get(chunk, ()):
                if ticket.conflicts(start, end, writes):
                    return False
        return True

    def enter(self, start: int, end: int, writes: bool, proceed: Callable[[], None]) -> RangeTicket:
        """Register an I/O; ``proceed()`` is called, perhaps at once, when its turn has come."""
        ticket = RangeTicket(start, end, writes, proceed)
        earlier: dict[RangeTicket, None] = {}
        for chunk in self._chunks(start, end):
            tickets = self._by_chunk.setdefault(chunk, {})
            earlier.update((t, None) for t in tickets if t.conflicts(start, end, writes))
            tickets[ticket] = None
        ticket.blockers = len(earlier)
        for other in earlier:
            other.dependents.append(ticket)
        if not ticket.blockers:
            proceed()
        return ticket

    def leave(self, ticket: RangeTicket) -> None:
        """An I/O has ended: those that waited for it may go."""
        for chunk in self._chunks(ticket.start, ticket.end):
            tickets = self._by_chunk[chunk]
            del tickets[ticket]
            if not tickets:
                del self._by_chunk[chunk]
        for dependent in ticket.dependents:
            dependent.blockers -= 1
            if not dependent.blockers:
                dependent.proceed()
