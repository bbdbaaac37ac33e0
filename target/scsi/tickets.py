"""Commands that change what is kept of a unit, its settings or its reservations, wait for that.

Rule: a command that is to end waits for this node, not for others, which may wait for its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from target.block.wait import PENDING, Resume, Wait, _Pending

C = TypeVar("C")
R = TypeVar("R")


class Ticket(Generic[C, R]):
    """A change that has been asked for."""

    __slots__ = ("asker", "change", "done", "given_up", "here", "tries")

    def __init__(self, change: C, done: Callable[[R | Exception], None], asker: Any = None) -> None:
        self.change = change
        self.done = done
        self.asker = asker  # who waits for it, if anybody does
        self.tries = 0
        self.here = False  # kept, and done on this node: who is to end need not wait
        self.given_up = False  # by who asked for it


T = TypeVar("T", bound=Ticket[Any, Any])


def withdraw(queue: deque[T], ticket: T) -> bool:
    """Whether nobody hears of a change: it had not begun, and never will, or is in force here.

    Otherwise ``done`` hears when it is, or what went wrong.
    """
    if ticket in queue:
        queue.remove(ticket)
        return True
    ticket.given_up = True
    return ticket.here


class Keeper(Protocol):
    """Who carries tickets out, one after the other."""

    @abstractmethod
    def carry_out(self, ticket: Any) -> None:
        """``ticket.done`` hears of it once, perhaps before this returns."""

    @abstractmethod
    def withdraw(self, ticket: Any) -> bool:
        """As the function."""


class CarriedOut(Wait[R]):
    """A change, until it is in force everywhere; ``done`` of its ticket is :meth:`_done`."""

    __slots__ = ("_keeper", "_outcome", "_resume", "_ticket")

    def __init__(self, keeper: Keeper, ticket: Ticket[Any, R]) -> None:
        self._keeper = keeper
        self._ticket = ticket
        self._outcome: Any = PENDING
        self._resume: Resume | None = None

    def begin(self, resume: Resume) -> R | BaseException | _Pending:
        self._keeper.carry_out(self._ticket)
        if self._outcome is PENDING:
            self._resume = resume
        outcome: R | BaseException | _Pending = self._outcome
        return outcome

    def _done(self, outcome: R | Exception) -> None:
        self._outcome = outcome
        if self._resume is not None:
            self._resume(outcome)

    def cancel(self) -> bool:
        return self._keeper.withdraw(self._ticket)
