"""What a node has kept of one logical unit's reservations, and may have to tell again.

Rules:

1. What is kept, and may not be in force on every node, is told again with whatever is answered
   next, with all that it does to nexuses; if that fails too, the answer is to try again.
2. An initiator that tries again what has been kept is not in conflict with itself.
3. What was found in the store may have been kept by a node that did not come to tell it: who has
   lost its registration by that may have been preempted, and is treated as if it had been aborted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final, TypeVar

from target.scsi.reservations.names import NexusName
from target.scsi.reservations.persistent import PersistentChange
from target.scsi.reservations.state import Outcome, ReservationState
from target.scsi.unit_events import ReservationsChanged

MADE_MAX: Final = 1000  # changes of which their initiators may not know

T = TypeVar("T")


class Made:
    """A change that this node has kept as ``version``, or may have."""

    __slots__ = ("before", "change", "kept", "outcome", "told", "version")

    def __init__(
        self,
        change: PersistentChange | None,
        before: ReservationState,
        outcome: Outcome,
        version: int,
    ) -> None:
        self.change = change  # None: nobody will try it again, or is in conflict if it does
        self.before = before
        self.outcome = outcome
        self.version = version
        self.kept = False  # for sure
        self.told = False  # and done on all nodes

    def stands(self, state: ReservationState) -> bool:
        """Whether it has been made, as far as ``state`` shows, and nobody has undone it since."""
        if self.change is None:
            return False
        asker, after = self.change.nexus, self.outcome.state
        gone = set(self.before.nexuses()) - set(after.nexuses())
        return (
            state.key_of(asker) == after.key_of(asker)
            and state.holds(asker) is after.holds(asker)
            and gone.isdisjoint(state.nexuses())
        )


class Owed:
    """What of it may not be in force everywhere."""

    def __init__(self) -> None:
        self._told = 0  # the newest version that is in force on all nodes for sure
        self._untold = 0  # the newest one of which that is not to be expected
        self._made: dict[NexusName, Made] = {}  # what they may try again
        self._lost: frozenset[NexusName] = frozenset()  # rule 3; those of this node

    @property
    def any(self) -> bool:
        """Whether there is something to tell before anything is answered (rule 1)."""
        return self._told < self._untold or any(
            it.kept and not it.told for it in self._made.values()
        )

    def told(self, version: int) -> bool:
        """Whether all nodes have that version for sure."""
        return self._told >= version

    def found(self, version: int, lost: Iterable[NexusName] = ()) -> None:
        """A version was in the store; by that these nexuses of this node have lost theirs."""
        self._untold = version
        self._lost = self._lost.union(lost)

    def settle(self, version: int, state: ReservationState) -> None:
        """What is in the store: what may have been kept has been, or has not if it is older."""
        for asker, made in list(self._made.items()):
            if not made.kept and version >= made.version:
                made.kept = made.stands(state)
                if not made.kept:
                    del self._made[asker]

    def remember(self, made: Made) -> None:
        """Its initiator has been told to try again."""
        if made.change is None:
            return
        self._made.pop(made.change.nexus, None)
        self._made[made.change.nexus] = made
        while len(self._made) > MADE_MAX:
            del self._made[next(iter(self._made))]

    def tried_again(self, change: PersistentChange, state: ReservationState) -> bool:
        """Rule 2."""
        made = self._made.get(change.nexus)
        return made is not None and made.kept and made.change == change and made.stands(state)

    def answered(self, asker: NexusName) -> None:
        """An initiator knows where it is."""
        made = self._made.get(asker)
        if made is not None and made.told:
            del self._made[asker]

    def begin(self, version: int, state: ReservationState, made: Made | None) -> Telling:
        """All that is to be told, with what has just been made."""
        some = [it for it in self._made.values() if it.kept and not it.told]
        if made is not None:
            some.append(made)
        event = ReservationsChanged(
            version,
            state,
            _each(it.outcome.attentions for it in some),
            _each(it.outcome.aborted for it in some),
            found=self._told < self._untold,
        )
        return Telling(event, some, self._lost)

    def end(self, telling: Telling, sure: bool) -> None:
        """Whether all nodes have done it for sure."""
        version = telling.event.version
        if not sure:
            self._untold = max(self._untold, version)
            return
        self._told = max(self._told, version)
        self._lost -= telling.lost
        for made in telling.made:
            made.told = True


class Telling:
    """What is being told."""

    __slots__ = ("event", "lost", "made")

    def __init__(
        self, event: ReservationsChanged, made: list[Made], lost: frozenset[NexusName]
    ) -> None:
        self.event = event
        self.made = made
        self.lost = lost


def _each(groups: Iterable[Iterable[T]]) -> tuple[T, ...]:
    """What is in any of them, once."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(groups)))
