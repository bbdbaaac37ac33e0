"""The commands that have not ended, of all nodes, the oldest first: however many there are.

Those of this node are looked at where they are; those of others are what the registry has of them.

Rules:

1. Whoever looks must not hold commands up: all is done in turns of at most ``ROWS_PER_TURN`` rows,
   and the event loop goes on in between.  Each turn sorts its rows; merged, they are in order.
2. The order is that of begin, by the clock on the wall, which nodes have in common; ``cursor``
   says behind which command to go on, whatever has ended meanwhile.
3. A command is printed only if it is told, or if a word of the filter is in nothing else of it.
4. Of others at most ``OTHERS_MAX`` are looked at, ``UNITS_AT_A_TIME`` logical units at a time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from target.cluster.registry import KnownTask, RegistryAway
from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.request import COMPLETED, SCSIRequest, State, print_request
from target.sight_info import TASKS_MAX, TaskInfo, TaskList

if TYPE_CHECKING:
    from target.clustering import Clustering

FILTER_CHARS_MAX: Final = 200
ROWS_PER_TURN: Final = 250  # about 1 ms
UNITS_AT_A_TIME: Final = 8
OTHERS_MAX: Final = 100_000


class Key(NamedTuple):
    """Rule 2; as text, a cursor."""

    began: float
    node: str
    tag: int

    def __str__(self) -> str:
        return f"{self.began!r}/{self.tag:x}/{self.node}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """Raises ValueError."""
        try:
            began, tag, node = text.split("/", 2)
            return cls(float(began), node, int(tag, 16))
        except ValueError:
            raise ValueError(f"{text!r} is no cursor: take next of the answer before") from None


class TaskQuery(NamedTuple):
    """What is asked for."""

    words: tuple[str, ...] = ()  # each has to be in what is told of a command, in lower case
    after: Key | None = None  # only those behind it
    offset: int = 0  # so many of these are left out
    limit: int = TASKS_MAX


class _Row(NamedTuple):
    key: Key
    unit: LogicalUnit
    task: SCSIRequest | KnownTask


class TaskLister:
    """``name_of`` says what a target is called; ``clustering`` knows other nodes, if any."""

    def __init__(
        self,
        node_id: str,
        bus: SCSIBus,
        name_of: Callable[[str], str],
        clustering: Clustering | None,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._id = node_id
        self._bus = bus
        self._name_of = name_of
        self._clustering = clustering
        self._clock = clock
        self._wall = wall
        self._clock_began = wall() - clock()  # the same each time, or no cursor would hold

    async def find(self, query: TaskQuery) -> TaskList:
        """What ``query`` asks for."""
        runs = await _sorted_runs(self._own_rows())
        others = False
        if self._clustering is not None:
            found, others = await self._rows_of_others(self._clustering)
            runs += await _sorted_runs(iter(found))
        known = total = passed = 0
        told: list[TaskInfo] = []
        last: Key | None = None
        behind: Key | None = None
        more = False
        for row in heapq.merge(*runs, key=_key_of):
            known += 1
            if known % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if row.key == last or not self._fits(row, query.words):
                continue  # the registry may tell of one twice
            last = row.key
            total += 1
            if query.after is not None and row.key <= query.after:
                continue
            passed += 1
            if passed <= query.offset:
                continue
            if len(told) == query.limit:
                more = True
            elif not _ended(row.task):
                told.append(self._info(row))
                behind = row.key
        following = str(behind) if more and behind is not None else ""
        return TaskList(tasks=told, total=total, known=known, next=following, others=others)

    async def elsewhere(self, task_id: str) -> tuple[bool, bool]:
        """Whether it is one of another node; and whether all of those were looked at."""
        if self._clustering is None:
            return False, True
        found, whole = await self._rows_of_others(self._clustering)
        return any(self._info(row).id == task_id for row in found), whole

    # --- where they are ---------------------------------------------------------------------------

    def _own_rows(self) -> Iterator[_Row]:
        for unit in list(self._bus.units.values()):
            for req in unit.tasks_of():
                yield _Row(Key(req.started_at + self._clock_began, self._id, req.tag), unit, req)

    async def _rows_of_others(self, clustering: Clustering) -> tuple[list[_Row], bool]:
        """And whether these are all (rule 4)."""
        found: list[_Row] = []
        units = iter(clustering.units())

        async def look() -> bool:
            for lun, unit in units:  # the next that nobody looks at
                async for page in clustering.node.registry.tasks(lun):
                    found.extend(
                        _Row(_key_of_known(known), unit, known)
                        for known in page
                        if known.node != self._id
                    )
                    if len(found) > OTHERS_MAX:
                        return False
            return True

        looks = [look() for _ in range(UNITS_AT_A_TIME)]
        ends = await asyncio.gather(*looks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, RegistryAway):
                raise end
        return found[:OTHERS_MAX], all(end is True for end in ends)

    # --- what is told of one ----------------------------------------------------------------------

    def _fits(self, row: _Row, words: Iterable[str]) -> bool:
        """Rule 3."""
        if not words:
            return True
        place = self._place(row)
        left = [word for word in words if word not in place]
        if not left:
            return True
        request = _printed(row).lower()
        return all(word in request for word in left)

    def _place(self, row: _Row) -> str:
        task = row.task
        if isinstance(task, SCSIRequest):
            lun, initiator = task.attachment.number, task.attachment.nexus.initiator
            return f"{self._id} lun={lun} {initiator} {_state_of(task)}".lower()
        initiator, _, number, *_ = task.info.split(" ")
        return f"{task.node} lun={number} {initiator} {_state_of(task)}".lower()

    def _info(self, row: _Row) -> TaskInfo:
        task, unit = row.task, row.unit
        if isinstance(task, SCSIRequest):
            nexus = task.attachment.nexus
            node, initiator, isid = self._id, nexus.initiator, nexus.isid.hex()
            number, age = task.attachment.number, self._clock() - task.started_at
        else:
            initiator, isid, lun, _, began, _ = task.info.split(" ")
            node, number, age = task.node, int(lun), self._wall() - float(began)
        return TaskInfo(
            id=_id(node, unit.address, row.key.tag, initiator, isid),
            node=node,
            target=self._name_of(unit.address.target),
            lun=number,
            initiator=initiator,
            isid=isid,
            tag=row.key.tag,
            state=_state_of(task),
            age_seconds=round(age, 3),
            request=_printed(row),
        )


async def _sorted_runs(rows: Iterator[_Row]) -> list[list[_Row]]:
    """Rule 1."""
    runs = []
    while run := list(islice(rows, ROWS_PER_TURN)):
        run.sort(key=_key_of)
        runs.append(run)
        await asyncio.sleep(0)
    return runs


def _key_of(row: _Row) -> Key:
    return row.key


def _key_of_known(task: KnownTask) -> Key:
    _, _, _, tag, began, _ = task.info.split(" ")
    return Key(float(began), task.node, int(tag, 16))


def _ended(task: SCSIRequest | KnownTask) -> bool:
    return isinstance(task, SCSIRequest) and task.state >= COMPLETED


def _state_of(task: SCSIRequest | KnownTask) -> str:
    if isinstance(task, SCSIRequest):
        return State(task.state).name.lower()
    return "blocked" if task.blocked else "running"


def _printed(row: _Row) -> str:
    task = row.task
    if isinstance(task, SCSIRequest):
        return print_request(task)
    _, _, lun, tag, _, cdb = task.info.split(" ")
    name = row.unit.command_for(bytes.fromhex(cdb)).name
    return f"{name} lun={lun} tag=0x{tag} cdb={cdb}"


def _id(node: str, address: LunAddress, tag: int, initiator: str, isid: str) -> str:
    return f"{node}/{address}/{tag:x}/{initiator},i,0x{isid}"
