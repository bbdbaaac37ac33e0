"""Two nodes that serve one disk, without an event loop: the test says when what arrives where."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from target.block.pool import BufferPool
from target.block.volume import Volume, VolumeBusy
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.documents import DocumentStore, Kept, MemoryStore
from target.scsi.gate import Gate
from target.scsi.request import SCSIRequest
from target.scsi.sense import Status
from target.scsi.unit_events import UnitEvent, decode_event, encode_event
from tests.support import reservations as pr
from tests.support.recording_hba import RecordingHba
from tests.support.scsi_disk import UUID
from tests.support.stores import HeldStore
from workers.memory_store import MemoryStore as MemoryVolume
from workers.store import StoreStatus

BUSY = VolumeBusy(StoreStatus.UNAVAILABLE)


class Shared(DocumentStore):
    """One for several nodes; answers are held back, or spoiled, as the test says."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.held: deque[Callable[[], None]] = deque()
        self.hold = False
        self.load_fails = False
        self.replace_fails: str = ""  # "before" or "after" it was carried out
        self.after_failure: Callable[[], object] | None = None  # what then happens, and it is over
        self.loads = 0
        self.beaten = 0  # how often another one is faster

    def release(self) -> None:
        """Answer all that is held back, and what comes of that."""
        self.hold = False
        while self.held:
            self.held.popleft()()

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.hold:
            self.held.append(answer)
        else:
            answer()

    def load(self, done: Callable[[Kept | Exception], None]) -> None:
        self.loads += 1
        self._answer(lambda: done(BUSY) if self.load_fails else self.inner.load(done))

    def replace(
        self, version: int, document: bytes, done: Callable[[bool | Exception], None]
    ) -> None:
        def answer() -> None:
            if self.beaten:
                self.beaten -= 1
                self.inner.kept = self.inner.kept._replace(version=self.inner.kept.version + 1)
            if not self.replace_fails:
                self.inner.replace(version, document, done)
                return
            if self.replace_fails == "after":
                self.inner.replace(version, document, lambda _: None)
            if self.after_failure is not None:
                then, self.after_failure, self.replace_fails = self.after_failure, None, ""
                then()
            done(BUSY)

        self._answer(answer)


class Wire(Gate):
    """Lets everything pass unless it is shut; events go to the other node, as bytes."""

    def __init__(self) -> None:
        self.other: Node
        self.hold = False
        self.held: list[Callable[[], None]] = []
        self.sure = True
        self.shut = False  # commands wait
        self.cut = False  # nothing arrives, and nobody is sure
        self.told: list[UnitEvent] = []

    def enter(self, req: SCSIRequest) -> bool:
        return not self.shut

    def left(self, req: SCSIRequest) -> None:
        return

    def quiet(self, done: Callable[[bool], None]) -> None:
        done(True)

    def tell(self, event: UnitEvent, done: Callable[[bool], None]) -> None:
        event = decode_event(encode_event(event))
        self.told.append(event)

        def deliver() -> None:
            self.other.unit.happened(event, lambda: done(self.sure))

        if self.cut:
            done(False)
        elif self.hold:
            self.held.append(deliver)
        else:
            deliver()


class Node:
    """A disk on one node, with an initiator."""

    def __init__(self, port: int, shared: Shared, settings: Shared) -> None:
        self.store = HeldStore(MemoryVolume(1 << 20))
        self.bus = SCSIBus(port)
        self.bus.live_ports = self.bus.all_ports = lambda: (1, 2)
        self.unit = self.bus.add(0, DiskDevice(Volume("disk0", UUID, [self.store])))
        self.unit.reservations.keep_in(shared, shared.inner.kept)
        self.unit.settings.keep_in(settings, settings.inner.kept)
        self.wire = Wire()
        self.unit.gate = self.wire
        self.pool = BufferPool(8 << 20)
        self.hba = RecordingHba(self.bus, self.pool, f"iqn.test:n{port}")
        self.hba.settle()

    def out(self, action: int, kind: int = 0, data: bytes = b"") -> SCSIRequest:
        return self.hba.submit(pr.pr_out(action, kind, len(data)), early=data)

    def register(self, key: int) -> SCSIRequest:
        return self.out(pr.REGISTER_AND_IGNORE, 0, pr.keys(0, key))

    def status(self, cdb: bytes, data: bytes = b"") -> Status:
        req = self.hba.submit(cdb, early=data)
        self.store.release_all()
        return Status(req.status)


class Cluster:
    def __init__(self) -> None:
        self.shared, self.settings = Shared(), Shared()
        self.one, self.two = (Node(port, self.shared, self.settings) for port in (1, 2))
        self.one.wire.other, self.two.wire.other = self.two, self.one

    def close(self) -> None:
        for node in (self.one, self.two):
            assert not node.unit.active
            node.hba.close()
            assert node.pool.used == 0
