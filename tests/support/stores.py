"""Stores around a store: what a test puts between a volume and its bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore


class StoreWrapper(VolumeStore):
    """Hands everything on; subclasses say what they do differently."""

    def __init__(self, inner: VolumeStore) -> None:
        self.inner = inner
        self.size = inner.size
        self.read_only = inner.read_only

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return self.inner.read_now(offset, buffers, nbytes)

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return self.inner.write_now(offset, buffers, nbytes)

    def submit(self, io: StoreIo) -> None:
        self.inner.submit(io)

    def close(self) -> None:
        self.inner.close()


class OwnMemoryStore(StoreWrapper):
    """Reads end in memory of its own, where they may."""

    def submit(self, io: StoreIo) -> None:
        if io.takes_views:
            io.buffers = [memoryview(bytearray(io.length))]
        super().submit(io)


class HeldStore(StoreWrapper):
    """Nothing is at hand, and an I/O is carried out when the test says so."""

    def __init__(self, inner: VolumeStore) -> None:
        super().__init__(inner)
        self.held: deque[StoreIo] = deque()
        self.log: list[tuple[IoKind, int, int, bool]] = []  # kind, offset, length, FUA
        self.on_submit: Callable[[], object] | None = None

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return False

    def submit(self, io: StoreIo) -> None:
        self.log.append((io.kind, io.offset, io.length, io.fua))
        self.held.append(io)
        if self.on_submit is not None:
            self.on_submit()

    def release(self, number: int = 0) -> None:
        """Carry out one of those that are held, by default the oldest."""
        io = self.held[number]
        del self.held[number]
        self.inner.submit(io)

    def release_all(self) -> None:
        """Carry out all of them, and those that follow."""
        while self.held:
            self.release()

    def fail(self, status: StoreStatus, number: int = 0) -> None:
        """End one of those that are held without carrying it out."""
        io = self.held[number]
        del self.held[number]
        io.status = status
        io.done(io)


class RecordingStore(StoreWrapper):
    """Notes every submitted I/O; with ``at_hand`` False nothing is done on the spot."""

    def __init__(self, inner: VolumeStore, *, at_hand: bool = True) -> None:
        super().__init__(inner)
        self.at_hand = at_hand
        self.log: list[tuple[IoKind, int, int, bool]] = []

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return self.at_hand and super().read_now(offset, buffers, nbytes)

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return self.at_hand and super().write_now(offset, buffers, nbytes)

    def submit(self, io: StoreIo) -> None:
        self.log.append((io.kind, io.offset, io.length, io.fua))
        super().submit(io)


class FailingStore(StoreWrapper):
    """Nothing is at hand, and I/O of some kinds fails."""

    def __init__(self, inner: VolumeStore, failures: dict[IoKind, StoreStatus]) -> None:
        super().__init__(inner)
        self.failures = failures

    def read_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return IoKind.READ not in self.failures and super().read_now(offset, buffers, nbytes)

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        return IoKind.WRITE not in self.failures and super().write_now(offset, buffers, nbytes)

    def submit(self, io: StoreIo) -> None:
        status = self.failures.get(io.kind)
        if status is None:
            super().submit(io)
        else:
            io.status = status
            io.done(io)
