"""What is kept of a logical unit (reservations, settings): documents, each with a version."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """The document as it is encoded; version 0 and no bytes: there is none yet."""

    version: int
    document: bytes


class DocumentStore(Protocol):
    """Every call ends within a bound, by ``done`` once, perhaps before it returns.

    An exception instead of a result says why it cannot be known: ``VolumeBusy`` (the initiator
    tries again) or ``StoreError``.  What was asked for may have been done then.
    """

    lasting: bool = True
    """Whether what is kept outlives the loss of power, where APTPL asks for that."""

    @abstractmethod
    def load(self, done: Callable[[Kept | Exception], None]) -> None:
        """What is kept now."""

    @abstractmethod
    def replace(
        self, version: int, document: bytes, done: Callable[[bool | Exception], None]
    ) -> None:
        """Replace version ``version`` by its next one; False: there is another one already."""

    def in_force(self, kept: Kept, done: Callable[[], None]) -> None:
        """This node acts by it from now on; ``done()`` when it has what it must not forget."""
        done()


class MemoryStore(DocumentStore):
    """Kept as long as the process lives."""

    lasting = False

    def __init__(self) -> None:
        self.kept = Kept(0, b"")

    def load(self, done: Callable[[Kept | Exception], None]) -> None:
        done(self.kept)

    def replace(
        self, version: int, document: bytes, done: Callable[[bool | Exception], None]
    ) -> None:
        if version != self.kept.version:
            done(False)
            return
        self.kept = Kept(version + 1, document)
        done(True)
