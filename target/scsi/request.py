"""``SCSIRequest``: one command on its way, the same for every HBA and every device.

Theory of operation.  An HBA hands in tag, LUN, CDB and task attribute; the bus parses them once
(``SCSIBus.request``) and the HBA then knows direction and length before any data moves.  It says
how much the initiator is ready to transfer (``expect``) and submits the request; other commands run
meanwhile.

    NEW ── parse ──▶ PARSED ── submit ──▶ BLOCKED (task attribute) ──▶ RUNNING ──▶ COMPLETED
                        │                    │                            │
                        └────────────────────┴───────── abort ────────────┴──▶ ABORTED

Rules:

1. A command whose data is at hand is one straight pass of function calls, from ``start`` to
   ``complete``, inside the HBA's ``submit``.
2. Anything that waits runs as a coroutine (``run``), which awaits ``Wait`` objects and holds its
   buffers in ``try``/``finally``.  No asyncio task, no second state machine.
3. A request ends exactly once: ``complete`` (the HBA sends status) or aborted (it sends nothing;
   whoever aborted it is told by ``on_end``).
4. Data moves in scatter lists of pool segments, at most ``WINDOW_BYTES`` at a time, whatever the
   length of the command.
5. Ownership: the segments of ``data_in`` pass to the HBA, which gives them back to the share when
   the bytes are gone.  Those of a :class:`Chunk` are the command's until ``release``.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from target.block.pool import SEGMENT_BYTES, Buffers, segments_for, views_of
from target.block.volume import VolumeBusy
from target.block.wait import PENDING, Resume, Wait, _Pending
from target.scsi.command import CHANGING
from target.scsi.hba_port import HbaPort
from target.scsi.limits import WINDOW_BYTES
from target.scsi.sense import INTERNAL_TARGET_FAILURE, CheckCondition, Sense, Status
from target.scsi.stats import OpClass
from target.scsi.store_sense import sense_of
from workers.store import StoreError

if TYPE_CHECKING:
    from target.scsi.command import Command
    from target.scsi.nexus import Attachment

log = logging.getLogger(__name__)


class Direction(enum.IntEnum):
    """Which way the data phase of a command goes, seen from the initiator."""

    NONE = 0
    FROM_DEVICE = 1
    TO_DEVICE = 2


class State(enum.IntEnum):
    """Where a request is in its life.  From COMPLETED on it has ended."""

    NEW = 0
    PARSED = 1
    BLOCKED = 2
    RUNNING = 3
    COMPLETED = 4
    ABORTED = 5


# The states as plain integers: to compare IntEnum members costs seven times as much (97 against 13
# nanoseconds), and every command does it several times.
NEW, PARSED, BLOCKED, RUNNING, COMPLETED, ABORTED = (int(state) for state in State)


class Aborted(Exception):
    """Raised at an ``await`` of a request that has been aborted."""


class Chunk:
    """Some data-out bytes of a request, in a scatter list that is the command's until released."""

    __slots__ = ("_release", "nbytes", "views")

    def __init__(self, views: list[memoryview], nbytes: int, release: Callable[[], None]) -> None:
        self.views = views
        self.nbytes = nbytes
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the buffers back; a second call does nothing."""
        if self._release is not None:
            self._release()
            self._release = None


class SCSIRequest:
    """One command.  Class attributes are the defaults: the hot path sets what differs.

    ``parse`` comes first, and is no constructor: the interpreter calls a method in half the time.
    """

    hba: HbaPort
    attachment: Attachment  # the I_T_L nexus
    lun: bytes
    tag: int
    cdb: bytes
    started_at: float
    command: Command

    state: int = 0  # NEW: a literal, as mypyc wants defaults
    attribute: int = 1  # SIMPLE
    direction: int = 0
    length: int = 0  # bytes of the data phase as the CDB says
    lba: int = 0
    blocks: int = 0
    fua: bool = False  # force unit access: from or to the medium itself
    expected: int = 0  # bytes that the initiator is ready to transfer in `direction`
    transfer: int = 0  # min(length, expected): what really moves
    moved: int = 0  # bytes of the data phase so far
    status: int = 0  # GOOD
    sense: Sense | None = None
    harmless: bool = False  # as its CDB stands, no reservation is in its way
    rejected: Sense | None = None  # found wrong while parsing; answered when it is the turn

    # Data-out that comes with the command: `early_length` bytes in all (0: none), of which the last
    # `early_missing` have not arrived, in `early`.
    early: Sequence[memoryview] = ()
    early_length: int = 0
    early_missing: int = 0
    early_transient: bool = False  # still in the receive buffer: valid during this pass only

    on_end: Callable[[SCSIRequest], None] | None = None
    aborting: bool = False
    watched: Any = None  # a watcher's own
    hba_data: Any = None  # the HBA's own
    finished_at: float = 0.0

    _coroutine: Coroutine[Wait[Any], Any, None] | None = None
    _wait: Wait[Any] | None = None
    _pending_interrupt: Exception | None = None
    _early_resume: Resume | None = None

    def parse(
        self,
        hba: HbaPort,
        attachment: Attachment,
        lun: bytes,
        tag: int,
        cdb: bytes,
        attribute: int,
        started_at: float,
    ) -> None:
        """Become the command of a CDB.  What is wrong with it is answered when it is its turn."""
        self.hba = hba
        self.attachment = attachment
        self.lun = lun
        self.tag = tag
        self.cdb = cdb
        if attribute != 1:
            self.attribute = attribute
        self.started_at = started_at
        # Attributes that are functions are loaded, then called: as methods they are looked up anew.
        unit = attachment.unit
        command = unit.commands.get(cdb[0])
        if command is None:
            command = unit.command_for(cdb)
        self.command = command
        parse = command.parse
        try:
            parse(self)
        except CheckCondition as exc:
            self.rejected = exc.sense
        except Exception:  # as in _our_fault: whoever brought it must not go down with it
            log.exception("internal error in %s, cdb=%s", command.name, cdb.hex())
            self.rejected = INTERNAL_TARGET_FAILURE
        self.state = PARSED

    @property
    def changes(self) -> bool:
        """Whether it would change blocks: what a flush is not, although it is ordered as one."""
        return self.command.kind in CHANGING and self.command.opclass != OpClass.FLUSH

    # --- the HBA's side -------------------------------------------------------------------------

    def expect(self, expected: int) -> int:
        """Say how many bytes the initiator will take or send; returns what will really move."""
        self.expected = expected
        self.transfer = self.length if self.length < expected else expected
        return self.transfer

    def early_arrived(self, nbytes: int) -> None:
        """``nbytes`` more of the early data are in ``early``."""
        self.early_missing -= nbytes
        if not self.early_missing and self._early_resume is not None:
            resume, self._early_resume = self._early_resume, None
            resume(None)

    def interrupt(self, sense: Sense) -> None:
        """The data phase went wrong, or the unit is gone: end the command with this sense."""
        if self.state < COMPLETED and not self.aborting:
            self._interrupt(CheckCondition(sense))

    # --- the device's side ----------------------------------------------------------------------

    def start(self) -> None:
        """Run the command; the bus calls this when it is the command's turn."""
        self.state = RUNNING
        if self.rejected is not None:
            self.fail(self.rejected)
            return
        start = self.command.start
        try:
            start(self)
        except CheckCondition as exc:
            self.fail(exc.sense)
        except Exception:
            self._our_fault()

    def _our_fault(self) -> None:
        """A bug of ours must not take the node down: the initiator is told whose it was."""
        log.exception("internal error in %r", self)
        if self.state < COMPLETED:
            self.fail(INTERNAL_TARGET_FAILURE)

    def complete(self, status: int = Status.GOOD) -> None:
        """End the command with ``status``."""
        assert self.state < COMPLETED, f"completed twice: {self!r}"
        if status:
            self.status = status
        self.state = COMPLETED
        if self.early_length and not self.early_transient:
            self.hba.release_early(self)
        self.hba.complete(self)
        if self.on_end is not None:
            self.on_end(self)

    def fail(self, sense: Sense) -> None:
        """End the command in CHECK CONDITION."""
        self.sense = sense
        self.complete(Status.CHECK_CONDITION)

    def respond(self, data: bytes, allocation_length: int) -> bool:
        """Answer with ``data`` cut to the CDB's allocation length, and end with GOOD; or with BUSY
        where the initiator does not take what it has asked for before (False).

        The command transfers what there is, so this is where its length becomes known.
        """
        if self.hba.crowded():
            self.complete(Status.BUSY)
            return False
        data = data[:allocation_length]
        self.length = len(data)
        self.transfer = min(self.length, self.expected)
        if self.transfer:
            self.hba.data_in(self, [data[: self.transfer]], [])
        self.complete()
        return True

    def run(self, coroutine: Coroutine[Wait[Any], Any, None]) -> None:
        """Go on as a coroutine (rule 2)."""
        if self.early_transient:
            self.hba.keep_early(self)
        watcher = self.attachment.nexus.bus.watcher
        self._coroutine = coroutine if watcher is None else watcher.runs(self, coroutine)
        self._step(None)

    async def receive(self) -> Chunk:
        """The next data-out bytes: first what came with the command, then what is solicited."""
        if self.moved < self.early_length:
            return await self._receive_early()
        wanted = min(WINDOW_BYTES, self.transfer - self.moved)
        segments = await Buffers(self.hba.share, segments_for(wanted))
        return await self._solicit(segments, min(wanted, len(segments) * SEGMENT_BYTES))

    def early_used(self) -> None:
        """All that came with the command has been used where it was: the rest is solicited."""
        self.moved = self.early_length
        self.early = ()
        self.early_length = 0
        self.early_transient = False

    async def receive_all(self) -> Chunk:
        """All data-out bytes in one scatter list: for commands of at most ``WINDOW_BYTES``."""
        assert self.transfer <= WINDOW_BYTES, "this command has to be split"
        early = await self._receive_early() if self.early_length else Chunk([], 0, lambda: None)
        rest = self.transfer - self.moved
        if rest == 0:
            return early
        try:
            needed = segments_for(rest)
            late = await self._solicit(await Buffers(self.hba.share, needed, needed), rest)
        except BaseException:
            early.release()
            raise

        def release() -> None:
            early.release()
            late.release()

        return Chunk(early.views + late.views, self.transfer, release)

    async def receive_with_scratch(self) -> tuple[Chunk, Chunk]:
        """Like :meth:`receive`, with a second scatter list of the same size to read into.

        Both are taken together: who holds unreserved segments never waits for more (pool, rule 3).
        The early data is in reserved ones, so the scratch for it may be waited for.
        """
        share = self.hba.share
        if self.moved < self.early_length:
            chunk = await self._receive_early()
            try:
                scratch = await Buffers(share, needed := segments_for(chunk.nbytes), needed)
            except BaseException:
                chunk.release()
                raise
        else:
            wanted = min(WINDOW_BYTES, self.transfer - self.moved)
            segments = await Buffers(share, 2 * segments_for(wanted), 2)
            half = len(segments) // 2
            scratch = segments[half:]
            try:
                chunk = await self._solicit(segments[:half], min(wanted, half * SEGMENT_BYTES))
            except BaseException:
                share.give(scratch)
                raise
        views = views_of(scratch, chunk.nbytes)
        return chunk, Chunk(views, chunk.nbytes, lambda: share.give(scratch))

    async def _receive_early(self) -> Chunk:
        if self.early_missing:
            await _EarlyData(self)
        self.moved = self.early_length
        return Chunk(list(self.early), self.early_length, lambda: self.hba.release_early(self))

    async def _solicit(self, segments: list[memoryview], nbytes: int) -> Chunk:
        share = self.hba.share
        views = views_of(segments, nbytes)
        try:
            await Solicited(self, views, nbytes)
        except BaseException:
            share.give(segments)
            raise
        self.moved += nbytes
        return Chunk(views, nbytes, lambda: share.give(segments))

    async def receive_parameters(self) -> bytes:
        """All data-out bytes in one piece: for parameter lists, which are small."""
        data = bytearray()
        while len(data) < self.transfer:
            chunk = await self.receive()
            for view in chunk.views:
                data += view
            chunk.release()
        return bytes(data)

    async def buffers(self, nbytes: int) -> list[memoryview]:
        """Segments for up to ``nbytes`` of data-in, at least one; give them to :meth:`send`."""
        return await Buffers(self.hba.share, segments_for(min(nbytes, WINDOW_BYTES)))

    def send(self, views: Sequence[memoryview], nbytes: int, segments: list[memoryview]) -> None:
        """Data-in: ``nbytes`` in ``views``; the ``segments`` behind them pass to the HBA."""
        self.moved += nbytes
        self.hba.data_in(self, views, segments)

    async def sent(self) -> None:
        """Wait until the data-in so far has left the host."""
        await _Drained(self)

    # --- abort ----------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the command without status.  ``on_end`` tells when it really has (rule 3)."""
        if self.state >= COMPLETED or self.aborting:
            return
        self.aborting = True
        self._interrupt(Aborted())

    def _interrupt(self, reason: Exception) -> None:
        if self._coroutine is None:
            self._ended_by(reason)  # not started, or blocked
        elif self._wait is not None and self._wait.cancel():
            self._wait = None
            self._step(reason)
        else:
            self._pending_interrupt = reason  # running, or a store uses our buffers: soon
            if self._wait is not None:
                self._wait.hurry()

    def _ended_by(self, reason: Exception) -> None:
        if isinstance(reason, CheckCondition):
            self.fail(reason.sense)
            return
        self.state = ABORTED
        if self.early_length:
            self.hba.release_early(self)
        self.hba.aborted(self)
        if self.on_end is not None:
            self.on_end(self)

    # --- the coroutine --------------------------------------------------------------------------

    def _resume(self, outcome: Any) -> None:
        self._wait = None
        if self._pending_interrupt is not None:
            outcome = self._pending_interrupt
            self._pending_interrupt = None
        self._step(outcome)

    def _step(self, outcome: Any) -> None:
        coroutine = self._coroutine
        assert coroutine is not None
        try:
            while True:
                if isinstance(outcome, BaseException):
                    wait = coroutine.throw(outcome)
                else:
                    wait = coroutine.send(outcome)
                if self._pending_interrupt is not None:  # it came from below, while we ran
                    outcome, self._pending_interrupt = self._pending_interrupt, None
                    continue
                self._wait = wait
                outcome = wait.begin(self._resume)
                if outcome is PENDING:
                    return
                self._wait = None
        except StopIteration:
            assert self.state >= COMPLETED, f"ended without status: {self!r}"
        except Aborted as exc:
            self._ended_by(exc)
        except CheckCondition as check:
            self.fail(check.sense)
        except VolumeBusy:
            self.complete(Status.BUSY)
        except StoreError as failure:
            self.fail(sense_of(failure))
        except Exception:
            self._our_fault()
        self._coroutine = None

    def __repr__(self) -> str:
        return print_request(self)


class _EarlyData(Wait[None]):
    """The unsolicited data of a request, until all of it has arrived."""

    __slots__ = ("_req",)
    what = "unsolicited data"

    def __init__(self, req: SCSIRequest) -> None:
        self._req = req

    def begin(self, resume: Resume) -> _Pending:
        self._req._early_resume = resume
        return PENDING

    def cancel(self) -> bool:
        self._req._early_resume = None
        return True


class Solicited(Wait[memoryview | None]):
    """The next ``nbytes`` of data-out, asked of the initiator (R2T), in ``views``.

    If they may be ``in_place``, the outcome may be where they are instead: valid until the command
    waits again.
    """

    __slots__ = ("_in_place", "_nbytes", "_req", "_views")
    what = "solicited data"

    def __init__(
        self, req: SCSIRequest, views: list[memoryview], nbytes: int, in_place: bool = False
    ) -> None:
        self._req = req
        self._views = views
        self._nbytes = nbytes
        self._in_place = in_place

    def begin(self, resume: Resume) -> _Pending:
        req = self._req
        req.hba.solicit(req, req.moved, self._views, self._nbytes, resume, self._in_place)
        return PENDING

    def cancel(self) -> bool:
        self._req.hba.cancel_solicit(self._req)
        return True


class _Drained(Wait[None]):
    """The data-in of a request, until it has left the host."""

    __slots__ = ("_cancelled", "_req")
    what = "output taken"

    def __init__(self, req: SCSIRequest) -> None:
        self._req = req
        self._cancelled = False

    def begin(self, resume: Resume) -> _Pending | None:
        def drained(outcome: Any) -> None:
            if not self._cancelled:
                resume(outcome)

        return None if self._req.hba.drained(self._req, drained) else PENDING

    def cancel(self) -> bool:
        self._cancelled = True
        return True


def print_request(req: SCSIRequest) -> str:
    """One line that says all about a request; used by logs, traces and listings."""
    way = ("-", "<", ">")[req.direction]
    text = (
        f"{req.command.name} lun={req.attachment.number} tag={req.tag:#x} lba={req.lba}"
        f" blocks={req.blocks} {way}{req.length}/{req.expected} {State(req.state).name.lower()}"
        f" cdb={req.cdb.hex()}"
    )
    if req.state == COMPLETED:
        text += f" status={Status(req.status).name}"
        if req.finished_at:
            text += f" {(req.finished_at - req.started_at) * 1e3:.3f}ms"
    if req.sense is not None:
        text += f" sense={req.sense.key.name},{req.sense.asc:02X}/{req.sense.ascq:02X}"
    return text
