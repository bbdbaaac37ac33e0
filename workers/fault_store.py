"""A store that misbehaves on purpose: for tests, and for ``lunmesh worker --fault SPEC``.

SPEC is a list like ``delay=200ms,error=0.01,torn=0.001,lost-flush=0.1,seed=7``:

    delay=TIME      every I/O takes so much longer (``ms`` or ``s``)
    error=P         with probability P, an I/O fails and has done nothing
    torn=P          with probability P, a write fails and has written only its first half
    lost-flush=P    with probability P, a flush fails; from then on all fail (rule 5 of the store)
    seed=N          the same faults again
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore

CallLater = Callable[[float, Callable[[], None]], Any]  # of the event loop

DELAY_SECONDS_MAX: Final = 3600.0
SECTOR_BYTES: Final = 512
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_READS: Final = frozenset({IoKind.READ, IoKind.BLOCK_STATUS})


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults, how often."""

    delay_seconds: float = 0.0
    error: float = 0.0
    torn: float = 0.0
    lost_flush: float = 0.0
    seed: int | None = None


def parse_faults(text: str) -> Faults:
    """SPEC; raises ValueError with half a sentence."""
    values: dict[str, Any] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        field = "delay_seconds" if name == "delay" else name.replace("-", "_")
        if field in values or field not in Faults.__slots__ or "_" in name:
            raise ValueError(
                f"bad fault {item!r}: write delay, error, torn, lost-flush or seed once"
            )
        values[field] = _parse(name, value)
    return Faults(**values)


def _parse(name: str, value: str) -> float | int:
    if name == "delay":
        match = _TIME.fullmatch(value)
        seconds = float(match[1]) * (0.001 if match[2] == "ms" else 1) if match else -1.0
        if not 0 <= seconds <= DELAY_SECONDS_MAX:
            raise ValueError(f"bad delay {value!r}: write 200ms or 1.5s")
        return seconds
    if name == "seed":
        if not re.fullmatch(r"\d{1,18}", value):
            raise ValueError(f"bad seed {value!r}: write a whole number")
        return int(value)
    if not re.fullmatch(r"0|1|[01]?\.\d{1,9}|1\.0|0\.\d{1,9}", value) or float(value) > 1:
        raise ValueError(f"bad probability {value!r} of {name}: write 0 to 1")
    return float(value)


class FaultStore(VolumeStore):
    """``inner``, with ``faults``.  ``call_later`` is the event loop's: nothing blocks."""

    def __init__(self, inner: VolumeStore, faults: Faults, call_later: CallLater) -> None:
        self._inner = inner
        self._faults = faults
        self._call_later = call_later
        self._random = random.Random(faults.seed)
        self._sync_lost = False
        self.read_only = inner.read_only
        self.shared = inner.shared

    @property
    def size(self) -> int:
        """Bytes, of the store that has them."""
        return self._inner.size

    @size.setter
    def size(self, size: int) -> None:
        self._inner.size = size

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if self._faults.delay_seconds or self._faults.error:
            return False
        return self._inner.read_now(offset, buffers, nbytes)

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        if self._faults.delay_seconds or self._faults.error or self._faults.torn:
            return False
        return self._inner.write_now(offset, buffers, nbytes)

    def submit(self, io: StoreIo) -> None:
        if self._faults.delay_seconds:
            self._call_later(self._faults.delay_seconds, lambda: self._submit(io))
        else:
            self._submit(io)

    def _submit(self, io: StoreIo) -> None:
        faults, chance = self._faults, self._random.random
        if io.kind is IoKind.FLUSH or io.fua:
            self._sync_lost = self._sync_lost or chance() < faults.lost_flush
            if self._sync_lost:
                return _fail(io, StoreStatus.SYNC_LOST)
        if io.kind is not IoKind.FLUSH and chance() < faults.error:
            status = StoreStatus.READ_FAILED if io.kind in _READS else StoreStatus.WRITE_FAILED
            return _fail(io, status)
        if io.kind is IoKind.WRITE and chance() < faults.torn:
            return self._tear(io)
        return self._inner.submit(io)

    def _tear(self, io: StoreIo) -> None:
        """Its first half, in whole sectors; then it fails."""
        length = io.length // 2 // SECTOR_BYTES * SECTOR_BYTES
        if not length:
            return _fail(io, StoreStatus.WRITE_FAILED)
        data = b"".join(io.buffers)[:length]

        def torn(_: StoreIo) -> None:
            _fail(io, StoreStatus.WRITE_FAILED)

        self._inner.submit(StoreIo(IoKind.WRITE, io.offset, length, torn, (memoryview(data),)))
        return None

    def close(self) -> None:
        self._inner.close()


def _fail(io: StoreIo, status: StoreStatus) -> None:
    io.status, io.detail = status, "injected fault"
    io.done(io)
