"""A whole cluster in one process, on one clock that skips what nobody does: nodes, workers, the
registry and initiators, with everything between them late, lost, stopped or dead as a seed says.

What is real: ``target/cluster`` (leases, fencing, gates, events).  What is played: the registry's
machine (``MemoryRegistry``), workers that refuse fenced epochs as ``workers/nodes.py`` does, and
units that run a command when the gate lets it.

Rules of what is played:

1. A node that is stopped says and hears nothing; what it was about to say it says when it goes on.
2. What a node has sent arrives, however late, whatever has become of the node.
3. A command that was not answered may happen as long as its node is not fenced.
4. A unit waits ``IO_SECONDS`` for a worker; a write that has not been done by then is in doubt, and
   holds back what overlaps it (as ``target/block/worker_queue.py`` does).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from target.cluster.lun import LunTracker
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import ClusterNode
from target.cluster.registry import Notices, Registry, RegistryAway, StaleNode
from target.scsi.command import Kind
from target.scsi.request import SCSIRequest
from target.scsi.unit_events import ResetUnit, UnitEvent
from tests.simulation.registers import UNKNOWN, Operation, violation

LUN = "disk"
LEASE_SECONDS = 2.0
WAIT_SECONDS = 3.0
IO_SECONDS = 1.0
ANSWER_SECONDS = 4.0  # an initiator waits no longer
TRIES = 4
SILENT = SimpleNamespace(
    info=lambda *a, **k: None, warning=lambda *a, **k: None, error=lambda *a, **k: None
)


@dataclass
class Switches:
    """What a test may take away, to see that the checker notices."""

    workers_refuse: bool = True  # fenced epochs
    gates_wait: bool = True  # for overlapping commands of others
    peers_are_kept: bool = True  # a registry that has forgotten all is not the only one that knew
    doubts_count: bool = True  # a write in doubt is one that is running still
    reset_everywhere: bool = True  # a reset is done on all nodes before it is answered
    who_comes_says_so: bool = True  # to the node that was alone, and waits for it


class Worker:
    """Blocks; nothing of a fenced epoch is done after the fence has been answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.blocks: dict[int, int] = {}
        self._fences: dict[str, int] = {}
        self._running: dict[tuple[str, int], int] = {}
        self._ended = asyncio.Event()

    async def run(self, node: str, epoch: int, request: Request) -> bool:
        """Do it; False: it is refused."""
        await self._world.travel(self._world.late)
        if self._world.switches.workers_refuse and epoch <= self._fences.get(node, 0):
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

    async def fence(self, node: str, epoch: int) -> None:
        await self._world.travel()
        self._fences[node] = max(epoch, self._fences.get(node, 0))
        if self._world.switches.workers_refuse:
            while any(n for (who, of), n in self._running.items() if who == node and of <= epoch):
                self._ended.clear()
                await self._ended.wait()
        await self._world.travel()


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

    def drop_sessions(self) -> None:
        """What initiators have sent and what waits is nobody's any more."""
        self.sessions += 1
        for request in {*self._waiting, *self._running}:
            request.aborted = True
            if request in self._waiting:
                self._end(request, "aborted")

    def submit(self, request: Request) -> None:
        assert self.gate is not None, "set by the node"
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
        self._running.add(request)
        self._node.world.spawn(self._io(request))

    async def _io(self, request: Request) -> None:
        node = self._node
        await node.running()
        while any(other.block == request.block for other in self._doubts):
            self._emptied.clear()
            await self._emptied.wait()
        io = node.world.spawn(node.world.worker.run(node.name, self._epoch, request))
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


class Remote:
    """The registry, as a node reaches it: late, and not always."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        node = self._node
        world = node.world

        async def call(*args: Any) -> Any:
            await node.running()
            await world.travel()
            await node.through()
            answer = await getattr(world.registry, name)(*args)
            if name == "alone" and not world.switches.who_comes_says_so:
                world.registry._unit(LUN).alone = ""
            await world.travel()
            await node.through()
            await node.running()
            return answer

        return call


class Node:
    """One node, through all its lives."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.reaches_registry = True
        self._going = asyncio.Event()
        self._going.set()
        self._stopped_at = 0.0
        self._epoch = 0
        self._peers: dict[str, int] = {}
        self._held: list[Callable[[Notices], None]] = []
        self._life: ClusterNode | None = None
        self._starting: asyncio.Task[None] | None = None
        self.unit: Unit | None = None

    async def running(self) -> None:
        while not self._going.is_set():
            await self._going.wait()

    async def through(self) -> None:
        """To the registry, or back."""
        if not self.reaches_registry:
            await asyncio.sleep(1.0)
            raise RegistryAway("cut")

    def start(self) -> None:
        if self._life is None and (self._starting is None or self._starting.done()):
            self._starting = self.world.spawn(self._start())

    async def _start(self) -> None:
        life = ClusterNode(
            lambda notices: cast(Registry, Remote(self)),
            self.name,
            lease_seconds=LEASE_SECONDS,
            wait_seconds=WAIT_SECONDS,
            clock=asyncio.get_running_loop().time,
            wall=asyncio.get_running_loop().time,
            log=SILENT,
            on_fenced=self._fenced,
            on_peers=self._keep_peers,
            on_stalled=lambda: None,  # go_on: nobody is stopped between two timers here
        )
        while True:
            try:
                await life.join(self._epoch, "{}", self._peers)
                break
            except (RegistryAway, StaleNode):
                await asyncio.sleep(0.2)
        self._epoch = life.epoch
        self._life = life
        life.start()
        unit = Unit(self, life.epoch)
        unit.gate = life.track(LUN, unit, self.world.worker.fence, after_doubts=unit.after_doubts)
        self.unit = unit

    def _keep_peers(self, peers: dict[str, int]) -> None:
        self._peers = dict(peers) if self.world.switches.peers_are_kept else {}

    def _fenced(self) -> None:
        if self._life is not None:
            self.world.spawn(self._restart(self._life))

    async def _restart(self, life: ClusterNode) -> None:
        await self.running()
        if self._life is not life:
            return
        self.kill()
        await asyncio.sleep(0.1)
        self.start()

    def kill(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self.unit is not None:
            self.unit.dead = True
            self.unit = None
        if self._life is not None:
            life, self._life = self._life, None
            life.over = True
            for tasks in (life._tasks, *(t._tasks for t in life.trackers.values())):
                self.world.ended |= tasks
                for task in list(tasks):
                    task.cancel()
        self.go_on()

    def stop(self) -> None:
        self._stopped_at = asyncio.get_running_loop().time()
        self._going.clear()

    def go_on(self) -> None:
        stopped = asyncio.get_running_loop().time() - self._stopped_at
        if not self._going.is_set() and stopped > LEASE_SECONDS / 2 and self.unit is not None:
            self.unit.drop_sessions()
        self._going.set()
        held, self._held = self._held, []
        for notice in held:
            self._hear(notice)

    def hear(self, notice: Callable[[Notices], None]) -> None:
        if not self.reaches_registry:
            return
        if self._going.is_set():
            self._hear(notice)
        else:
            self._held.append(notice)

    def _hear(self, notice: Callable[[Notices], None]) -> None:
        if self._life is not None:
            notice(self._life)

    def cut(self, away: bool) -> None:
        self.reaches_registry = not away
        if not away and self._life is not None:
            self._life.renewed()


class World:
    """One run."""

    def __init__(self, seed: int, switches: Switches | None = None, *, late: float = 0.1) -> None:
        self.random = random.Random(seed)
        self.switches = switches or Switches()
        self.history: dict[int, list[Operation]] = {}
        self.answered = 0
        self.faults = 0
        self._value = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.ended: set[asyncio.Task[None]] = set()  # of lives that are over
        self.late = late  # how many of the commands on their way to a worker
        self.slow = 0.0
        self.broken: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.broken = self.broken or exc

    async def travel(self, late: float = 0.0) -> None:
        """What a message takes; ``late``: how likely it is to take very long."""
        seconds = self.random.expovariate(1000.0)
        if self.random.random() < max(late, self.slow):
            seconds += self.random.random() * 4 * LEASE_SECONDS
        await asyncio.sleep(seconds)

    def _deliver(self, node: str, notice: Callable[[Notices], None]) -> None:
        # In order, as on one connection; a node that is not heard hears nothing.
        self.spawn(self._arrive(self.nodes[node], notice))

    async def _arrive(self, node: Node, notice: Callable[[Notices], None]) -> None:
        await asyncio.sleep(0.0005)
        node.hear(notice)

    async def run(
        self,
        *,
        nodes: int = 3,
        blocks: int = 2,
        initiators: int = 4,
        operations: int = 8,
    ) -> str:
        """Play; why it was no single copy, or nothing."""
        loop = asyncio.get_running_loop()
        self.worker = Worker(self)
        self.registry = MemoryRegistry(lambda: round(loop.time() * 1000), self._deliver)
        self.nodes = {name: Node(self, name) for name in "abcdefgh"[:nodes]}
        alone = self.random.random() < 0.3
        for name, node in self.nodes.items():
            if alone and name != "a":
                self.spawn(self._start_late(node))
            else:
                node.start()
        nemesis = self.spawn(self._nemesis())
        await asyncio.gather(*(self._initiator(blocks, operations) for _ in range(initiators)))
        nemesis.cancel()
        for node in self.nodes.values():
            node.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self.ended, return_exceptions=True)
        if self.broken is not None:
            raise self.broken
        for block, history in self.history.items():
            if why := violation(history):
                return f"block {block}: {why}"
        return ""

    async def _start_late(self, node: Node) -> None:
        await asyncio.sleep(self.random.uniform(0.5, 2.0) * LEASE_SECONDS)
        node.start()

    # --- initiators -------------------------------------------------------------------------------

    async def _initiator(self, blocks: int, operations: int) -> None:
        await asyncio.sleep(0.05)
        seen: dict[int, int] = {}
        for _ in range(operations):
            await asyncio.sleep(self.random.expovariate(3.0))
            name = self.random.choice(list(self.nodes))
            unit = self.nodes[name].unit
            if unit is None:
                continue
            block = self.random.randrange(blocks)
            kind = self.random.choices(("write", "read", "swap"), (5, 4, 2))[0]
            if self.random.random() < 0.04:
                await self._reset(unit)
                continue
            await self._operate(name, kind, block, seen)

    async def _operate(self, name: str, kind: str, block: int, seen: dict[int, int]) -> None:
        """One operation, tried by one node after the other until it is answered.

        Each try writes a value of its own.  What was tried before and has not happened when another
        node answers can happen no more: that is what an initiator with several paths relies on.
        """
        compared = seen.get(block, 0) if kind == "swap" else None
        before: list[Operation] = []
        for _ in range(1 if kind == "swap" else TRIES):
            operation = await self._try(name, kind, block, compared)
            if operation.end != UNKNOWN:
                seen[block] = operation.value
                for earlier in before:
                    earlier.latest = min(earlier.latest, operation.end)
                return
            before.append(operation)
            await asyncio.sleep(self.random.expovariate(5.0))
            name = self.random.choice([other for other in self.nodes if other != name])
            before = [earlier for earlier in before if earlier.where != name]

    async def _try(self, name: str, kind: str, block: int, compared: int | None) -> Operation:
        now = asyncio.get_running_loop().time
        self._value += 1
        value = 0 if kind == "read" else self._value
        operation = Operation(kind, now(), UNKNOWN, value, compared, where=name)
        self.history.setdefault(block, []).append(operation)
        node = self.nodes[name]
        if node.unit is None:
            return operation
        request = Request(kind, block, value, compared, now())
        self.spawn(self._submit(node, node.unit, request, node.unit.sessions))
        if await self._answer(request) == "done":
            self.answered += 1
            operation.end = now()
            if kind == "read" or request.found is not None:
                # A swap that found something else has read.
                operation.kind, operation.value = "read", cast(int, request.found)
                operation.compared = None
        return operation

    async def _submit(self, node: Node, unit: Unit, request: Request, sessions: int) -> None:
        await node.running()
        if not unit.dead and unit.sessions == sessions:
            unit.submit(request)

    async def _answer(self, request: Request) -> str:
        await asyncio.wait((request.outcome,), timeout=ANSWER_SECONDS)
        if not request.outcome.done():
            request.outcome.cancel()
            return ""
        return request.outcome.result()

    async def _reset(self, unit: Unit) -> None:
        """What a reset has answered for is over: it can happen no more."""
        every = (op for ops in self.history.values() for op in ops)
        pending = [op for op in every if op.end == UNKNOWN]
        reset = self.spawn(unit.reset())
        done, _ = await asyncio.wait((reset,), timeout=6 * LEASE_SECONDS)
        if done and reset.result() and not unit.dead:
            now = asyncio.get_running_loop().time()
            for operation in pending:
                operation.latest = min(operation.latest, now)

    # --- faults -----------------------------------------------------------------------------------

    async def _nemesis(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 1.5))
            node = self.random.choice(list(self.nodes.values()))
            self.faults += 1
            fault = self.random.choices(range(7), (4, 4, 4, 4, 4, 1, 3))[0]
            seconds = self.random.uniform(0.2, 3.0) * LEASE_SECONDS
            if fault == 0:
                node.kill()
                await asyncio.sleep(self.random.expovariate(2.0))
                node.start()
            elif fault == 1:
                node.stop()
                await asyncio.sleep(seconds)
                node.go_on()
            elif fault == 2:
                node.cut(True)
                await asyncio.sleep(seconds)
                node.cut(False)
            elif fault == 3:
                for one in self.nodes.values():
                    one.cut(True)
                await asyncio.sleep(seconds)
                for one in self.nodes.values():
                    one.cut(False)
            elif fault == 4:
                self.slow = 0.2
                await asyncio.sleep(seconds)
                self.slow = 0.0
            elif fault == 5:
                self.registry.forget_all()
            else:  # one is alone
                others = [one for one in self.nodes.values() if one is not node]
                for one in others:
                    one.kill()
                await asyncio.sleep(LEASE_SECONDS + seconds)
                for one in others:
                    one.start()
