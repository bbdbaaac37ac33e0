"""Moving the chunks of a volume to other stores while it is in use.

One chunk after the other is held as by a writer, copied, and is then in its new place; I/O on all
other chunks goes on.  Why no crash can lose or mix anything: docs/decisions/0013-migration.md.

Rules:

1. The order for each chunk: hold it; flush the old store (what it has lost it must say now, later
   nobody asks it again); make the chunk empty in the new store, where an earlier try may have left
   something; copy what is mapped; flush the new store; journal; switch; let go.
2. Whatever fails before the journal has it leaves the chunk where it was.  It is let go, and tried
   again after a pause, for ever: the initiators notice nothing but the wait.
3. A try ends with its first I/O that fails, each of which has the deadline of its store, and begins
   none after ``TRY_SECONDS_MAX``.
4. Buffers come from the node's pool, ``COPY_SEGMENTS`` at most, and are there before the chunk is
   held: who waits for it may have the buffers that we would wait for.
5. The old copy is given back after the switch, as far as its store can be reached.  Two stores of
   ``one_medium`` have one copy: nothing is copied there, cleared or given back.
6. ``run`` is stopped (``stop``), never cancelled: a store may be using the buffers.
7. A loss that a store says at a flush of ours is said to the next who flushes the volume.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from target.block.layout import MovingLayout
from target.block.pool import SEGMENT_BYTES, Buffers, Share, views_of
from target.block.volume import EXTENTS_MAX, Volume
from target.block.wait import PENDING, Wait
from workers.store import IoKind, StatusExtent, StoreError, StoreIo, StoreStatus, VolumeStore

COPY_SEGMENTS: Final = 2 * (1 << 20) // SEGMENT_BYTES  # 2 MiB
TRY_SECONDS_MAX: Final = 20.0  # initiators give a command 30 s as a rule
BACKOFF_SECONDS: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 30.0
SCAN_CHUNKS_MAX: Final = 512  # looked at before others have their turn

T = TypeVar("T")


class JournalInDoubt(Exception):
    """A record may or may not be on stable storage: ``Journal.revoke`` has to settle it."""


class Journal(Protocol):
    """What survives a crash of a migration: which chunks have moved."""

    async def append(self, chunk: int) -> None:
        """``chunk`` has moved, and with it all before it; on stable storage on return.

        Raises OSError if nothing was kept, and JournalInDoubt.
        """

    async def revoke(self) -> None:
        """Make sure that the record in doubt is not there.  Raises OSError."""


async def finished(wait: Wait[T]) -> T:
    """Await ``wait`` in a task of an event loop."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    outcome = wait.begin(future.set_result)
    if outcome is PENDING:
        outcome = await future  # type: ignore[assignment]  # of a T, as begin() says
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome  # type: ignore[return-value]


class Mover:
    """Moves the chunks of ``volume``, whose layout is ``layout`` while it runs.

    ``moved``, ``copied_bytes`` and ``trouble`` may be looked at meanwhile.  ``rate`` is in bytes
    copied a second; 0: no limit.  ``finish`` keeps that the volume is where it was to be, before it
    has its new layout: chunks that are added by growth are then where that says.  It may raise
    OSError, and is called again later.
    """

    def __init__(
        self,
        volume: Volume,
        layout: MovingLayout,
        journal: Journal,
        share: Share,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        one_medium: Callable[[VolumeStore, VolumeStore], bool] = lambda one, other: False,
        finish: Callable[[], None] = lambda: None,
        rate: int,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        self._volume = volume
        self._layout = layout
        self._journal = journal
        self._share = share
        self._clock = clock
        self._random = random
        self._one_medium = one_medium
        self._finish = finish
        self._rate = rate
        self._backoff_seconds = backoff_seconds
        self._stop = asyncio.Event()
        self._journal_in_doubt = False
        self.moved_chunks = 0  # since this run began, as are the bytes
        self.copied_bytes = 0
        self.trouble = ""  # why it does not get on; empty: it does

    @property
    def chunks_total(self) -> int:
        """Chunks of the volume, which may grow while it moves."""
        return -(-self._volume.size // self._volume.chunk_bytes)

    @property
    def chunks_done(self) -> int:
        """Chunks that are where they are to be."""
        return min(self._layout.moved, self.chunks_total)

    def stop(self) -> None:
        """Have ``run`` return, soon."""
        self._stop.set()

    async def run(self) -> bool:
        """True: all chunks have moved, and the volume has its new layout.  False: stopped."""
        layout = self._layout
        assert self._volume.layout is layout, "the volume is not moving"
        if layout.moved:  # a crash may have come before its old copy was given back
            await self._give_back(layout.moved - 1)
        delay = self._backoff_seconds
        while not self._stop.is_set():
            if layout.moved >= self.chunks_total:
                try:
                    self._finish()
                except OSError as exc:
                    self.trouble = f"the end cannot be kept: {exc.strerror}"
                    await self._pause(BACKOFF_SECONDS_MAX)
                    continue
                self._volume.relayout(layout.new)
                return True
            end = min(layout.moved + SCAN_CHUNKS_MAX, self.chunks_total)
            chunk = layout.next_to_move(layout.moved, end)
            layout.moved = chunk
            if chunk == end:
                await asyncio.sleep(0)
                continue
            began, copied = self._clock(), self.copied_bytes
            try:
                await self._move(chunk)
            except (StoreError, OSError) as exc:
                text = exc.strerror or exc if isinstance(exc, OSError) else exc
                self.trouble = f"chunk {chunk}: {text}"
                await self._pause(delay * (0.5 + self._random()))
                delay = min(2 * delay, BACKOFF_SECONDS_MAX)
                continue
            if layout.moved == chunk:
                break  # stopped while the journal was in doubt
            self.trouble = ""
            self.moved_chunks += 1
            delay = self._backoff_seconds
            await self._give_back(chunk)
            if self._rate:
                seconds = (self.copied_bytes - copied) / self._rate
                await self._pause(seconds - (self._clock() - began))
        return False

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()

    # --- one chunk ------------------------------------------------------------------------------

    async def _move(self, chunk: int) -> None:
        """Raises StoreError or OSError, and then the chunk is where it was."""
        segments = await finished(Buffers(self._share, COPY_SEGMENTS))  # rule 4
        try:
            ticket = await finished(self._volume.hold(chunk))
            try:
                await self._copy(chunk, segments)
                if await self._journaled(chunk):
                    self._layout.moved = chunk + 1
            finally:
                # Stopped with the journal in doubt: the chunk stays shut until the process has
                # ended, so that both places have the same whatever the next one finds.
                if not self._journal_in_doubt:
                    self._volume.let_go(ticket)
        finally:
            self._share.give(segments)

    async def _copy(self, chunk: int, segments: Sequence[memoryview]) -> None:
        """Rule 1, from one flush to the other."""
        layout, volume = self._layout, self._volume
        source = layout.stores[layout.old.place(chunk)]
        target = layout.stores[layout.new_place(chunk)]
        start = chunk * volume.chunk_bytes
        end = min(start + volume.chunk_bytes, volume.size)
        deadline = self._clock() + TRY_SECONDS_MAX
        await self._flush(source)
        # Asked even of a shared store: it answers when nothing older can happen on the range.
        runs = await _status(source, start, end - start)
        if self._one_medium(source, target):
            return
        await _perform(target, IoKind.UNMAP, start, end - start)
        size = len(segments) * SEGMENT_BYTES
        while start < end:
            for run in runs:
                stop = run.offset + run.length
                for at in range(run.offset, stop if run.mapped else run.offset, size):
                    if self._stop.is_set():
                        raise StoreError(StoreStatus.UNAVAILABLE, "stopped")
                    if self._clock() > deadline:
                        detail = f"the copy took longer than {TRY_SECONDS_MAX:.0f} s"
                        raise StoreError(StoreStatus.DEADLINE, detail)
                    nbytes = min(size, stop - at)
                    views = views_of(segments, nbytes)
                    await _perform(source, IoKind.READ, at, nbytes, views)
                    await _perform(target, IoKind.WRITE, at, nbytes, views)
                    self.copied_bytes += nbytes
                start = stop
            if start < end:
                runs = await _status(source, start, end - start)
        await self._flush(target)

    async def _flush(self, store: VolumeStore) -> None:
        try:
            await _perform(store, IoKind.FLUSH, 0, self._volume.size)
        except StoreError as exc:
            if exc.status is StoreStatus.SYNC_LOST:  # rule 7
                self._volume.lost = str(exc)
            raise

    async def _journaled(self, chunk: int) -> bool:
        """Raises OSError.  False: stopped, and nobody knows whether the journal has it."""
        delay = self._backoff_seconds
        try:
            await self._journal.append(chunk)
        except JournalInDoubt as doubt:
            # The one case that shuts a chunk for longer: let go now, it could be written in its
            # old place and be looked for in its new one.
            self._journal_in_doubt = True
            self.trouble = f"chunk {chunk} waits: {doubt}"
            while not self._stop.is_set():
                await self._pause(delay)
                delay = min(2 * delay, BACKOFF_SECONDS_MAX)
                with contextlib.suppress(OSError):
                    await self._journal.revoke()
                    self._journal_in_doubt = False
                    raise StoreError(StoreStatus.WRITE_FAILED, str(doubt)) from doubt
            return False
        return True

    async def _give_back(self, chunk: int) -> None:
        """Rule 5.  A store that is left has its share deleted anyway."""
        layout, volume = self._layout, self._volume
        number = layout.old.place(chunk)
        target = layout.stores[layout.new_place(chunk)]
        source = layout.stores[number]
        if source in layout.left or self._one_medium(source, target):
            return
        start = chunk * volume.chunk_bytes
        nbytes = min(volume.chunk_bytes, volume.size - start)
        with contextlib.suppress(StoreError):
            await _perform(source, IoKind.UNMAP, start, nbytes)


async def _status(store: VolumeStore, offset: int, length: int) -> Sequence[StatusExtent]:
    """Runs from ``offset`` on, one at least."""
    io = await _perform(store, IoKind.BLOCK_STATUS, offset, length)
    if not io.extents:
        raise StoreError(StoreStatus.READ_FAILED, "no block status")
    return io.extents


async def _perform(
    store: VolumeStore,
    kind: IoKind,
    offset: int,
    length: int,
    buffers: Sequence[memoryview] = (),
) -> StoreIo:
    """An I/O of one store, past the order of ranges: the chunk is held.  Raises StoreError."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    io = StoreIo(
        kind, offset, length, lambda _: ended.set_result(None), buffers, extents_max=EXTENTS_MAX
    )
    store.submit(io)
    await ended
    if io.status is not StoreStatus.OK:
        raise io.error()
    return io
