"""One node's stream: its messages become I/Os, their outcomes become messages.

No socket here: messages come in as bytes, and go out in pieces when :meth:`ClientStream.take` is
asked for them (workers/data_service.py does both).

Rules:

1. What a store can do on the spot is done as the message is read; all else goes to the scheduler.
2. Answers gather while the last message goes out, and then leave together.
3. A node has credit for the payload that it sends: what it has not used, and what it has sent and
   has not ended, together fit its share of the buffers.  Credit is given again with the answers,
   while it has less than the largest message takes.
4. Data for the node is read only when the node has given credit for it, into its share of the
   buffers, where it stays until its message has gone out.
5. Once the stream has ended, for whatever reason, nothing more begins, and what still runs is
   answered to nobody.
6. A node on this machine is lent memory for payload (lent.py), as long as there is any to lend.
7. While as many answers wait to leave as a stream may have I/Os, no more messages are read: a node
   that keeps the bounds never comes to that, and one that reads no answers costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from workers.buffers import BufferMemory
from workers.lent import LentMemory
from workers.limits import LENT_BYTES, PAYLOAD_BYTES_MAX, SOCKET_PAYLOAD_BYTES, STREAM_IOS_MAX
from workers.nodes import End, Node, OpenShare
from workers.outbox import Outbox
from workers.scheduler import NO_DEADLINE, Hold, Scheduler, ServedIo, start
from workers.stats import WorkerStats
from workers.store import IoKind, StoreStatus
from workers.wire import (
    NO_OFFERS,
    NO_PAYLOAD,
    Answer,
    Batch,
    Offers,
    Parts,
    WireError,
    WireFault,
    WireIo,
    answer_bytes_max,
    pack_answers,
    pack_extents,
)

CREDIT_WINDOW_MAX: Final = 16 << 20  # bytes; more in flight would make nothing faster
ANSWER_CREDIT_MAX: Final = 1 << 40  # a node that gives more has lost count


class ClientStream:
    """The stream of ``node``.  ``wake`` is called when :meth:`take` has something to give."""

    def __init__(
        self,
        node: Node,
        scheduler: Scheduler,
        memory: BufferMemory,
        *,
        stats: WorkerStats,
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        checksum: bool = True,
        lend: Callable[[int], tuple[LentMemory, bytes] | None] = lambda nbytes: None,
    ) -> None:
        stats.streams += 1
        self._stats = stats
        self.node = node
        self.epoch = node.epoch
        self.end_reason: End | None = None
        self.refusing = False  # the worker is draining
        self._scheduler = scheduler
        self._requests = memory.requests.open_share()
        try:
            self._answers = memory.answers.open_share()
        except BaseException:
            self._requests.close()
            raise
        self._wake = wake
        self._loop = loop
        self._request_credit = 0  # given and not used
        self._answer_credit = 0
        self._ios: dict[int, ServedIo] = {}  # by sequence number, begun or not
        self._outbox = Outbox(self._answers, wake, checksum, loop)
        self._numbers = 0  # of messages in
        self._greeting = False  # a message is due, with or without answers
        self._offers = NO_OFFERS  # to go out with the first message
        self._lent = self._lend(lend)
        self._closed = False
        self._room = asyncio.Event()  # for more answers (rule 7)

    def _lend(self, lend: Callable[[int], tuple[LentMemory, bytes] | None]) -> LentMemory | None:
        """Rule 6."""
        lent = lend(LENT_BYTES) if self._requests.lend(LENT_BYTES) else None
        if lent is None:
            self._requests.keep()
            return None
        memory, token = lent
        self._offers = Offers(token, LENT_BYTES)
        return memory

    @property
    def memory(self) -> memoryview:
        """What was lent to the node; empty: nothing."""
        return self._lent.view if self._lent is not None else NO_PAYLOAD

    # --- messages in ------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """Whether no message is to be read before :meth:`room` (rule 7)."""
        return self._outbox.waiting >= STREAM_IOS_MAX

    async def room(self) -> None:
        """Wait until the node has taken answers, or the stream has ended."""
        while self.crowded:
            self._room.clear()
            await self._room.wait()

    def receive(self, batch: Batch) -> None:
        """Serve a message; raises WireError.  The epoch has been checked."""
        if self.end_reason is not None:
            return
        self._numbers += 1
        if batch.number != self._numbers:
            raise WireError(
                WireFault.MALFORMED, f"message {batch.number} where {self._numbers} was due"
            )
        if batch.payload_bytes > self._request_credit:
            raise WireError(
                WireFault.OUT_OF_CREDIT,
                f"{batch.payload_bytes} payload bytes with {self._request_credit} of credit",
            )
        answer_credit = self._answer_credit + batch.answer_credit
        if answer_credit > ANSWER_CREDIT_MAX:
            raise WireError(WireFault.TOO_LARGE, f"{answer_credit} bytes of answer credit")
        self._answer_credit = answer_credit
        self._request_credit -= batch.payload_bytes
        stats = self._stats
        stats.messages += 1
        stats.ios += len(batch.ios)
        stats.received_bytes += sum(len(wire.payload) for wire in batch.ios)
        hold = Hold(batch.payload_bytes)
        hold.users = 1  # this method's: until all I/Os have been looked at
        try:
            for wire in batch.ios:
                self._serve(wire, hold)
        finally:
            self._release(hold)
        if batch.cancel:
            self._scheduler.cancel(self, set(batch.cancel))
        # What waited for credit may begin; so may what waits behind what was begun.
        self._scheduler.pump()

    def _serve(self, wire: WireIo, hold: Hold) -> None:
        if wire.sequence in self._ios:
            raise WireError(WireFault.MALFORMED, f"sequence number {wire.sequence} runs already")
        opened = self.node.volumes.get(wire.volume)
        if opened is None or opened.share.deleting:
            self._refuse(wire, StoreStatus.UNAVAILABLE, f"volume {wire.volume} is not open here")
        elif self.refusing:
            self._refuse(wire, StoreStatus.UNAVAILABLE, "the worker is draining")
        elif len(self._ios) >= STREAM_IOS_MAX:
            self._refuse(wire, StoreStatus.UNAVAILABLE, f"{STREAM_IOS_MAX} I/Os are unanswered")
        elif wire.offset + wire.length > opened.share.info.size and wire.kind is not IoKind.FLUSH:
            self._refuse(wire, StoreStatus.OUT_OF_RANGE, "beyond the volume")
        elif wire.kind is IoKind.COMPARE_AND_WRITE and self._recalled(wire):
            pass
        elif not self._serve_now(wire, opened):
            self._queue(wire, opened, hold)

    def _refuse(self, wire: WireIo, status: StoreStatus, detail: str) -> None:
        opened = self.node.volumes.get(wire.volume)
        self._told(wire, "" if opened is None else opened.share.info.name, status, detail)
        self._answer(Answer(wire.sequence, status), 0, detail)

    def _told(self, io: WireIo | ServedIo, volume: str, status: StoreStatus, detail: str) -> None:
        if status is not StoreStatus.OK and self.end_reason is None:
            self._stats.failure_log.ended(
                status,
                detail,
                self._loop.time(),
                node=self.node.name,
                volume=volume,
                kind=io.kind,
                offset=io.offset,
                length=io.length,
            )

    def _recalled(self, wire: WireIo) -> bool:
        known = self.node.recall(wire.sequence)
        if known is not None:
            self._answer(Answer(wire.sequence, known[0], (), known[1]), 0, "")
        return known is not None

    def _serve_now(self, wire: WireIo, opened: OpenShare) -> bool:
        """Rule 1."""
        length = wire.length
        if wire.kind is IoKind.READ:
            if not opened.store.at_hand:
                return False
            if length > self._answer_credit or length > self._answers.room():
                return False
            if self._scheduler.waits(self, opened):
                return False
            view = memoryview(bytearray(length))
            if not opened.store.read_now(wire.offset, (view,), length):
                return False
            self._answer_credit -= length
            self._answers.take(length)
            self._answer(Answer(wire.sequence, StoreStatus.OK, (view,)), length, "")
            return True
        if wire.kind is IoKind.WRITE and not wire.fua:
            if opened.store.write_now(wire.offset, (wire.payload,), length):
                self._answer(Answer(wire.sequence, StoreStatus.OK), 0, "")
                return True
        return False

    def _queue(self, wire: WireIo, opened: OpenShare, hold: Hold) -> None:
        now = self._loop.time()
        deadline = now + wire.deadline_ms / 1000 if wire.deadline_ms else NO_DEADLINE
        io = ServedIo(wire, self, opened, None, deadline)
        io.arrived = now
        if len(wire.payload):
            hold.users += 1
            io.hold = hold
        self._ios[wire.sequence] = io
        opened.share.begin()
        if io.kind is IoKind.FLUSH:
            start(io)  # one at a time of a store, so it needs no turn
        else:
            self._scheduler.add(io)

    # --- of the scheduler and the stores ----------------------------------------------------------

    def reserve_answer(self, io: ServedIo) -> bool:
        """Rule 4."""
        nbytes = answer_bytes_max(io.kind, io.length)
        if nbytes:
            if nbytes > self._answer_credit or nbytes > self._answers.room():
                return False
            self._answer_credit -= nbytes
            self._answers.take(nbytes)
        io.reserved = nbytes
        return True

    def ended(self, io: ServedIo) -> None:
        """An I/O has ended, in a store or before it began."""
        io.opened.share.ended()
        if io.status is StoreStatus.SYNC_LOST:
            io.opened.share.sync_lost()
        if io.started:
            self._stats.ended(self._loop.time() - io.arrived)
            if io.kind is IoKind.COMPARE_AND_WRITE and _executed(io.status):
                if self.epoch == self.node.epoch:  # sequence numbers are of an epoch
                    self.node.remember(io.sequence, io.status, io.miscompare_offset)
            self.node.ended()
            if io.kind is not IoKind.FLUSH:
                self._scheduler.came_back(io)
        del self._ios[io.sequence]
        if io.hold is not None:
            self._release(io.hold)
        reserved = max(0, io.reserved)
        payload: tuple[memoryview, ...] = ()
        if io.status is StoreStatus.OK and io.kind is IoKind.READ:
            payload = tuple(io.buffers)
        elif io.status is StoreStatus.OK and io.kind is IoKind.BLOCK_STATUS:
            payload = (memoryview(pack_extents(io.extents)),)
        used = sum(map(len, payload))
        self._answer_credit += reserved - used
        if used < reserved:
            self._answers.give(reserved - used)
        self._told(io, io.opened.share.info.name, io.status, io.detail)
        answer = Answer(io.sequence, io.status, payload, io.miscompare_offset)
        self._answer(answer, used, io.detail)
        self._scheduler.pump()

    def _release(self, hold: Hold) -> None:
        hold.users -= 1
        if hold.users == 0 and hold.nbytes:
            self._requests.give(hold.nbytes)

    # --- messages out -----------------------------------------------------------------------------

    def _answer(self, answer: Answer, held: int, detail: str) -> None:
        if answer.status is not StoreStatus.OK:
            self._stats.failures[answer.status] += 1
        if self.end_reason is None:
            self._outbox.add(answer, held, detail, len(self._ios))
        else:
            self._answers.give(held)
            self._close_if_done()

    def greet(self, socket_token: bytes = b"") -> None:
        """The node is served from now on: its first credit goes out, and what it is offered."""
        self._offers = self._offers._replace(socket_token=socket_token)
        self._greeting = True
        self._wake()

    def on_socket(self) -> None:
        """From now on messages go past gRPC."""
        self._outbox.payload_max = SOCKET_PAYLOAD_BYTES

    def take(self) -> Parts | None:
        """The next message, or None if there is nothing to say.  The last one has gone out."""
        if self._outbox.sent():
            self._scheduler.pump()
        outbox = self._outbox
        waits = not outbox.waiting or outbox.gathering
        if self.end_reason is not None or (waits and not self._greeting):
            return None
        self._greeting = False
        offers, self._offers = self._offers, NO_OFFERS
        message = outbox.pack(self._new_credit(), offers)
        self._room.set()
        self._stats.sent_bytes += outbox.going_out
        return message

    def _new_credit(self) -> int:
        """Rule 3; nothing while the node has plenty."""
        if self._request_credit > PAYLOAD_BYTES_MAX:
            return 0
        credit = min(self._requests.room(), CREDIT_WINDOW_MAX - self._requests.held)
        if credit <= 0:
            return 0
        self._requests.take(credit)
        self._request_credit += credit
        return credit

    def refusal(self, batch: Batch) -> Parts:
        """The last message: all of ``batch`` is of an epoch that is over."""
        answers = [Answer(wire.sequence, StoreStatus.STALE_EPOCH) for wire in batch.ios]
        return pack_answers(self._outbox.messages + 1, answers)

    # --- its end ----------------------------------------------------------------------------------

    def end(self, reason: End) -> None:
        """Rule 5."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        self._outbox.drop()
        self._requests.give(self._request_credit)
        self._request_credit = 0
        self._scheduler.drop(self)  # the last of these closes the shares of the buffers
        self._wake()
        self._room.set()
        self._close_if_done()

    def finish(self) -> None:
        """Its messages go nowhere any more."""
        self.end(End.GONE)
        self._outbox.sent()
        self._close_if_done()

    @property
    def unanswered(self) -> bool:
        """Whether I/Os run or wait, or answers do."""
        return bool(self._ios) or self._outbox.waiting > 0

    def _close_if_done(self) -> None:
        if self._closed or self.end_reason is None or self._ios or self._outbox.going_out:
            return
        self._closed = True
        if self._lent is not None:
            self._lent.close()
        self._answers.close()
        self._requests.close()


def _executed(status: StoreStatus) -> bool:
    """Whether a COMPARE_AND_WRITE looked at the data, or may have written."""
    return status not in (StoreStatus.UNAVAILABLE, StoreStatus.DEADLINE)
