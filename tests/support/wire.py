"""A whole target without a socket: bytes go into its channels and come out, and time stands still.

    with wire(size=1 << 20) as w:
        session = w.login({"InitialR2T": "Yes"})
        task = session.command(cdb.read10(0, 1), read_length=512)
        w.clock.now += 30
        w.tick()

The initiator is the raw one of `tests/support/initiator.py`, over a `WireSocket` instead of a TCP
connection: everything that it sends reaches the channel in one piece, unless the test says in what
pieces. It never waits: where nothing comes, `NoAnswer` is raised at once.

When the context ends, every connection is dropped and the target has to be as it was before:
`assert_clean`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.iscsi.chap import ChapPolicy
from target.iscsi.parameters import TargetLimits
from target.iscsi.receiver import SCRATCH_BYTES
from target.iscsi.session import plan_window
from target.iscsi.target import IscsiTarget, TargetOptions
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from tests.support.clean import assert_clean
from tests.support.initiator import DEFAULT_NAME
from tests.support.wire_initiator import WireInitiator
from tests.support.wire_socket import PORTAL, WireSocket
from workers.memory_store import MemoryStore
from workers.store import VolumeStore

TARGET = "iqn.2026-11.io.lunmesh:target"
POOL_BYTES = 32 << 20
SESSIONS_MAX = 16


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """A target with its volumes, and the channels that lead to it."""

    def __init__(
        self,
        stores: Sequence[VolumeStore],
        *,
        limits: TargetLimits | None = None,
        options: TargetOptions | None = None,
        pool_bytes: int = POOL_BYTES,
        chap: ChapPolicy | None = None,
    ) -> None:
        self.clock = Clock()
        self.pool = BufferPool(pool_bytes)
        self.bus = SCSIBus()
        self.volumes = [
            Volume(f"disk{n}", uuid.UUID(int=n + 1), [store]) for n, store in enumerate(stores)
        ]
        for number, volume in enumerate(self.volumes):
            self.bus.add(number, DiskDevice(volume))
        first_burst, sessions_max = plan_window(self.pool, SESSIONS_MAX)
        counter = count(1)
        self.target = IscsiTarget(
            TARGET,
            self.bus,
            self.pool,
            limits=limits or TargetLimits(first_burst_length=first_burst),
            options=replace(options or TargetOptions(), sessions_max=sessions_max),
            random=lambda size: next(counter).to_bytes(size),
            clock=self.clock,
            chap=chap,
        )
        self.target.addresses.append((*PORTAL, ""))
        self.group = ""  # the label of the portal that connections come in by
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.sockets: list[WireSocket] = []

    def connect(self, peer: str = "192.0.2.9") -> WireSocket:
        """A connection on which nothing has been said yet."""
        socket = WireSocket(
            self.target, self.clock, self.scratch, peer, self.sockets.remove, self.group
        )
        self.sockets.append(socket)
        return socket

    def initiator(
        self,
        name: str = DEFAULT_NAME,
        *,
        isid: bytes | None = None,
        tsih: int = 0,
        cid: int = 0,
        target: str | None = TARGET,
    ) -> WireInitiator:
        """An initiator that has not logged in yet."""
        socket = self.connect()
        return WireInitiator(socket, name=name, isid=isid, tsih=tsih, cid=cid, target=target)

    def login(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        name: str = DEFAULT_NAME,
        isid: bytes | None = None,
        defaults: bool = True,
        settled: bool = True,
    ) -> WireInitiator:
        """A session, its unit attentions taken unless they are what the test is about."""
        session = self.initiator(name, isid=isid)
        session.login(keys, defaults=defaults)
        if settled:
            session.settle(len(self.volumes))
        return session

    def tick(self) -> None:
        """The timers look at the clock."""
        for socket in list(self.sockets):
            socket.tick()

    def settle(self) -> None:
        """Deliver what is on its way, in both directions, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for socket in list(self.sockets):
                moved |= socket.pump()

    def close(self) -> None:
        """Drop every connection."""
        for socket in list(self.sockets):
            socket.drop("the test is over")


@contextlib.contextmanager
def wire(
    size: int = 1 << 20,
    *,
    luns: int = 1,
    stores: Sequence[VolumeStore] | None = None,
    limits: TargetLimits | None = None,
    options: TargetOptions | None = None,
    pool_bytes: int = POOL_BYTES,
    chap: ChapPolicy | None = None,
) -> Iterator[Wire]:
    """A target for as long as the context lasts; it has to be clean at the end."""
    if stores is None:
        stores = [MemoryStore(size) for _ in range(luns)]
    it = Wire(stores, limits=limits, options=options, pool_bytes=pool_bytes, chap=chap)
    yield it
    it.close()
    assert_clean(it.target)
