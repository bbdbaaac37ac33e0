"""A store that misbehaves on purpose: for tests, and for ``lunmesh worker --fault SPEC``.

SPEC is a list like ``delay=200ms,error=0.01,torn=0.001,lost-flush=0.1,seed=7``:

    delay=TIME      every I/O takes so much longer (``ms`` or ``s``); nothing waits for it
    stall=TIME      every I/O keeps a thread for so long, as a slow disk does
    error=P         with probability P, an I/O fails and has done nothing
    torn=P          with probability P, a write fails and has written only its first sectors, any
                    number of them
    lost-flush=P    with probability P, a flush fails; from then on all fail (rule 5 of the store)
    drop=P          each write that such a flush was for is undone with probability P
    volume=NAME     of this volume only
    seed=N          the same faults again

What is undone is the first ``UNDO_BYTES_MAX`` of what was written since the last flush, of I/Os of
at most ``UNDO_IO_BYTES_MAX``.  A torn write is always one that fails: what a disk does that loses
power in the middle of one nobody is told of is not here.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.executor import BlockingExecutor
from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore

CallLater = Callable[[float, Callable[[], None]], Any]  # of the event loop

DELAY_SECONDS_MAX: Final = 3600.0
SECTOR_BYTES: Final = 512
UNDO_BYTES_MAX: Final = 16 << 20
UNDO_IO_BYTES_MAX: Final = 1 << 20
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_READS: Final = frozenset({IoKind.READ, IoKind.BLOCK_STATUS})
_CHANGES: Final = frozenset({IoKind.WRITE, IoKind.ZERO, IoKind.UNMAP, IoKind.COMPARE_AND_WRITE})
_FIELDS: Final = {"delay": "delay_seconds", "stall": "stall_seconds", "lost-flush": "lost_flush"}
_NAMES: Final = "delay, stall, error, torn, lost-flush, drop, volume or seed"


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults, how often."""

    delay_seconds: float = 0.0
    stall_seconds: float = 0.0
    error: float = 0.0
    torn: float = 0.0
    lost_flush: float = 0.0
    drop: float = 0.0
    volume: str = ""  # empty: all of them
    seed: int | None = None


def parse_faults(text: str) -> Faults:
    """SPEC; raises ValueError with half a sentence."""
    values: dict[str, Any] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        field = _FIELDS.get(name, name)
        if field in values or field not in Faults.__slots__ or "_" in name:
            raise ValueError(f"bad fault {item!r}: write {_NAMES} once")
        values[field] = _parse(name, value)
    return Faults(**values)


def _parse(name: str, value: str) -> float | int | str:
    if name in ("delay", "stall"):
        match = _TIME.fullmatch(value)
        seconds = float(match[1]) * (0.001 if match[2] == "ms" else 1) if match else -1.0
        if not 0 <= seconds <= DELAY_SECONDS_MAX:
            raise ValueError(f"bad {name} {value!r}: write 200ms or 1.5s")
        return seconds
    if name == "volume":
        if not value:
            raise ValueError("bad volume '': write its name")
        return value
    if name == "seed":
        if not re.fullmatch(r"\d{1,18}", value):
            raise ValueError(f"bad seed {value!r}: write a whole number")
        return int(value)
    if not re.fullmatch(r"0|1|[01]?\.\d{1,9}|1\.0|0\.\d{1,9}", value) or float(value) > 1:
        raise ValueError(f"bad probability {value!r} of {name}: write 0 to 1")
    return float(value)


class FaultStore(VolumeStore):
    """``inner``, with ``faults``.

    ``call_later`` is the event loop's; ``executor`` has the threads for ``stall``.
    """

    def __init__(
        self,
        inner: VolumeStore,
        faults: Faults,
        call_later: CallLater,
        executor: BlockingExecutor | None = None,
    ) -> None:
        assert executor is not None or not faults.stall_seconds, "stall needs threads"
        self._inner = inner
        self._faults = faults
        self._call_later = call_later
        self._executor = executor
        self._random = random.Random(faults.seed)
        self._sync_lost = False
        self._undo: list[StoreIo] = []  # what would bring back what was there at the last flush
        self._undo_bytes = 0
        self.read_only = inner.read_only
        self.has_views = inner.has_views
        self.shared = inner.shared

    @property
    def size(self) -> int:
        """Bytes, of the store that has them."""
        return self._inner.size

    @size.setter
    def size(self, size: int) -> None:
        self._inner.size = size

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        faults = self._faults
        if faults.delay_seconds or faults.stall_seconds or faults.error:
            return False
        return self._inner.read_now(offset, buffers, nbytes)

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        faults = self._faults
        if faults.delay_seconds or faults.stall_seconds or faults.error:
            return False
        if faults.torn or faults.drop:
            return False
        return self._inner.write_now(offset, buffers, nbytes)

    def submit(self, io: StoreIo) -> None:
        if self._faults.delay_seconds:
            self._call_later(self._faults.delay_seconds, lambda: self._stall(io))
        else:
            self._stall(io)

    def _stall(self, io: StoreIo) -> None:
        seconds = self._faults.stall_seconds
        if not seconds or self._executor is None:
            return self._submit(io)
        executor = self._executor.syncs if io.kind is IoKind.FLUSH else self._executor
        return executor.run(lambda: time.sleep(seconds), lambda: self._submit(io))

    def _submit(self, io: StoreIo) -> None:
        faults, chance = self._faults, self._random.random
        if (io.kind is IoKind.FLUSH or io.fua) and (
            self._sync_lost or chance() < faults.lost_flush
        ):
            return self._lose(io)
        if io.kind is not IoKind.FLUSH and chance() < faults.error:
            status = StoreStatus.READ_FAILED if io.kind in _READS else StoreStatus.WRITE_FAILED
            return _fail(io, status)
        if io.kind is IoKind.WRITE and chance() < faults.torn:
            return self._tear(io)
        if io.kind is IoKind.FLUSH:
            self._undo, self._undo_bytes = [], 0
        elif io.kind in _CHANGES and chance() < faults.drop and not self._sync_lost:
            return self._keep_what_was(io)
        return self._inner.submit(io)

    def _tear(self, io: StoreIo) -> None:
        """Some of its sectors, but not all; then it fails."""
        length = self._random.randrange(io.length // SECTOR_BYTES or 1) * SECTOR_BYTES
        if not length:
            return _fail(io, StoreStatus.WRITE_FAILED)
        data = b"".join(io.buffers)[:length]

        def torn(_: StoreIo) -> None:
            _fail(io, StoreStatus.WRITE_FAILED)

        self._inner.submit(StoreIo(IoKind.WRITE, io.offset, length, torn, (memoryview(data),)))
        return None

    def _keep_what_was(self, io: StoreIo) -> None:
        """Before ``io`` changes it: overlapping I/O is kept in order above."""
        if io.length > UNDO_IO_BYTES_MAX or self._undo_bytes + io.length > UNDO_BYTES_MAX:
            return self._inner.submit(io)
        self._undo_bytes += io.length
        view = memoryview(bytearray(io.length))

        def read(_: StoreIo) -> None:
            self._undo.append(StoreIo(IoKind.WRITE, io.offset, io.length, lambda _: None, (view,)))
            self._inner.submit(io)

        return self._inner.submit(StoreIo(IoKind.READ, io.offset, io.length, read, (view,)))

    def _lose(self, io: StoreIo) -> None:
        """The first time, undo what is to be undone, the last first; then it fails."""
        self._sync_lost = True
        if not self._undo:
            return _fail(io, StoreStatus.SYNC_LOST)
        undo = self._undo.pop()
        undo.done = lambda _: self._lose(io)
        return self._inner.submit(undo)

    def close(self) -> None:
        self._inner.close()


def _fail(io: StoreIo, status: StoreStatus) -> None:
    io.status, io.detail = status, "injected fault"
    io.done(io)
