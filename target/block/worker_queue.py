"""What a node has asked of one worker and not been answered: the order, the bounds, the retries.

No socket, clock or task is in here: ``worker_link.py`` carries the messages and tells the time.

Rules (why they are safe: docs/decisions/0010-retries-never-reorder.md):

1. An I/O has one sequence number for all its sendings, and is on one stream at a time.  It is sent
   again only on a newer stream that the worker *serves*: it has answered that stream's first
   message, which carries no I/O, and has thereby said that nothing of an older stream runs.
2. An I/O ends for its caller with its answer or at its deadline.  One that was sent and whose
   deadline passes is *in doubt*: it may still happen.  Until its answer comes, or a newer stream is
   served, I/O that overlaps a write in doubt is held back.
3. An I/O in doubt is never sent again.
4. A COMPARE_AND_WRITE that was sent is sent again only to the worker process that had it, which
   remembers it.  Where that process is gone, nobody knows: WRITE_FAILED.
5. While answers are on their way, I/O gathers: a message costs the same whatever is in it.  It
   leaves when there is as much of it as is unanswered, or ``GATHER_IOS``, or when the link's timer
   says that answers are slow (``impatient``); then nothing is held up for a while.
6. Payload goes out within the credit that the worker gives, and for what it may send back it is
   given ``ANSWER_WINDOW_BYTES``.  A message has at most ``MESSAGE_PAYLOAD_BYTES`` (or one I/O), and
   less on a socket: what that has not taken at once is copied, and held beside the I/Os.
7. A worker on this machine lends memory to a stream (borrowed.py): the payload of large writes goes
   there, without credit.  A place is given back when the worker has answered; what a stream has
   borrowed ends with it.
8. Of a shared store, what is here may go to another worker: all of it at once, when no stream is
   served and the worker's process has been shut out at the engine (failover.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from target.block.borrowed import BorrowedMemory
from target.block.remote_io import WRITING, RemoteIo, Share, conflicts, end
from target.block.worker_errors import NodeFenced
from workers.limits import (
    LENT_PAYLOAD_BYTES_MIN,
    MESSAGE_IOS_MAX,
    PAYLOAD_BYTES_MAX,
    SOCKET_PAYLOAD_BYTES,
    STREAM_IOS_MAX,
)
from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import (
    NO_OFFERS,
    Answer,
    Outgoing,
    Parts,
    WireError,
    WireFault,
    finish_io,
    pack_batch,
    unpack_answers,
)

ANSWER_WINDOW_BYTES: Final = 2 * PAYLOAD_BYTES_MAX
# Far less than a message may have: the worker writes one while the next is on its way.
MESSAGE_PAYLOAD_BYTES: Final = 1 << 20
GATHER_IOS: Final = 32
# Nothing gathers for so long after answers were found to be slow; doubled while they are, up to
IMPATIENT_SECONDS: Final = 0.1
IMPATIENT_SECONDS_MAX: Final = 6.4
# A worker gives up what it has not begun this much earlier than we do, so that we learn of it.
DEADLINE_MARGIN_SECONDS: Final = 0.25
UNKNOWN: Final = "the worker has gone: whether it has compared and written is unknown"


class WorkerQueue:
    """The I/Os of one node at one worker."""

    def __init__(
        self,
        node: str,
        epoch: int,
        sequences: Iterator[int],
        wake: Callable[[], None],
        *,
        checksum: bool = True,
    ) -> None:
        self._node = node
        self._epoch = epoch
        self._sequences = sequences  # of the node: shared by its links
        self._wake = wake  # there may be a message to send
        self._checksum = checksum
        self._live: dict[int, RemoteIo] = {}  # not ended; sorted by deadline, if _sorted
        self._sorted = True
        self._last_deadline = 0.0
        self._sent: dict[int, RemoteIo] = {}  # on the present or the last stream, unanswered
        # Two lines, so that reads do not stand behind writes that wait for credit.
        self._bare: deque[RemoteIo] = deque()
        self._carrying: deque[RemoteIo] = deque()
        self._cancel: list[int] = []
        self.messages = 0  # on this stream
        self._credit = 0  # bytes of payload that the worker takes
        self.offers = NO_OFFERS  # of the stream, to a node on its machine
        self._borrowed: BorrowedMemory | None = None
        self.on_socket = False  # messages go past gRPC
        self._owed = 0  # bytes of answers that have come, not yet credited anew
        self._impatient_until = 0.0
        self._impatient_seconds = IMPATIENT_SECONDS
        self.gathering = False  # the last call of next_message held something back (rule 5)
        self.serving = False  # a stream is served (rule 1)
        self.sent = 0  # I/Os sent, again or for the first time
        self.sent_bytes = 0  # their payload
        self.lent_bytes = 0  # and as much of it through memory that was lent
        self.retried = 0  # I/Os sent again
        self.expired = 0  # I/Os that had no answer at their deadline
        self.refused: StoreStatus | None = None  # what all I/O ends with: the node is fenced

    # --- the caller's side ------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nobody waits for anything."""
        return not self._live

    @property
    def waiting(self) -> int:
        """I/Os that somebody waits for."""
        return len(self._live)

    @property
    def credit_bytes(self) -> int:
        """Payload that the worker takes now."""
        return self._credit if self.serving else 0

    @property
    def answer_credit_bytes(self) -> int:
        """Payload that the worker may send, less what has come since it was last given credit."""
        return ANSWER_WINDOW_BYTES - self._owed if self.serving else 0

    @property
    def unanswered(self) -> int:
        """I/Os that are with the worker, as far as is known."""
        return len(self._sent)

    def submit(self, io: StoreIo, share: Share, deadline: float) -> None:
        """Start ``io``.  Deadlines go back only where others stand in for a worker."""
        if self.refused is not None:
            end(io, self.refused, "this node has been fenced")
            return
        remote = RemoteIo(next(self._sequences), io, share, deadline)
        if deadline < self._last_deadline:
            self._sorted = False
        else:
            self._last_deadline = deadline
        self._live[remote.sequence] = remote
        self._line_up(remote)
        self._wake()

    def cancel(self, io: StoreIo) -> None:
        """Nobody wants ``io``: it ends now, or soon if the worker has it and has not begun it."""
        for remote in self._live.values():
            if remote.io is io:
                if remote.sequence in self._sent:
                    if self.serving:
                        self._cancel.append(remote.sequence)
                        self._wake()
                elif not remote.handle:
                    self._finish(remote, StoreStatus.DEADLINE, "not wanted any more")
                return

    def released(self, share: Share) -> None:
        """``share`` is open now, or a doubt is over: what was held back may go."""
        held, share.held = share.held, []
        for remote in held:
            if remote.io is not None:
                self._line_up(remote)
        self._wake()

    def _line_up(self, remote: RemoteIo) -> None:
        share = remote.share
        if not share.handle or (share.doubts and conflicts(remote, share.doubts)):
            share.held.append(remote)
        elif remote.carried:
            self._carrying.append(remote)
        else:
            self._bare.append(remote)

    def expire(self, now: float) -> None:
        """End what has reached its deadline (rule 2)."""
        if not self._sorted:
            self._live = dict(sorted(self._live.items(), key=lambda item: item[1].deadline))
            self._sorted = True
        late: list[RemoteIo] = []
        for remote in self._live.values():
            if remote.deadline > now:
                break
            late.append(remote)
        self.expired += len(late)
        for remote in late:
            del self._live[remote.sequence]
            io, remote.io = remote.io, None
            assert io is not None, "live"
            share = remote.share
            if remote.sequence in self._sent:
                if remote.kind in WRITING:
                    share.doubts[remote.sequence] = remote
                if self.serving:
                    self._cancel.append(remote.sequence)
            if self.serving and share.handle:
                end(io, StoreStatus.DEADLINE, "the worker has not answered in time")
            else:
                end(io, StoreStatus.UNAVAILABLE, share.reason)
        if late:  # a worker may be away for days: what has ended must not pile up
            self._bare = deque(remote for remote in self._bare if remote.io is not None)
            self._carrying = deque(remote for remote in self._carrying if remote.io is not None)
            for share in {id(r.share): r.share for r in late}.values():
                share.held = [remote for remote in share.held if remote.io is not None]
            self._wake()

    def refuse(self, status: StoreStatus, detail: str) -> None:
        """End everything, now and from now on: the node has been fenced at the worker."""
        self.refused = status
        live = list(self._live.values())
        self._live.clear()
        for remote in live:
            io, remote.io = remote.io, None
            assert io is not None, "live"
            end(io, status, detail)

    # --- the worker's side ------------------------------------------------------------------------

    def first_message(self) -> Parts:
        """What a new stream begins with (rule 1)."""
        self.messages = 1
        self._credit = self._owed = 0
        return pack_batch(
            self._node, self._epoch, 1, (), answer_credit=ANSWER_WINDOW_BYTES, checksum=False
        )

    def served(self, answer: bytes) -> None:
        """The worker has answered the first message of a new stream; raises WireError."""
        answers = unpack_answers(answer, checksum=self._checksum)
        if answers.answers:
            status = answers.answers[0].status.value
            raise WireError(WireFault.MALFORMED, f"answers to nothing ({status})")
        if not answers.request_credit:  # who serves can always take something
            raise WireError(WireFault.MALFORMED, "the first message gives no credit")
        self._credit = answers.request_credit
        self.offers = answers.offers
        self.serving = True
        self._cancel.clear()
        sent, self._sent = self._sent, {}
        for remote in sent.values():
            if remote.io is not None:
                self.retried += 1
                self._line_up(remote)
            elif remote.kind in WRITING:
                self._doubt_over(remote)
        self._wake()

    def borrow(self, memory: BorrowedMemory) -> None:
        """What the worker lends to this stream (rule 7)."""
        if self.serving:
            self._borrowed = memory

    def give_up(self) -> list[RemoteIo]:
        """What is asked for here is asked of others from now on (rule 8): all of it.

        Returns what its callers still wait for.
        """
        assert not self.serving, "a stream that is served keeps what it has"
        live, self._live = self._live, {}
        sent, self._sent = self._sent, {}
        self._bare.clear()
        self._carrying.clear()
        self._cancel.clear()
        for remote in live.values():
            remote.share.held.clear()
        for remote in sent.values():
            if remote.io is None and remote.kind in WRITING:
                self._doubt_over(remote)
        moved: list[RemoteIo] = []
        for remote in live.values():
            if remote.kind is IoKind.COMPARE_AND_WRITE and remote.handle:
                io, remote.io = remote.io, None
                assert io is not None, "live"
                end(io, StoreStatus.WRITE_FAILED, UNKNOWN)
            else:
                moved.append(remote)
        return moved

    def lost(self) -> None:
        """The stream has ended.  What was on it stays, until a new one is served."""
        self.serving = self.on_socket = False
        self._credit = 0
        self._borrowed = None
        for remote in self._sent.values():
            remote.lent = None

    def next_message(self, now: float) -> Parts | None:
        """The next message to send, or None if there is nothing to say."""
        self.gathering = False
        if not self.serving:
            return None
        lined_up = len(self._bare) + len(self._carrying)
        if lined_up < min(len(self._sent), GATHER_IOS) and now >= self._impatient_until:
            self.gathering = lined_up > 0
            if not self._cancel and self._owed < ANSWER_WINDOW_BYTES // 2:
                return None
        batch: list[Outgoing] = []
        payload = self._take(self._carrying, batch, now)
        self._take(self._bare, batch, now)
        cancel, self._cancel = self._cancel[:MESSAGE_IOS_MAX], self._cancel[MESSAGE_IOS_MAX:]
        if not batch and not cancel and self._owed < ANSWER_WINDOW_BYTES // 2:
            return None
        self.sent += len(batch)
        self._credit -= payload
        owed, self._owed = self._owed, 0
        self.messages += 1
        return pack_batch(
            self._node,
            self._epoch,
            self.messages,
            batch,
            cancel=cancel,
            answer_credit=owed,
            checksum=self._checksum,
        )

    def _take(self, line: deque[RemoteIo], batch: list[Outgoing], now: float) -> int:
        """Move what may be sent from ``line`` to ``batch``; returns its payload bytes (rule 6)."""
        payload = moved = 0  # bytes that take credit, and all
        payload_max = SOCKET_PAYLOAD_BYTES if self.on_socket else MESSAGE_PAYLOAD_BYTES
        while line and len(batch) < MESSAGE_IOS_MAX and len(self._sent) < STREAM_IOS_MAX:
            remote = line[0]
            io, share = remote.io, remote.share
            if io is None:
                line.popleft()
                continue
            handle = share.handle
            if not handle:
                share.held.append(line.popleft())
                continue
            if remote.handle not in (0, handle) and self._must_not_go(remote):
                line.popleft()
                continue
            if moved and moved + remote.carried > MESSAGE_PAYLOAD_BYTES:
                break
            if not self._lend_room(remote, io):
                if remote.carried and payload + remote.carried > self._credit:
                    break
                if payload and payload + remote.carried > payload_max:
                    break
                payload += remote.carried
            line.popleft()
            moved += remote.carried
            self.sent_bytes += remote.carried
            remote.handle = handle
            self._sent[remote.sequence] = remote
            left = remote.deadline - now - DEADLINE_MARGIN_SECONDS
            deadline_ms = max(1, int(left * 1000))
            batch.append(Outgoing(remote.sequence, handle, deadline_ms, io, remote.lent))
        return payload

    def _lend_room(self, remote: RemoteIo, io: StoreIo) -> bool:
        """Put the payload into the memory that is lent, if it has room (rule 7)."""
        borrowed = self._borrowed
        if borrowed is None or remote.kind is not IoKind.WRITE:
            return False
        if remote.carried < LENT_PAYLOAD_BYTES_MIN:
            return False
        remote.lent = borrowed.put(io.buffers, remote.carried)
        if remote.lent is None:
            return False
        self.lent_bytes += remote.carried
        return True

    def _must_not_go(self, remote: RemoteIo) -> bool:
        """Another process had it: rule 4."""
        if remote.kind is not IoKind.COMPARE_AND_WRITE:
            return False
        self._finish(remote, StoreStatus.WRITE_FAILED, UNKNOWN)
        return True

    def impatient(self, now: float) -> None:
        """What gathers has waited long enough (rule 5)."""
        self._impatient_until = now + self._impatient_seconds
        self._impatient_seconds = min(2 * self._impatient_seconds, IMPATIENT_SECONDS_MAX)
        self._wake()

    def answered(self, data: bytes) -> bool:
        """A message from the worker; raises WireError or NodeFenced, and then the stream must end.

        False: the worker does not serve some volume any more, and has to be asked anew.
        """
        answers = unpack_answers(data, checksum=self._checksum)
        if self.gathering:  # and they were not slow
            self._impatient_seconds = IMPATIENT_SECONDS
        self._credit += answers.request_credit
        self._owed += answers.payload_bytes
        detail = answers.detail
        available = True
        for answer in answers.answers:
            remote = self._sent.get(answer.sequence)
            if remote is None:
                raise WireError(WireFault.MALFORMED, f"answer to {answer.sequence}, not asked")
            if remote.lent is not None and self._borrowed is not None:
                self._borrowed.give(remote.lent, remote.carried)
                remote.lent = None
            if remote.io is None:
                del self._sent[answer.sequence]
                if remote.kind in WRITING:
                    self._doubt_over(remote)
            elif answer.status is StoreStatus.STALE_EPOCH:
                # Nothing ends before the node has heard of it (worker_link.py, rule 7).
                raise NodeFenced(detail or answer.status.value)
            elif answer.status is StoreStatus.UNAVAILABLE:
                available = False  # it was not begun, and stays in _sent to be sent again
            else:
                self._answer(remote, answer, detail)
                if answer.status is not StoreStatus.OK:
                    detail = ""
        if self._bare or self._carrying or self._owed >= ANSWER_WINDOW_BYTES // 2:
            self._wake()
        return available

    def _answer(self, remote: RemoteIo, answer: Answer, detail: str) -> None:
        io = remote.io
        assert io is not None, "checked by the caller"
        finish_io(io, answer)  # may raise: then it is still unanswered, and sent again
        if answer.status is not StoreStatus.OK:
            io.detail = detail
        del self._sent[answer.sequence]
        del self._live[answer.sequence]
        remote.io = None
        if remote.kind is not IoKind.READ:
            remote.share.answered(remote, io)
        io.done(io)

    def _finish(self, remote: RemoteIo, status: StoreStatus, detail: str) -> None:
        io, remote.io = remote.io, None
        assert io is not None, "ends once"
        del self._live[remote.sequence]
        end(io, status, detail)

    def _doubt_over(self, remote: RemoteIo) -> None:
        del remote.share.doubts[remote.sequence]
        remote.share.doubt_over()
