"""The way from a request to the HBA that brought it.

A module of its own, which is never compiled (setup.py): anybody may write an HBA.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from target.block.pool import Share
from target.block.wait import Resume

if TYPE_CHECKING:
    from target.scsi.request import SCSIRequest


class HbaPort(Protocol):
    """What a request asks of the HBA that brought it (implemented in ``target/hba``)."""

    share: Share

    @abstractmethod
    def data_in(
        self, req: SCSIRequest, views: Sequence[memoryview | bytes], segments: list[memoryview]
    ) -> None:
        """Send the next bytes to the initiator; ``segments`` are given back when they are gone.

        The last call before ``complete`` may be held back so that status rides with it.
        """

    def answer(self, req: SCSIRequest, views: list[memoryview], segments: list[memoryview]) -> bool:
        """``data_in`` and ``complete`` of a read of blocks that ends with GOOD, in one.

        False, and nothing done, where it takes the two.
        """
        return False

    def crowded(self) -> bool:
        """Whether so much parameter data, which is in no segments, waits to be taken that there may
        not be more.
        """
        return False

    @abstractmethod
    def drained(self, req: SCSIRequest, resume: Resume) -> bool:
        """True if all ``data_in`` so far has left; else False and ``resume(None)`` is called."""

    @abstractmethod
    def solicit(
        self,
        req: SCSIRequest,
        offset: int,
        views: list[memoryview],
        nbytes: int,
        resume: Resume,
        in_place: bool,
    ) -> None:
        """Fill ``views`` with data-out bytes [offset, offset + nbytes); then ``resume(None)``.

        If they may be ``in_place``, and lie in one piece in a buffer of the HBA's, that may be
        handed over instead, ``resume(piece)``: it is valid until ``resume`` returns.
        """

    @abstractmethod
    def cancel_solicit(self, req: SCSIRequest) -> None:
        """The data asked for is no longer wanted: its buffers go away now, nothing is resumed."""

    @abstractmethod
    def keep_early(self, req: SCSIRequest) -> None:
        """Move ``req.early`` out of the receive buffer: the request will outlive this pass."""

    @abstractmethod
    def release_early(self, req: SCSIRequest) -> None:
        """The early data has been used: give its segments back."""

    @abstractmethod
    def complete(self, req: SCSIRequest) -> None:
        """Send status (and sense, residual) for a request that has ended."""

    @abstractmethod
    def aborted(self, req: SCSIRequest) -> None:
        """A request has ended without status; nothing of it may be sent any more."""
