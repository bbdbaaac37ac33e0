"""What the clients of a chaos run did and saw, in one order.

A history is a list of events, in the order in which they were recorded: an ``invoke`` before the
command is sent, its end after the answer has been read.  So an operation that ended before another
was invoked in the list did so in fact, whichever thread, session or target node it went through.
An operation ends with

    ok      it was answered with GOOD
    differ  a COMPARE AND WRITE was answered with MISCOMPARE: it was not done
    fail    it was answered with anything else, or it was aborted and that was answered: it may have
            been done, but by now or not at all
    info    its session broke, or it is to be tried again (BUSY of one of several nodes): it may
            still be done (checker.py, rule 3, says until when)

The nemesis records what it does as operations of its own (``Op.FAULT``).
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

# The version of a block that was never written, and of bytes that nobody wrote.
NEVER_WRITTEN = 0
GARBAGE = -1


class Op(enum.Enum):
    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    SWAP = "compare and write"
    PROBE = "test unit ready"
    ABORT = "abort task"
    RESET = "lun reset"
    FAULT = "fault"


class End(enum.Enum):
    INVOKE = "invoke"
    OK = "ok"
    DIFFER = "differ"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history.

    ``versions`` are the blocks concerned: of a write those it writes, from its invocation on; of a
    read those it found, with its end.  ``expected`` are those that a COMPARE AND WRITE replaces;
    with its end ``differ`` it is the one block of them that was said to differ, if one was named.
    ``detail`` says why something failed, or names a fault.
    """

    end: End
    op: Op
    operation: int  # one number for an operation's two events
    process: str  # the client, or the nemesis
    versions: Mapping[int, int] = field(default_factory=dict)
    expected: Mapping[int, int] = field(default_factory=dict)
    detail: str = ""


class History:
    """Collects the events of all threads."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._operations = itertools.count(1)
        self._versions = itertools.count(NEVER_WRITTEN + 1)
        self._lock = threading.Lock()

    def new_version(self) -> int:
        """A version that nobody else has."""
        with self._lock:
            return next(self._versions)

    def invoke(
        self,
        process: str,
        op: Op,
        versions: Mapping[int, int] | None = None,
        *,
        expected: Mapping[int, int] | None = None,
        detail: str = "",
    ) -> int:
        """An operation begins; its number."""
        with self._lock:
            operation = next(self._operations)
            self.events.append(
                Event(End.INVOKE, op, operation, process, versions or {}, expected or {}, detail)
            )
        return operation

    def end(
        self,
        end: End,
        operation: int,
        process: str,
        op: Op,
        versions: Mapping[int, int] | None = None,
        *,
        expected: Mapping[int, int] | None = None,
        detail: str = "",
    ) -> None:
        """An operation ends."""
        event = Event(end, op, operation, process, versions or {}, expected or {}, detail)
        with self._lock:
            self.events.append(event)
