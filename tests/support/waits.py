"""Driving ``Wait`` objects by hand: no event loop, the test says when time passes."""

from __future__ import annotations

from typing import Any

from target.block.wait import PENDING, Wait

NOTHING = object()


class Waiting:
    """A wait that has begun; ``outcome`` is what it ended with."""

    def __init__(self, wait: Wait[Any]) -> None:
        self._wait = wait
        self.outcome: Any = NOTHING
        outcome = wait.begin(self._resume)
        if outcome is not PENDING:
            self._resume(outcome)

    def _resume(self, outcome: Any) -> None:
        assert self.outcome is NOTHING, "a wait ended twice"
        self.outcome = outcome

    def over(self) -> bool:
        """Whether it has ended."""
        return self.outcome is not NOTHING

    def cancel(self) -> bool:
        """Cut it short."""
        return self._wait.cancel()


def result_of(wait: Wait[Any]) -> Any:
    """The result of a wait that has to end at once; an error is raised."""
    waiting = Waiting(wait)
    assert waiting.over(), "still waiting"
    if isinstance(waiting.outcome, BaseException):
        raise waiting.outcome
    return waiting.outcome
