"""The flight recorder: a session's last commands, told to the log when something goes wrong.

Rules:

1. What is kept is a reference to the request, which exists anyway; it is printed when it is told.
2. A command that failed through no doing of its initiator is a line of its own, at once.
3. All that is kept is told when the target failed a command (``TROUBLE``), when the initiator
   aborts commands or resets, and when a connection breaks.  Then a session begins anew.
4. No initiator can fill a disk with any of it: lines and tellings are bounded for the whole target.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from target.scsi.request import SCSIRequest, print_request
from target.scsi.sense import SenseKey, Status

log = logging.getLogger(__name__)

COMMANDS_KEPT: Final = 32  # of a session
ERRORS_MAX: Final = 20  # lines, in
ERRORS_SECONDS: Final = 10.0
DUMPS_MAX: Final = 4  # in
DUMPS_SECONDS: Final = 60.0

# What initiators ask for and are told in the course of things: no line above debug.
_USUAL_KEYS: Final = frozenset(
    {
        SenseKey.NO_SENSE,
        SenseKey.RECOVERED_ERROR,
        SenseKey.ILLEGAL_REQUEST,
        SenseKey.UNIT_ATTENTION,
        SenseKey.MISCOMPARE,
    }
)
_USUAL_STATUSES: Final = (Status.RESERVATION_CONFLICT, Status.CONDITION_MET)
TROUBLE: Final = frozenset({SenseKey.MEDIUM_ERROR, SenseKey.HARDWARE_ERROR})


class Budget:
    """``most`` events in ``seconds``."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._began = 0.0
        self._count = 0
        self.over = 0  # events that had no room since the last that had

    def take(self, now: float) -> bool:
        """Whether there is room for one more."""
        if now - self._began >= self._seconds:
            self._began = now
            self._count = 0
        if self._count >= self._most:
            self.over += 1
            return False
        self._count += 1
        return True

    def unsaid(self) -> dict[str, object]:
        """A field for those that had no room, which are told with it."""
        over, self.over = self.over, 0
        return {"unsaid": over} if over else {}


class FlightLog:
    """What all sessions of a target have in common (rule 4)."""

    def __init__(self) -> None:
        self.errors = Budget(ERRORS_MAX, ERRORS_SECONDS)
        self.rejects = Budget(ERRORS_MAX, ERRORS_SECONDS)
        self.dumps = Budget(DUMPS_MAX, DUMPS_SECONDS)


class FlightRecorder:
    """Of the session ``tsih`` of ``initiator``."""

    def __init__(self, shared: FlightLog, tsih: int, initiator: str) -> None:
        self._shared = shared
        self._of: dict[str, object] = {"session": tsih, "initiator": initiator}
        self.kept: deque[SCSIRequest] = deque(maxlen=COMMANDS_KEPT)

    def failed(self, requests: Sequence[SCSIRequest], now: float) -> None:
        """Rule 2, and rule 3 where the fault is the target's."""
        trouble = None
        for req in requests:
            key = None if req.sense is None else req.sense.key
            if key in _USUAL_KEYS or (key is None and req.status in _USUAL_STATUSES):
                if log.isEnabledFor(logging.DEBUG):
                    self._say(logging.DEBUG, "command refused", request=print_request(req))
            elif self._shared.errors.take(now):
                unsaid = self._shared.errors.unsaid()
                request = print_request(req)
                self._say(logging.WARNING, "command failed", request=request, **unsaid)
            if key in TROUBLE:
                trouble = key
        if trouble is not None:
            self.dump(trouble.name.replace("_", " "), (), now)

    def rejected(self, reason: str, header: bytes, now: float) -> None:
        """A PDU of the initiator has been answered with Reject (rule 4)."""
        rejects = self._shared.rejects
        if rejects.take(now):
            more = rejects.unsaid()
            self._say(logging.WARNING, "PDU rejected", reason=reason, pdu=header.hex(), **more)

    def lines(self, unfinished: Sequence[SCSIRequest]) -> list[str]:
        """What is kept, the oldest first, and then ``unfinished``; it stays kept."""
        return [print_request(req) for req in (*self.kept, *unfinished)]

    def dump(self, reason: str, unfinished: Sequence[SCSIRequest], now: float) -> None:
        """Tell what is kept, the oldest first, and then the last of ``unfinished``."""
        last = [*self.kept, *unfinished][-COMMANDS_KEPT:]
        self.kept.clear()
        if not last or not self._shared.dumps.take(now):
            return
        self._say(logging.WARNING, "last commands of a session", reason=reason, count=len(last))
        for req in last:
            self._say(
                logging.WARNING,
                "flight",
                ago_ms=round((now - req.started_at) * 1e3, 3),
                request=print_request(req),
            )

    def _say(self, level: int, event: str, **fields: object) -> None:
        log.log(level, event, extra={"fields": self._of | fields})
