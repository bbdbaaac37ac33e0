"""Awaiting without an event loop: what a request does when something really has to wait.

A command whose data is at hand is a plain function call from CDB to answer.  Everything longer is
an ``async def`` that awaits :class:`Wait` objects.  It is driven by its owner (``SCSIRequest``),
step by step, with no asyncio task, future or loop: the same code runs under uvloop, in a unit test
and on a simulated clock.

Rules:

1. ``begin(resume)`` starts the wait.  It returns ``PENDING``, and then calls ``resume(outcome)``
   exactly once later on; or returns the outcome at once, and then never calls it.
2. An outcome that is an exception instance is raised at the ``await``.
3. ``cancel()`` answers True if the wait is over and ``resume`` will never be called; False if it
   cannot be cut short (a store I/O that uses the caller's buffers), so that the owner must wait.
   It may say ``hurry()`` then, and has to be ready for ``resume`` when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class _Pending:
    __slots__ = ()

    def __repr__(self) -> str:
        return "PENDING"


PENDING: Final = _Pending()
Resume = Callable[[Any], None]


class Wait(Generic[T]):
    """Something that takes time and yields a ``T``; ``what`` it is, for traces."""

    __slots__ = ()
    what: str = "wait"

    def begin(self, resume: Resume) -> T | BaseException | _Pending:
        """Start (rule 1)."""
        raise NotImplementedError

    def cancel(self) -> bool:
        """Cut the wait short if that is possible (rule 3)."""
        return False

    def hurry(self) -> None:
        """Nobody wants the outcome any more: what has not begun need not (rule 3)."""

    def __await__(self) -> Generator[Wait[Any], Any, T]:
        outcome: T = yield self
        return outcome


class Turn(Wait[None]):
    """Give way: go on at the next turn of whoever runs us, when others have had theirs.

    ``defer`` has a function called soon, but not now (``call_soon`` of an event loop).
    """

    __slots__ = ("_cancelled", "_defer")
    what = "turn"

    def __init__(self, defer: Callable[[Callable[[], None]], object]) -> None:
        self._defer = defer
        self._cancelled = False

    def begin(self, resume: Resume) -> _Pending:
        def next_turn() -> None:
            if not self._cancelled:
                resume(None)

        self._defer(next_turn)
        return PENDING

    def cancel(self) -> bool:
        self._cancelled = True
        return True
