"""What a simulated node serves: workers that do or refuse, commands, and the unit they are for.

``world.py`` has the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from target.cluster.lun import LunTracker
from target.cluster.registry import RegistryAway, StaleNode
from target.scsi.command import Kind
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import DocumentChanged, ResetUnit, UnitEvent

if TYPE_CHECKING:
    from tests.simulation.world import Node, World

LUN = "disk"
DOCUMENT = "settings"
IO_SECONDS = 1.0
RETRY_SECONDS = 0.1


class Worker:
    """Blocks; nothing of a fenced epoch is done after the fence has been answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.blocks: dict[int, int] = {}
        self._fences: dict[str, int] = {}
        self._running: dict[tuple[str, int], int] = {}
        self._ended = asyncio.Event()
        self._there = asyncio.Event()
        self._there.set()

    def away(self, away: bool) -> None:
        """Whether it is reached by nobody."""
        if away:
            self._there.clear()
        else:
            self._there.set()

    async def run(self, node: str, epoch: int, request: Request) -> bool:
        """Do it; False: it is refused."""
        await self._world.travel(self._world.late)
        await self._there.wait()
        if self._world.switches.workers_refuse and self.refuses(node, epoch):
            return False
        life = (node, epoch)
        self._running[life] = self._running.get(life, 0) + 1
        await self._world.travel()
        there = self.blocks.get(request.block, 0)
        if request.kind == "read" or (request.kind == "swap" and there != request.compared):
            request.found = there
        else:
            request.found = None
            self.blocks[request.block] = request.value
        self._running[life] -= 1
        self._ended.set()
        await self._world.travel()
        return True

    def refuses(self, node: str, epoch: int) -> bool:
        return epoch <= self._fences.get(node, 0)

    async def fence(self, node: str, epoch: int) -> None:
        await self._world.travel()
        await self._there.wait()
        self._fences[node] = max(epoch, self._fences.get(node, 0))
        if self._world.switches.workers_refuse:
            while any(n for (who, of), n in self._running.items() if who == node and of <= epoch):
                self._ended.clear()
                await self._ended.wait()
        await self._world.travel()


class Workers:
    """Each has every other block."""

    def __init__(self, world: World) -> None:
        self.each = (Worker(world), Worker(world))
        self._refuse: dict[tuple[str, int], set[Worker]] = {}

    async def run(self, node: str, epoch: int, request: Request) -> bool:
        """Do it; False: it is refused."""
        return await self.each[request.block % 2].run(node, epoch, request)

    def refuses(self, node: str, epoch: int) -> bool:
        """Whether all do."""
        return all(worker.refuses(node, epoch) for worker in self.each)

    async def fence(self, node: str, epoch: int) -> None:
        """As target/worker_fencing.py does."""

        async def at_one(worker: Worker) -> None:
            await worker.fence(node, epoch)
            self._refuse.setdefault((node, epoch), set()).add(worker)

        await asyncio.gather(*map(at_one, self.each))

    def covers(self, node: str, epoch: int, lba: int, blocks: int) -> bool:
        """Of target/cluster/host.py."""
        on = {self.each[block % 2] for block in range(lba, lba + blocks)}
        return on <= self._refuse.get((node, epoch), set())


class Request:
    """A command of an initiator; as much of a ``SCSIRequest`` as a gate looks at."""

    def __init__(self, kind: str, block: int, value: int, compared: int | None, now: float) -> None:
        self.kind = kind
        self.block = block
        self.value = value
        self.compared = compared
        self.found: int | None = None
        self.command = SimpleNamespace(
            kind={"read": Kind.READ, "write": Kind.WRITE, "swap": Kind.EXCLUSIVE}[kind]
        )
        self.lba, self.blocks = block, 1
        self.tag = value
        self.cdb = b""
        self.started_at = now
        nexus = SimpleNamespace(initiator="i", isid=b"")
        self.attachment = SimpleNamespace(nexus=nexus, number=0)
        self.aborted = False
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Unit:
    """Commands of one life of a node."""

    def __init__(self, node: Node, epoch: int) -> None:
        self._node = node
        self._epoch = epoch
        self.gate: LunTracker | None = None
        self._waiting: set[Request] = set()
        self._running: set[Request] = set()
        self._doubts: set[Request] = set()
        self._doubt_waits: list[tuple[set[Request], Callable[[], None]]] = []
        self._emptied = asyncio.Event()
        self.dead = False
        self.sessions = 0  # that have been dropped
        self._version = 0  # of the document that commands run by

    def drop_sessions(self) -> None:
        """What initiators have sent and what waits is nobody's any more."""
        self.sessions += 1
        for request in {*self._waiting, *self._running}:
            request.aborted = True
            if request in self._waiting:
                self._end(request, "aborted")

    def submit(self, request: Request) -> None:
        assert self.gate is not None, "set by the node"
        request.started_at = self._node.clock()
        if self.gate.enter(cast(SCSIRequest, request)):
            self._run(request)
        else:
            self._waiting.add(request)
            if not self._node.world.switches.gates_wait:
                self.admit(cast(SCSIRequest, request))

    def admit(self, req: SCSIRequest) -> None:
        request = cast(Request, req)
        if request in self._waiting:
            self._waiting.discard(request)
            self._run(request)

    def turn_away(self, req: SCSIRequest) -> None:
        request = cast(Request, req)
        if request in self._waiting:
            self._end(request, "busy")

    def _run(self, request: Request) -> None:
        self._node.world.begins(self._node.name, self._epoch, self._version)
        self._running.add(request)
        self._node.world.spawn(self._io(request))

    async def _io(self, request: Request) -> None:
        node = self._node
        await node.running()
        while any(other.block == request.block for other in self._doubts):
            self._emptied.clear()
            await self._emptied.wait()
        io = node.world.spawn(node.world.workers.run(node.name, self._epoch, request))
        await asyncio.wait((io,), timeout=IO_SECONDS)
        await node.running()
        if self.dead:
            return
        if io.done():
            self._end(request, "done" if io.result() else "refused")
            return
        if request.kind != "read":
            self._doubts.add(request)
        self._end(request, "busy")
        await asyncio.wait((io,))
        await node.running()
        self._certain(request)

    def _certain(self, request: Request) -> None:
        self._doubts.discard(request)
        self._emptied.set()
        for wait in list(self._doubt_waits):
            wait[0].discard(request)
            if not wait[0]:
                self._doubt_waits.remove(wait)
                wait[1]()

    def after_doubts(self, lba: int, blocks: int, done: Callable[[], None]) -> bool:
        """Of ``target/cluster/host.py``."""
        doubts = {it for it in self._doubts if not blocks or lba <= it.block < lba + blocks}
        if not self._node.world.switches.doubts_count or not doubts:
            return False
        self._doubt_waits.append((doubts, done))
        return True

    def _end(self, request: Request, outcome: str) -> None:
        self._waiting.discard(request)
        self._running.discard(request)
        assert self.gate is not None, "set by the node"
        self.gate.left(cast(SCSIRequest, request))
        if not request.aborted and not request.outcome.done():
            request.outcome.set_result(outcome)
        self._emptied.set()

    def happened(self, event: UnitEvent, done: Callable[[], None]) -> None:
        if isinstance(event, ResetUnit):
            self._node.world.spawn(self._reset(done))
        elif isinstance(event, DocumentChanged):
            self._node.world.spawn(self._look(done))
        else:
            done()

    async def _reset(self, done: Callable[[], None]) -> None:
        victims = {*self._waiting, *self._running}
        for request in victims:
            request.aborted = True
            if request in self._waiting:
                self._end(request, "aborted")
        while self._running & victims:
            self._emptied.clear()
            await self._emptied.wait()
        done()

    async def reset(self) -> bool:
        """LOGICAL UNIT RESET, on all nodes; whether it may be answered."""
        here = asyncio.Event()
        assert self.gate is not None, "set by the node"
        self._node.world.spawn(self._reset(here.set))
        sure = True
        if self._node.world.switches.reset_everywhere:
            sure = await self.gate.announce(ResetUnit(asc=0x29, ascq=3))
        await here.wait()
        quiet: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.gate.quiet(lambda it: None if quiet.done() else quiet.set_result(it))
        return await quiet and sure

    # --- a document, as reservations and settings are ---------------------------------------------

    async def load(self) -> None:
        """Before any command runs."""
        while True:
            try:
                version, _ = await self._node.registry.load(LUN, DOCUMENT)
                break
            except RegistryAway:
                await asyncio.sleep(RETRY_SECONDS)
        self._version = max(version, self._version)

    async def _look(self, done: Callable[[], None]) -> None:
        await self.load()
        done()

    async def change(self) -> int:
        """The version that is in force on all nodes now; 0: that is not known."""
        registry, gate = self._node.registry, self.gate
        assert gate is not None, "set by the node"
        try:
            version: int
            version, _ = await registry.load(LUN, DOCUMENT)
            if not await registry.replace(
                LUN, self._node.name, self._epoch, DOCUMENT, version, b""
            ):
                return 0
        except (RegistryAway, StaleNode):
            return 0
        self._version = max(version + 1, self._version)
        if self._node.world.switches.changes_everywhere:
            told = await gate.announce(DocumentChanged(key=DOCUMENT, version=version + 1))
            return version + 1 if told else 0
        return version + 1
