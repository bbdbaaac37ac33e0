"""The registry in memory: what simulations of whole clusters and their tests stand on.

The same as ``lunmesh.lua``, call by call; both pass tests/unit/test_registry_contract.py.  Time is
the caller's, and so is what a notice takes: ``deliver`` has a function called, now or later.  The
proof of a call is its last argument; who gives none is taken at his word.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from target.cluster.registry import (
    ARRIVED,
    NUMBER_MAX,
    Attached,
    Attachment,
    Event,
    Joined,
    KnownTask,
    LateCall,
    Member,
    Notices,
    Proof,
    Registry,
    RegistryAway,
    Renewed,
    Sizes,
    StaleNode,
    TaskEntry,
)

FORMAT: Final = 0  # it is never written down
DATA: Final = ("_members", "_epochs", "_numbers", "_changes", "fences", "_units")
Field = tuple[str, int, int]  # node, epoch, sequence
Deliver = Callable[[str, Callable[[Notices], None]], None]


@dataclass
class _Member:
    epoch: int
    due_ms: int  # the end of its lease, or of the claim
    info: str
    reaper: str = ""
    beat: int = 0  # the number of its last renewal
    spared: bool = False  # its lease has been made whole again since


@dataclass
class _Unit:
    event: int = 0
    alone: str = ""
    attached: dict[str, int] = field(default_factory=dict)  # epoch by node
    acknowledged: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)  # by node, its last one
    fenced: dict[str, int] = field(default_factory=dict)
    writes: dict[Field, TaskEntry] = field(default_factory=dict)
    reads: dict[Field, TaskEntry] = field(default_factory=dict)
    blocked: dict[Field, set[Field]] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    documents: dict[str, tuple[int, bytes]] = field(default_factory=dict)


class MemoryRegistry(Registry):
    """``now_ms`` is the registry's own clock; ``deliver(node, notice)`` reaches who listens."""

    def __init__(self, now_ms: Callable[[], int], deliver: Deliver) -> None:
        self._now_ms = now_ms
        self._deliver = deliver
        self._members: dict[str, _Member] = {}
        self._epochs: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        # By node, the number of its last change; the last one to change is at the end.
        self._changes: dict[str, int] = {}
        self.fences: dict[str, int] = {}
        self._units: dict[str, _Unit] = {}
        # Since the registry has these data: it is no part of them (registry.py, rule 5).
        self._heard: dict[str, set[str]] = {}  # by unit, nodes
        self._began = True  # leases are as long as their nodes have been told
        self._renewed_at: int | None = None  # when somebody did last

    def snapshot(self) -> Any:
        """All that there is now, for ``restore``."""
        return copy.deepcopy({name: getattr(self, name) for name in DATA})

    def restore(self, snapshot: Any) -> None:
        """As a Redis that comes back with what it had then, or that restarts with all of it."""
        for name, data in copy.deepcopy(snapshot).items():
            setattr(self, name, data)
        self._heard = {lun: set() for lun in self._units}
        self._began = False

    def leased_in(self, node: str, epoch: int) -> bool:
        """Whether nobody may have taken the lease of that life, as far as is known."""
        member = self._member(node, epoch)
        if member is None:
            return self.fences.get(node, 0) < epoch
        return not member.reaper and (member.due_ms > self._now_ms() or not self._began)

    def forget_all(self) -> None:
        """As a Redis that keeps nothing does when it restarts."""
        self._members.clear()
        self._epochs.clear()
        self._numbers.clear()
        self._changes.clear()
        self.fences.clear()
        self._units.clear()
        self._heard.clear()
        self._began = True

    def _unit(self, lun: str) -> _Unit:
        return self._units.setdefault(lun, _Unit())

    def _checked(self, lun: str, node: str, epoch: int, proof: Proof | None = None) -> _Unit:
        unit = self._unit(lun)
        if unit.attached.get(node) != epoch:
            raise StaleNode("this epoch of this node is over")
        if proof is not None:
            last = unit.calls.get(node, 0)
            if last < proof.answered or unit.event < proof.heard:
                raise StaleNode("it knows what is not here")
            _in_order(unit, node, proof)
            unit.calls[node] = proof.call
        self._hear(lun, node, epoch)
        return unit

    def _hear(self, lun: str, node: str, epoch: int) -> None:
        heard = self._heard.setdefault(lun, set())
        if node not in heard:
            heard.add(node)
            self._wake(lun, {(node, epoch, 0)})

    def _unheard(self, lun: str) -> set[Field]:
        """What exclusive entries wait for while nodes have not been heard, which are told."""
        heard = self._heard.get(lun, set())
        attached = self._unit(lun).attached.items()
        found = {node: (node, epoch, 0) for node, epoch in attached if node not in heard}
        for node in found:
            self._deliver(node, lambda notices: notices.unheard(lun))
        return set(found.values())

    # --- members ----------------------------------------------------------------------------------

    async def join(
        self, node: str, floor: int, lease_ms: int, info: str, number: int = 0
    ) -> Joined:
        taken = self._numbers.values()
        if not number or number in taken:
            number = max(taken, default=0) + 1
        if node not in self._numbers and number > NUMBER_MAX:
            raise RegistryAway(f"there have been {NUMBER_MAX} node ids")
        epoch = max(floor, self._epochs.get(node, 0), self.fences.get(node, 0)) + 1
        self._epochs[node] = epoch
        self._members[node] = _Member(epoch, self._now_ms() + lease_ms, info)
        self._changed(node)
        return Joined(epoch, self._numbers.setdefault(node, number), FORMAT)

    @property
    def _last_change(self) -> int:
        return next(reversed(self._changes.values()), 0)

    def _changed(self, node: str) -> None:
        number = self._last_change + 1
        self._changes.pop(node, None)
        self._changes[node] = number

    def _describe(self, node: str) -> Member:
        m = self._members[node]
        left_ms = 0 if m.reaper else m.due_ms - self._now_ms()
        return Member(node, m.epoch, self._numbers[node], left_ms, m.reaper, m.info)

    def _member(self, node: str, epoch: int) -> _Member | None:
        member = self._members.get(node)
        return member if member is not None and member.epoch == epoch else None

    async def greet(self, node: str, epoch: int, proof: Proof) -> None:
        """Of a node that has just been connected.  Raises StaleNode."""
        me = self._member(node, epoch)
        if me is None or me.reaper:
            raise StaleNode("this epoch of this node is over")
        if me.beat < proof.answered or self._last_change < proof.heard:
            raise StaleNode("it knows what is not here")

    async def renew(
        self, node: str, epoch: int, lease_ms: int, known: int, proof: Proof | None = None
    ) -> Renewed:
        if proof is None:
            proof = Proof(0, 0, known)
        await self.greet(node, epoch, proof._replace(heard=known))
        me = self._members[node]
        me.beat = max(me.beat, proof.call)
        now = self._now_ms()
        before, self._renewed_at = self._renewed_at, now
        clock_put_forward = before is not None and now > before + lease_ms / 2
        if not self._began or clock_put_forward:  # each has all of a lease from now on, once
            for member in self._members.values():
                if not member.reaper and not (member.spared and self._began):
                    member.due_ms = max(member.due_ms, now + lease_ms)
                    member.spared = True
            self._began = True
        me.due_ms, me.spared = now + lease_ms, False
        due = [name for name, m in self._members.items() if m.due_ms <= now]
        last = self._last_change
        if known == 0:
            return Renewed(last, True, await self.members(), [], due)
        news = []
        for name, number in reversed(self._changes.items()):
            if number <= known:
                break
            news.append(name)
        changed = [self._describe(name) for name in news if name in self._members]
        return Renewed(last, False, changed, [n for n in news if n not in self._members], due)

    async def members(self) -> list[Member]:
        return [self._describe(name) for name in self._members]

    async def numbers(self) -> dict[str, int]:
        return dict(self._numbers)

    async def leave(self, node: str, epoch: int) -> None:
        if self._member(node, epoch) is not None:
            self._remove(node)

    def _remove(self, node: str) -> None:
        del self._members[node]
        self._changed(node)

    async def claim(self, node: str, epoch: int, victim: Member, claim_ms: int) -> bool:
        me = self._member(node, epoch)
        if me is None or me.reaper:
            raise StaleNode("this epoch of this node is over")
        other, now = self._member(victim.node, victim.epoch), self._now_ms()
        if not self._began or other is None or (other.reaper != node and other.due_ms > now):
            return False
        other.reaper, other.due_ms = node, now + claim_ms
        self._changed(victim.node)
        self.fences[victim.node] = max(victim.epoch, self.fences.get(victim.node, 0))
        return True

    async def reaped(self, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        other = self._member(victim, victim_epoch)
        if other is not None and other.reaper == node:
            self._remove(victim)

    # --- one logical unit -------------------------------------------------------------------------

    async def attach(self, lun: str, node: str, epoch: int, proof: Proof | None = None) -> Attached:
        unit = self._unit(lun)
        if unit.fenced.get(node, 0) >= epoch:
            raise StaleNode("this epoch of this node is over")
        at = unit.attached.get(node)
        if at is not None and at != epoch:
            if at > epoch:
                raise StaleNode("this epoch of this node is over")
            return Attached(unit.event, at, "")
        if at is not None:
            _in_order(unit, node, proof)
        if unit.alone not in ("", node):
            self._post(lun, node, ARRIVED)
        unit.calls[node] = proof.call if proof is not None else 0
        self._hear(lun, node, epoch)
        if at is None:
            unit.attached[node] = epoch
            unit.acknowledged[node] = unit.event
        else:
            # The answer to the first call was lost.
            self._acknowledged(lun, node, unit.event)
            self._tell(lun, lambda notices: notices.acknowledged(lun, node, unit.event))
        return Attached(unit.event, 0, "" if unit.alone == node else unit.alone)

    async def alone(
        self, lun: str, node: str, epoch: int, wanted: bool, proof: Proof | None = None
    ) -> bool:
        unit = self._checked(lun, node, epoch, proof)
        if wanted and len(unit.attached) == 1:
            unit.alone = node
        elif unit.alone == node:
            unit.alone = ""
        return unit.alone == node

    async def detach(self, lun: str, node: str, epoch: int, proof: Proof | None = None) -> None:
        unit = self._unit(lun)
        if unit.attached.get(node) == epoch:
            _in_order(unit, node, proof)
            self._forget(lun, node, epoch)

    async def submit(
        self,
        lun: str,
        node: str,
        epoch: int,
        settled: Sequence[int],
        entries: Sequence[TaskEntry],
        proof: Proof | None = None,
    ) -> list[int]:
        unit = self._checked(lun, node, epoch, proof)
        gone = {(node, epoch, sequence) for sequence in settled}
        for one in gone:
            unit.reads.pop(one, None)
            unit.writes.pop(one, None)
            unit.blocked.pop(one, None)
        self._wake(lun, gone)
        waits = []
        for entry in entries:
            one = (node, epoch, entry.sequence)
            if not entry.exclusive:
                unit.reads[one] = entry
                continue
            if one not in unit.writes:
                before = self._unheard(lun) | {
                    other
                    for other, it in unit.writes.items()
                    if other[0] != node and it.start < entry.end and entry.start < it.end
                }
                unit.writes[one] = entry
                if before:
                    unit.blocked[one] = before
            if one in unit.blocked:
                waits.append(entry.sequence)
        return waits

    def _wake(self, lun: str, gone: set[Field]) -> None:
        unit = self._unit(lun)
        for one, before in list(unit.blocked.items()):
            before -= gone
            if not before:
                del unit.blocked[one]
                self._granted(lun, one)

    def _granted(self, lun: str, one: Field) -> None:
        node, _, sequence = one
        self._deliver(node, lambda notices: notices.granted(lun, sequence))

    def _forget(self, lun: str, node: str, epoch: int) -> None:
        unit = self._unit(lun)
        gone = {one for one in (*unit.writes, *unit.reads) if one[0] == node and one[1] <= epoch}
        gone.add((node, unit.attached.get(node, 0), 0))
        self._heard.get(lun, set()).discard(node)
        for one in gone:
            unit.reads.pop(one, None)
            unit.writes.pop(one, None)
            unit.blocked.pop(one, None)
        self._wake(lun, gone)
        left = unit.attached.pop(node)
        unit.acknowledged.pop(node, None)
        unit.calls.pop(node, None)
        if unit.alone == node:
            unit.alone = ""
        self._trim(unit)
        self._tell(lun, lambda notices: notices.departed(lun, node, left))

    def _tell(self, lun: str, notice: Callable[[Notices], None]) -> None:
        for node in list(self._unit(lun).attached):
            self._deliver(node, notice)

    async def waiting(
        self, lun: str, node: str, epoch: int, proof: Proof | None = None
    ) -> list[int]:
        unit = self._checked(lun, node, epoch, proof)
        return [sequence for name, of, sequence in unit.blocked if (name, of) == (node, epoch)]

    async def fence(
        self,
        lun: str,
        node: str,
        epoch: int,
        victim: str,
        victim_epoch: int,
        proof: Proof | None = None,
    ) -> None:
        unit = self._unit(lun) if node == victim else self._checked(lun, node, epoch, proof)
        unit.fenced[victim] = max(victim_epoch, unit.fenced.get(victim, 0))
        at = unit.attached.get(victim)
        if at is not None and at <= victim_epoch:
            self._forget(lun, victim, victim_epoch)

    async def writes_of(self, lun: str, node: str, epoch: int) -> list[tuple[int, int, int]]:
        return [
            (entry.sequence, entry.start, entry.end)
            for (name, of, _), entry in self._unit(lun).writes.items()
            if (name, of) == (node, epoch)
        ]

    async def settle(
        self,
        lun: str,
        node: str,
        epoch: int,
        victim: str,
        victim_epoch: int,
        settled: Sequence[int],
        proof: Proof | None = None,
    ) -> None:
        unit = self._checked(lun, node, epoch, proof)
        gone = {(victim, victim_epoch, sequence) for sequence in settled}
        for one in gone:
            unit.writes.pop(one, None)
            unit.blocked.pop(one, None)
        self._wake(lun, gone)

    async def post(
        self, lun: str, node: str, epoch: int, payload: bytes, proof: Proof | None = None
    ) -> int:
        self._checked(lun, node, epoch, proof)
        if self._unheard(lun):
            return 0
        return self._post(lun, node, payload)

    def _post(self, lun: str, node: str, payload: bytes) -> int:
        unit = self._unit(lun)
        unit.event += 1
        event = unit.events[unit.event] = Event(unit.event, node, payload)
        self._tell(lun, lambda notices: notices.happened(lun, event))
        return unit.event

    async def events(
        self, lun: str, node: str, epoch: int, after: int, proof: Proof | None = None
    ) -> list[Event]:
        unit = self._checked(lun, node, epoch, proof)
        return [event for number, event in sorted(unit.events.items()) if number > after]

    async def acknowledge(
        self, lun: str, node: str, epoch: int, number: int, proof: Proof | None = None
    ) -> None:
        self._checked(lun, node, epoch, proof)
        self._acknowledged(lun, node, number)

    def _acknowledged(self, lun: str, node: str, number: int) -> None:
        unit = self._unit(lun)
        unit.acknowledged[node] = number
        event = unit.events.get(number)
        self._trim(unit)
        if event is not None:
            self._deliver(event.node, lambda notices: notices.acknowledged(lun, node, number))

    @staticmethod
    def _trim(unit: _Unit) -> None:
        least = min(unit.acknowledged.values(), default=unit.event)
        for number in [n for n in unit.events if n <= least]:
            del unit.events[number]

    async def attached(self, lun: str) -> dict[str, Attachment]:
        unit = self._unit(lun)
        return {n: Attachment(unit.attached[n], at) for n, at in unit.acknowledged.items()}

    async def load(self, lun: str, key: str) -> tuple[int, bytes]:
        return self._unit(lun).documents.get(key, (0, b""))

    async def replace(
        self,
        lun: str,
        node: str,
        epoch: int,
        key: str,
        version: int,
        document: bytes,
        becomes: int = 0,
        proof: Proof | None = None,
    ) -> bool:
        unit = self._checked(lun, node, epoch, proof)
        if unit.documents.get(key, (0, b""))[0] != version:
            return False
        unit.documents[key] = (becomes or version + 1, document)
        return True

    async def drop_unit(self, lun: str) -> None:
        self._units.pop(lun, None)
        self._heard.pop(lun, None)

    async def tasks(self, lun: str) -> AsyncIterator[list[KnownTask]]:
        unit = self._unit(lun)
        yield [
            KnownTask(*one, entry.exclusive, one in unit.blocked, entry.info)
            for one, entry in (*unit.writes.items(), *unit.reads.items())
        ]

    async def sizes(self, lun: str) -> Sizes:
        unit = self._unit(lun)
        return Sizes(len(unit.writes), len(unit.reads), len(unit.blocked), len(unit.events))


def _in_order(unit: _Unit, node: str, proof: Proof | None) -> None:
    """Raises LateCall."""
    if proof is not None and proof.call < unit.calls.get(node, 0):
        raise LateCall("later calls of this node have been executed")
