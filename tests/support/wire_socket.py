"""A connection to a target in the same process, where a test's raw initiator has its socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from target.iscsi.channel import Channel
from target.iscsi.receiver import FramingError
from target.iscsi.target import IscsiTarget
from tests.support.iscsi_socket import PduSocket

PORTAL = ("192.0.2.1", 3260)

Pieces = Callable[[memoryview], Iterator[memoryview]]
"""Cuts what is sent into the pieces in which it arrives."""


class WireSocket(PduSocket):
    """Stands where a socket would: a channel of the target at the other end.

    `pieces` cuts what is sent. `taking` is how many bytes of the target's output are taken; None
    for all of them. `settles` says after each read whether others use the scratch buffer next.
    """

    def __init__(
        self,
        target: IscsiTarget,
        clock: Callable[[], float],
        scratch: memoryview,
        peer: str,
        on_drop: Callable[[WireSocket], None],
        group: str = "",
    ) -> None:
        self._clock = clock
        self._scratch = scratch
        self._on_drop = on_drop
        self.timeout = 0.0
        self.header_digest = self.data_digest = False
        self.at_end = False
        self._received = bytearray()
        self._read = 0
        self._to_send = deque()
        self.pieces: Pieces | None = None
        self.settles: Callable[[], bool] = lambda: True
        self.taking: int | None = None
        self.drop_reason: str | None = None
        self.sent: bytearray | None = None  # set to one, all that is sent is added to it
        self.answered: bytearray | None = None  # and all that comes
        self.channel = Channel(target, self._wake, peer, PORTAL, clock(), group)

    def close(self) -> None:
        self.drop("closed by the initiator")

    def tick(self, undelivered: int = 0) -> None:
        self.channel.now = self._clock()
        reason = self.channel.tick(self.channel.now, undelivered)
        self.pump()
        if reason:
            self.drop(reason)

    def drop(self, reason: str) -> None:
        """The connection is gone."""
        if self.drop_reason is None:
            self.drop_reason = reason
            self.at_end = True
            self._to_send.clear()
            self._on_drop(self)
            self.channel.lost(reason)

    def step(self, timeout: float) -> bool:
        return self.pump()

    def pump(self) -> bool:
        """Deliver what waits in both directions; whether there was anything."""
        moved = bool(self._to_send)
        if moved:
            data = memoryview(b"".join(self._to_send))
            self._to_send.clear()
            for piece in self.pieces(data) if self.pieces is not None else (data,):
                self.feed(piece)
        return self._take() or moved

    def feed(self, data: memoryview | bytes) -> None:
        """These bytes arrive, all at once as far as there is room for them."""
        if self.sent is not None:
            self.sent += data
        rest = memoryview(data)
        while rest and self.drop_reason is None:
            rest = rest[self._deliver(rest) :]
            self._take()

    def _deliver(self, data: memoryview) -> int:
        channel, scratch = self.channel, self._scratch
        taken = 0
        for view in channel.receiver.buffers(scratch):
            size = min(len(view), len(data) - taken)
            view[:size] = data[taken : taken + size]
            taken += size
        channel.now = self._clock()
        try:
            channel.received(scratch, taken)
            if self.settles():
                channel.receiver.settle(scratch)
        except FramingError as exc:
            self._take()
            self.drop(str(exc))
        if not channel.receiver.unfinished:
            # The buffer serves all connections: who still looks at it reads nonsense.
            scratch[:taken] = b"\xee" * taken
        return taken

    def _wake(self) -> None:
        """Output is there; it is taken by whoever pumps."""

    def _take(self) -> bool:
        """Take the target's output, as a socket would."""
        sender = self.channel.sender
        moved = False
        while sender.out and self.taking != 0 and self.drop_reason is None:
            data = b"".join(sender.out)
            if self.taking is not None:
                data = data[: self.taking]
                self.taking -= len(data)
            self._received += data
            if self.answered is not None:
                self.answered += data
            sender.sent(len(data))
            moved = True
        if self.channel.ended:
            self.channel.count_ended(self._clock())
        if self.channel.hanging_up and not sender.out:
            self.drop("")
        return moved
