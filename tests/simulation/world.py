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
5. Each node's clock goes at a rate of its own, within what ``MARGIN`` allows.
6. What a node sent to a registry that has gone does not arrive at the one that comes back.

What is checked beside histories of blocks: no command begins on a node whose lease may have been
taken (``leased_in``), and none by a document that was replaced, once the replacement was answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.node import MARGIN, ClusterNode
from target.cluster.registry import Notices, Registry, RegistryAway, StaleNode
from tests.simulation.nemesis import Nemesis
from tests.simulation.played_unit import LUN, Request, Unit, Workers
from tests.simulation.registers import UNKNOWN, Operation, violation
from tests.support.proving import Proving

LEASE_SECONDS = 2.0
WAIT_SECONDS = 3.0
ANSWER_SECONDS = 4.0  # an initiator waits no longer
TRIES = 4
RATES = (1 - 0.95 * MARGIN, 1 + MARGIN)  # of clocks (rule 5)
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
    changes_everywhere: bool = True  # a document's change is told before it is answered
    proofs_are_asked: bool = True  # a registry with older data is noticed by who knows more


class Node:
    """One node, through all its lives."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.reaches_registry = True
        self.registry: Any = None  # as this life has it
        self._rate = world.random.uniform(*RATES)
        self._connection = 0  # to the registry
        self._greeted = 0
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

    def clock(self) -> float:
        return asyncio.get_running_loop().time() * self._rate

    async def _to_registry(self) -> int:
        """The connection that a call goes over."""
        await self.running()
        connection = self._connection
        if self._greeted != connection:
            await self._through(connection)
            await self.registry.greet()
            self._greeted = connection
        await self._through(connection)
        return connection

    async def _from_registry(self, name: str, connection: int) -> None:
        if name == "alone" and not self.world.switches.who_comes_says_so:
            self.world.registry._unit(LUN).alone = ""
        await self._through(connection)
        await self.running()

    async def _through(self, connection: int) -> None:
        """There or back (rule 6)."""
        await self.world.travel()
        if not self.reaches_registry:
            await asyncio.sleep(1.0)
        if not self.reaches_registry or connection != self._connection:
            raise RegistryAway("cut")

    def start(self) -> None:
        if self._life is None and (self._starting is None or self._starting.done()):
            self._starting = self.world.spawn(self._start())

    async def _start(self) -> None:
        registry = self.registry = Proving(
            self.world.registry,
            self._to_registry,
            self._from_registry,
            proves=self.world.switches.proofs_are_asked,
        )
        life = ClusterNode(
            lambda notices: cast(Registry, registry),
            self.name,
            lease_seconds=LEASE_SECONDS,
            wait_seconds=WAIT_SECONDS,
            clock=self.clock,
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
        workers = self.world.workers
        unit.gate = life.track(
            LUN,
            unit,
            workers.fence,
            unit.load,
            after_doubts=unit.after_doubts,
            fenced_part=workers.covers,
        )
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
            notice(self.registry.listening(self._life))

    def cut(self, away: bool) -> None:
        self.reaches_registry = not away
        self._connection += away
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
        self._wrong = ""  # what is no matter of blocks
        self._in_force = 0  # version of the document, as far as that was answered
        self._histories = 0  # of the registry: one that has lost something begins another

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
        only: str = "",
    ) -> str:
        """Play; why it was no single copy, or nothing.  ``only``: the one kind of faults."""
        loop = asyncio.get_running_loop()
        self.workers = Workers(self)
        self.registry = MemoryRegistry(lambda: round(loop.time() * 1000), self._deliver)
        self.nodes = {name: Node(self, name) for name in "abcdefgh"[:nodes]}
        alone = self.random.random() < 0.3
        for name, node in self.nodes.items():
            if alone and name != "a":
                self.spawn(self._start_late(node))
            else:
                node.start()
        nemesis = self.spawn(Nemesis(self, only).run())
        await asyncio.gather(*(self._initiator(blocks, operations) for _ in range(initiators)))
        nemesis.cancel()
        for node in self.nodes.values():
            node.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self.ended, return_exceptions=True)
        if self.broken is not None:
            raise self.broken
        if self._wrong:
            return self._wrong
        for block, history in self.history.items():
            if why := violation(history):
                return f"block {block}: {why}"
        return ""

    async def _start_late(self, node: Node) -> None:
        await asyncio.sleep(self.random.uniform(0.5, 2.0) * LEASE_SECONDS)
        node.start()

    # --- what is checked at once ------------------------------------------------------------------

    def begins(self, node: str, epoch: int, version: int) -> None:
        """A command does, on that life of a node, by that version of the document."""
        if not self.registry.leased_in(node, epoch):
            self._wrong = self._wrong or f"{node} {epoch} runs a command, its lease may be taken"
        if version < self._in_force and not self.workers.refuses(node, epoch):
            self._wrong = self._wrong or f"{node} runs by version {version}, not {self._in_force}"

    def registry_loses(self) -> None:
        """What was in it; documents too."""
        self._histories += 1
        self._in_force = 0

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
            dice = self.random.random()
            if dice < 0.04:
                await self._reset(self.nodes[name], unit)
                continue
            if dice < 0.08:
                await self._change(unit)
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

    async def _reset(self, node: Node, unit: Unit) -> None:
        """What a reset has answered for is over: it can happen no more."""
        every = (op for ops in self.history.values() for op in ops)
        pending = [op for op in every if op.end == UNKNOWN]
        reset = self.spawn(self._submit_reset(node, unit, unit.sessions))
        done, _ = await asyncio.wait((reset,), timeout=6 * LEASE_SECONDS)
        if done and reset.result() and not unit.dead:
            now = asyncio.get_running_loop().time()
            for operation in pending:
                operation.latest = min(operation.latest, now)

    async def _submit_reset(self, node: Node, unit: Unit, sessions: int) -> bool:
        """A node that is stopped finds it behind the commands that were sent before it."""
        await node.running()
        return not unit.dead and unit.sessions == sessions and await unit.reset()

    async def _change(self, unit: Unit) -> None:
        history = self._histories
        change = self.spawn(unit.change())
        done, _ = await asyncio.wait((change,), timeout=6 * LEASE_SECONDS)
        if done and not unit.dead and history == self._histories:
            self._in_force = max(self._in_force, change.result())
