"""A session: an I_T nexus with its command window (RFC 7143 4.2.2, 7.4).

Rules of the window:

1. A credit is a promise to take one more command and its unsolicited data.  Every credit has pool
   segments for one FirstBurstLength reserved, so unsolicited data always finds its buffers.
2. A command that comes in uses a credit up (ExpCmdSN moves, MaxCmdSN does not); when it has ended
   and its early buffers are back, the credit is renewed (MaxCmdSN moves by one).  So MaxCmdSN never
   goes back and no more than ``credits`` commands are here, whatever is sent in between.
3. A session starts with few credits, gains some when it uses what it has, up to ``queue_depth`` and
   its fair share of the pool's reservation; what one has beyond that is not renewed.  Who has too
   many is told when another session comes.
4. Immediate commands are outside the window; at most ``IMMEDIATE_TASKS_MAX`` at a time.  At most
   ``MANAGEMENT_TASKS_MAX`` task management functions wait for the end of what they abort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from target.block.pool import SEGMENT_BYTES, BufferPool, Share, segments_for
from target.iscsi.counters import IscsiCounters
from target.iscsi.flight import FlightLog, FlightRecorder
from target.iscsi.serial import MASK
from target.iscsi.task import IscsiTask

if TYPE_CHECKING:
    from target.iscsi.endpoint import Endpoint
    from target.iscsi.parameters import SessionParameters
    from target.scsi.nexus import Nexus

IMMEDIATE_TASKS_MAX: Final = 2
MANAGEMENT_TASKS_MAX: Final = 8
CREDITS_FIRST: Final = 4
CREDITS_MIN: Final = 1
FIRST_BURST_BYTES_MAX: Final = 65536
TTT_MAX: Final = 0xFFFFFFFE  # 0xFFFFFFFF is reserved


class NoResources(Exception):
    """The pool cannot promise another session its unsolicited data."""


class Window:
    """The command window of one session, and the segments reserved behind it."""

    def __init__(
        self,
        share: Share,
        first_burst_bytes: int,
        depth: int,
        sessions_max: int,
        exp_cmd_sn: int = 0,
    ) -> None:
        self._share = share
        self._depth = depth
        self._sessions_max = sessions_max
        self._cost = segments_for(first_burst_bytes)
        self.credits = 0
        self.immediate = 0
        self.excess = 0  # credits beyond what is fair
        if not share.reserve((IMMEDIATE_TASKS_MAX + CREDITS_MIN) * self._cost):
            raise NoResources
        self.credits = CREDITS_MIN
        self.end = exp_cmd_sn + 1 & MASK  # the first CmdSN behind the window
        while self.credits < min(CREDITS_FIRST, depth) and self._grow():
            pass

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN in the window."""
        return self.end - 1 & MASK

    def _grow(self) -> bool:
        """One credit more, if that leaves a floor for every session that may still come."""
        pool = self._share.pool
        floor = (IMMEDIATE_TASKS_MAX + CREDITS_MIN) * self._cost
        to_come = max(0, self._sessions_max - len(pool.shares))
        if pool.reserved + self._cost > pool.reserve_limit - to_come * floor:
            return False
        if not self._share.reserve(self._cost):
            return False
        self.credits += 1
        self.end = self.end + 1 & MASK
        return True

    def outstanding(self, exp_cmd_sn: int) -> int:
        """Commands that have come in and not ended."""
        return self.credits - (self.end - exp_cmd_sn & MASK)

    def renew(self) -> None:
        """A command that came in has ended: its credit is there again (or is not, rule 3)."""
        if self.excess:
            self.excess -= 1
            self.credits -= 1
            self._share.unreserve(self._cost)
        else:
            self.end = self.end + 1 & MASK

    def tune(self, used: int) -> None:
        """``used`` credits were in use at once: have up to twice as many where that is fair."""
        fair = self._fair()
        self.excess = max(0, self.credits - fair)
        if used * 2 >= self.credits and self.credits < self._depth:
            most = min(self._depth, fair, 2 * self.credits)
            while self.credits < most and self._grow():
                pass

    def rebalance(self) -> None:
        """The number of sessions has changed."""
        self.excess = max(0, self.credits - self._fair())

    def _fair(self) -> int:
        if not self._cost:
            return self._depth
        pool = self._share.pool
        share = pool.reserve_limit // max(1, len(pool.shares)) // self._cost
        return max(CREDITS_MIN, share - IMMEDIATE_TASKS_MAX)


class HeldCommand:
    """A command ahead of its turn, with the unsolicited Data-Outs behind it: header and data."""

    __slots__ = ("pdus",)

    def __init__(self, header: bytes, data: bytes) -> None:
        self.pdus = [(header, data)]

    @property
    def nbytes(self) -> int:
        """What it takes to keep."""
        return sum(len(header) + len(data) for header, data in self.pdus)


class Session:
    """One I_T nexus (normal session), or a discovery session: then without nexus and window."""

    def __init__(
        self,
        tsih: int,
        initiator: str,
        isid: bytes,
        cid: int,
        share: Share,
        counters: IscsiCounters,
        flights: FlightLog,
    ) -> None:
        self.tsih = tsih
        self.initiator = initiator
        self.isid = isid
        self.cid = cid
        self.share = share
        self.counters = counters  # of the target
        self.flight = FlightRecorder(flights, tsih, initiator)
        self.user: str | None = None  # as whom it has proved itself (CHAP)
        self.nexus: Nexus | None = None
        self.window: Window | None = None
        self.parameters: SessionParameters | None = None  # as the login agreed on them
        self.exp_cmd_sn = 0
        self.tasks: dict[int, IscsiTask] = {}  # by ITT, those that have not ended
        self.leaving: set[IscsiTask] = set()  # of a connection that is gone; a store has them still
        self.management_tasks = 0  # task management functions without an answer
        self.skipped: set[int] = set()  # CmdSNs ahead of us that ABORT TASK made good
        self.held: dict[int, HeldCommand] = {}  # by CmdSN, those that came too early
        self.connection: Endpoint | None = None
        self._ttt = 0

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN that the initiator may use now."""
        return self.window.max_cmd_sn if self.window is not None else self.exp_cmd_sn

    def renew_credit(self) -> None:
        """A numbered PDU has been dealt with."""
        if self.window is not None:
            self.window.renew()

    def next_ttt(self) -> int:
        """A Target Transfer Tag that is not in use (bounded by the tasks there can be)."""
        self._ttt = self._ttt + 1 if self._ttt < TTT_MAX else 0
        return self._ttt


def plan_window(pool: BufferPool, sessions_max: int) -> tuple[int, int]:
    """FirstBurstLength (bytes) and the number of sessions that a pool can carry.

    Half of the reservation is a floor for every session that may come; the first burst is made
    smaller before the number of sessions is.
    """
    floor_segments = pool.reserve_limit // 2
    tasks = IMMEDIATE_TASKS_MAX + CREDITS_MIN
    first_burst = FIRST_BURST_BYTES_MAX
    while (
        first_burst > SEGMENT_BYTES
        and floor_segments // (tasks * segments_for(first_burst)) < sessions_max
    ):
        first_burst //= 2
    return first_burst, min(sessions_max, floor_segments // (tasks * segments_for(first_burst)))
