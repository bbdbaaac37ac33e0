"""Which store has a chunk: of a volume that stays where it is, and of one that moves.

Rules:

1. A chunk is in one place at a time.  In a volume that moves, those below ``moved`` are in their
   new places, all others in their old ones; ``moved`` only rises.
2. A store that is in the old and in the new layout is one store: a chunk that it keeps does not
   move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.store import VolumeStore

Place = Callable[[int], int]


class Layout:
    """``stores[place(n)]`` holds chunk ``n``."""

    moving = False

    def __init__(self, stores: Sequence[VolumeStore], place: Place = lambda chunk: 0) -> None:
        self.stores = tuple(stores)
        self.place = place
        self.only = stores[0] if len(stores) == 1 else None
        self.at_hand = self.only if self.only is not None and self.only.at_hand else None
        self.some_at_hand = self.only is None and any(store.at_hand for store in stores)
        # I/O in flight that waits for no other and that none waits for (``Volume.flush``,
        # ``block_status``): a store that is left may be closed when there is none.
        self.unordered = 0


class MovingLayout(Layout):
    """On the way from ``old`` to ``new``: chunks below ``moved`` are there."""

    moving = True

    def __init__(self, old: Layout, new: Layout, moved: int = 0) -> None:
        gone_to = [store for store in new.stores if store not in old.stores]
        super().__init__((*old.stores, *gone_to), self._place)
        # A volume that moves has I/O in order with its moves, even while it has one store.
        self.only = self.at_hand = None
        self.some_at_hand = False
        self.old = old
        self.new = new
        self.moved = moved
        self._number = [self.stores.index(store) for store in new.stores]

    def _place(self, chunk: int) -> int:
        return self.new_place(chunk) if chunk < self.moved else self.old.place(chunk)

    def new_place(self, chunk: int) -> int:
        """The number in ``stores`` of the store where ``chunk`` is to be."""
        return self._number[self.new.place(chunk)]

    def next_to_move(self, chunk: int, end: int) -> int:
        """The first chunk of [chunk, end) that changes its place, or ``end``."""
        while chunk < end and self.old.place(chunk) == self.new_place(chunk):
            chunk += 1
        return chunk

    @property
    def left(self) -> list[VolumeStore]:
        """The stores that have nothing of the volume when it has moved."""
        return [store for store in self.old.stores if store not in self.new.stores]
