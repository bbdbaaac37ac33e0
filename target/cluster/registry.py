"""What nodes ask of the state that they share.

Two implementations pass one suite (tests/unit/test_registry_*.py): Redis
(``redis_registry.py``), and memory (``memory_registry.py``), on which whole clusters are simulated.

Rules:

1. A call is atomic, and may be repeated: one that failed with ``RegistryAway`` may have been
   executed.
2. (node, epoch) stands on every call.  An epoch that has been fenced, or replaced by a later life
   of the node, is refused with ``StaleNode``, and nothing of the call happens.
3. What concerns one logical unit is kept under its UUID (in Redis: in one hash slot).  Nothing is
   common to all units but the members.
4. Notices (:class:`Notices`) may be lost, when the connection to the registry is: then ``renewed``
   says so, and everything that was waited for is asked for again.
5. A registry may come back with older data than it had: a snapshot was restored, a replica that
   lagged is the primary.  Each node proves with its calls what it knows (:class:`Proof`); if the
   registry does not, that life of the node is over (rule 2).  What another node knows and this one
   does not is seen to as well: until every node that serves the unit has called since the registry
   came back, or is fenced, exclusive entries wait, and no event has a number.  Who is waited for is
   told (``Notices.unheard``): its connection may have lasted, and it may have nothing to ask.
6. What a node has given up may arrive behind what it has asked since: a network delivers what was
   sent on a connection that has ended.  Of a unit, no call is executed behind a later one of its
   node (``LateCall``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple, Protocol

ARRIVED: Final = b'{"type":"arrived"}'  # an event: scsi/unit_events.py
NUMBER_MAX: Final = 65_535  # of a node: a RELATIVE TARGET PORT IDENTIFIER has 16 bits


class RegistryAway(Exception):
    """The registry does not answer; what was asked may have been done, or not."""


class LateCall(RegistryAway):
    """A later call of this node has been executed, and this one has not now (rule 6)."""


class StaleNode(Exception):
    """This epoch of this node is over."""


class WrongFormat(Exception):
    """What the registry has is of a format that this version does not know."""


class Proof(NamedTuple):
    """What a life of a node knows to be in the registry, of one unit or of the members (rule 5)."""

    call: int  # the number of this call: the registry keeps the highest
    answered: int  # the number of a call: it and those before have been executed
    heard: int  # the number of the last event; of the members, of the last change


class Proofs:
    """Those of one life of a node, by unit; calls of a unit may overtake each other.

    Numbers are those of all units together: where a node serves a unit again, they go on.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._last: dict[str, Proof] = {}

    def next(self, of: str) -> Proof:
        """For one call."""
        self._calls += 1
        proof = self._last[of] = self._last.get(of, _NOTHING)._replace(call=self._calls)
        return proof

    def last(self, of: str) -> Proof:
        """What is known; for a call that is none of its own."""
        return self._last.get(of, _NOTHING)

    def answered(self, of: str, proof: Proof) -> None:
        """The call of ``proof`` has been executed."""
        last = self._last.get(of)
        if last is not None and proof.call > last.answered:
            self._last[of] = last._replace(answered=proof.call)

    def heard(self, of: str, number: int) -> None:
        """An event, or a change of the members."""
        last = self._last.get(of)
        if last is not None and number > last.heard:
            self._last[of] = last._replace(heard=number)

    def forget(self, of: str) -> None:
        """The node does not serve that unit any more."""
        self._last.pop(of, None)


_NOTHING: Final = Proof(0, 0, 0)


class Joined(NamedTuple):
    """What a node becomes."""

    epoch: int
    number: int  # as in Member
    format: int  # of all that is in the registry


class Member(NamedTuple):
    """A node that has joined."""

    node: str
    epoch: int
    number: int  # of the node, from 1: no two have the same, and it stays
    left_ms: int  # of its lease, when it was asked for; not above 0: it is over
    reaper: str  # who has begun to shut it out; empty: nobody
    info: str  # JSON: where it can be reached


class Renewed(NamedTuple):
    """A lease, and what has become of the members since the change ``known`` of the call.

    A change is that a node has joined, was claimed, or has gone.
    """

    change: int  # the last one, from 1
    whole: bool  # ``changed`` is all members: what was known before is of no use
    changed: list[Member]
    gone: list[str]
    due: list[str]  # members that may be claimed now: the lease is over, or the claim is


class TaskEntry(NamedTuple):
    """A command in flight.  ``info`` says for people what it is (JSON)."""

    sequence: int  # unique within (node, epoch)
    exclusive: bool  # a write, or anything else that overlapping commands have to wait for
    start: int  # LBA
    end: int  # LBA behind it
    info: str


class KnownTask(NamedTuple):
    """A command in flight, of any node."""

    node: str
    epoch: int
    sequence: int
    exclusive: bool
    blocked: bool  # it waits for others
    info: str


class Sizes(NamedTuple):
    """How many entries are kept of a unit."""

    writes: int
    reads: int
    blocked: int
    events: int


class Attached(NamedTuple):
    """What a node finds when it begins to serve a unit."""

    event: int  # the number of the last event; those that follow are for this node as well
    behind: int  # the epoch of an earlier life that has to be fenced first; 0: none, it is attached
    alone: str  # who runs commands that nobody knows of until it has done that event; empty: nobody


class Attachment(NamedTuple):
    """A node that serves a unit."""

    epoch: int
    acknowledged: int  # up to where it has done what events say


class Event(NamedTuple):
    """Something that every node has to do before it counts as done."""

    number: int  # from 1, without gaps
    node: str  # who said so
    payload: bytes


class Notices(Protocol):
    """What a node is told without having asked."""

    @abstractmethod
    def granted(self, lun: str, sequence: int) -> None:
        """What that command waited for has ended."""

    @abstractmethod
    def happened(self, lun: str, event: Event) -> None:
        """There is an event; perhaps one of this node's own."""

    @abstractmethod
    def acknowledged(self, lun: str, node: str, number: int) -> None:
        """A node has done what events up to that one say; who has told that one hears it."""

    @abstractmethod
    def departed(self, lun: str, node: str, epoch: int) -> None:
        """A life of a node serves that unit no more, and nothing of it is in flight.

        The next one perhaps does by now.  Epoch 0: it was not said which one.
        """

    @abstractmethod
    def unheard(self, lun: str) -> None:
        """Others wait until this node has called for that unit (rule 5)."""

    @abstractmethod
    def renewed(self) -> None:
        """Notices may have been lost up to now (rule 4)."""


class Registry(Protocol):
    """The calls.  All of them raise ``RegistryAway``; ``StaleNode`` by rule 2."""

    # --- members ----------------------------------------------------------------------------------

    @abstractmethod
    async def join(
        self, node: str, floor: int, lease_ms: int, info: str, number: int = 0
    ) -> Joined:
        """A new epoch, higher than ``floor`` and than any that the node has had.

        ``number``: the one that it had, in case the registry has forgotten it; 0: none yet.
        RegistryAway when all up to ``NUMBER_MAX`` have been given.  WrongFormat: nothing is
        changed.
        """

    @abstractmethod
    async def renew(self, node: str, epoch: int, lease_ms: int, known: int) -> Renewed:
        """A lease that begins now; what is new since the change ``known`` (0: nothing is known).

        Every node calls it several times in a lease, so its cost must not grow with their number.
        """

    @abstractmethod
    async def members(self) -> list[Member]:
        """All of them."""

    @abstractmethod
    async def numbers(self) -> dict[str, int]:
        """Of each node that there ever was, its number."""

    @abstractmethod
    async def leave(self, node: str, epoch: int) -> None:
        """The node ends, and has detached from all units."""

    @abstractmethod
    async def claim(self, node: str, epoch: int, victim: Member, claim_ms: int) -> bool:
        """Whether ``node`` is the one that shuts out ``victim``, whose lease is over.

        From then on ``victim`` cannot renew it.  For ``claim_ms``; then another one may.
        """

    @abstractmethod
    async def reaped(self, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        """It has been shut out everywhere: forget it."""

    # --- one logical unit -------------------------------------------------------------------------

    @abstractmethod
    async def attach(self, lun: str, node: str, epoch: int) -> Attached:
        """Begin to serve ``lun``: commands may be registered, later events count on this node.

        Repeated, it acknowledges the events up to then: the node serves nothing yet.  Who is alone
        is told by an event of this call with the payload ``ARRIVED``.
        """

    @abstractmethod
    async def alone(self, lun: str, node: str, epoch: int, wanted: bool) -> bool:
        """Whether ``node`` is alone from now on: no other serves ``lun``, and whoever comes waits.

        It ends when the node does not want it any more, or serves ``lun`` no more.
        """

    @abstractmethod
    async def detach(self, lun: str, node: str, epoch: int) -> None:
        """Serve it no more.  Nothing of the node may be in flight."""

    @abstractmethod
    async def submit(
        self,
        lun: str,
        node: str,
        epoch: int,
        settled: Sequence[int],
        entries: Sequence[TaskEntry],
    ) -> list[int]:
        """Forget ``settled``, register ``entries``; returns which of those have to wait.

        An exclusive entry waits for the exclusive ones of other nodes which it overlaps and which
        came before it; ``Notices.granted`` says when they have all ended.
        """

    @abstractmethod
    async def waiting(self, lun: str, node: str, epoch: int) -> list[int]:
        """Which entries of this node wait."""

    @abstractmethod
    async def fence(self, lun: str, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        """Forget all of ``victim`` up to that epoch: nothing of it can land any more."""

    @abstractmethod
    async def writes_of(self, lun: str, node: str, epoch: int) -> list[tuple[int, int, int]]:
        """Sequence, start and end of the exclusive entries of a life of a node."""

    @abstractmethod
    async def settle(
        self,
        lun: str,
        node: str,
        epoch: int,
        victim: str,
        victim_epoch: int,
        settled: Sequence[int],
    ) -> None:
        """Forget those entries of a life of another node: nothing of them can land any more."""

    @abstractmethod
    async def post(self, lun: str, node: str, epoch: int, payload: bytes) -> int:
        """Number of a new event; 0: there is none, not all have been heard (rule 5)."""

    @abstractmethod
    async def events(self, lun: str, node: str, epoch: int, after: int) -> list[Event]:
        """The events behind number ``after`` that some node has not acknowledged yet."""

    @abstractmethod
    async def acknowledge(self, lun: str, node: str, epoch: int, number: int) -> None:
        """This node has done what the events up to ``number`` say."""

    @abstractmethod
    async def attached(self, lun: str) -> dict[str, Attachment]:
        """The nodes that serve ``lun``."""

    @abstractmethod
    async def load(self, lun: str, key: str) -> tuple[int, bytes]:
        """A document of the unit and its version; version 0: there is none."""

    @abstractmethod
    async def replace(
        self,
        lun: str,
        node: str,
        epoch: int,
        key: str,
        version: int,
        document: bytes,
        becomes: int = 0,
    ) -> bool:
        """Replace it by its next version, unless it has another version than ``version``.

        ``becomes``: the version that it has then, if that is not the next one.
        """

    @abstractmethod
    async def drop_unit(self, lun: str) -> None:
        """Its volume is gone for good: keep nothing of it.  Who serves it still is refused."""

    @abstractmethod
    def tasks(self, lun: str) -> AsyncIterator[list[KnownTask]]:
        """Commands in flight, on all nodes: in pages, in no order; perhaps one of them twice."""

    @abstractmethod
    async def sizes(self, lun: str) -> Sizes:
        """How much there is of it."""
