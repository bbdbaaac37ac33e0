"""The list of commands: in order, found by words, and never a hold-up for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from target import task_list
from target.block.pool import SEGMENT_BYTES, BufferPool
from target.cluster.memory_registry import MemoryRegistry
from target.cluster.registry import KnownTask, RegistryAway, TaskEntry
from target.clustering import Clustering
from target.scsi.request import SCSIRequest, print_request
from target.task_list import ROWS_PER_TURN, UNITS_AT_A_TIME, Key, TaskLister, TaskQuery
from tests.support import cdb
from tests.support.recording_hba import RecordingHba
from tests.support.scsi_disk import Rig, rig

T = TypeVar("T")
MANY = 10_000
NOW, WALL = 50_000.0, 1_700_000_000.0


class Stuck:
    """A disk whose commands wait for data that never come; the newest comes first."""

    def __init__(self, disk: Rig, count: int) -> None:
        self.disk = disk
        pool = BufferPool(2 * MANY * SEGMENT_BYTES)  # nobody waits for memory
        self.hba = RecordingHba(disk.bus, pool, "iqn.x:one")
        self.hba.settle()
        for number in range(count):
            req = self.hba.submit(cdb.write10(number % 1000, 1))
            req.started_at = float(count - number)

    def lister(self, clustering: Any = None) -> TaskLister:
        return TaskLister(
            "a",
            self.disk.bus,
            lambda name: name,
            cast(Clustering | None, clustering),
            clock=lambda: NOW,
            wall=lambda: WALL,
        )

    def abort(self) -> None:
        for req in self.hba.requests.values():
            req.abort()


@pytest.fixture
def stuck() -> Iterator[Callable[[int], Stuck]]:
    made: list[Stuck] = []
    with rig() as disk:

        def make(count: int) -> Stuck:
            made.append(Stuck(disk, count))
            return made[-1]

        yield make
        for one in made:
            one.abort()


class Turns:
    """How many rows were sorted, merged or printed in one turn of the loop, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = self.printed = self.most = self.turns = 0
        key_of = task_list._key_of

        def counted_key(row: Any) -> Key:
            self.rows += 1
            return key_of(row)

        def counted_print(req: SCSIRequest) -> str:
            self.printed += 1
            return print_request(req)

        monkeypatch.setattr(task_list, "_key_of", counted_key)
        monkeypatch.setattr(task_list, "print_request", counted_print)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def watch() -> T:
            task = asyncio.ensure_future(work)
            while not task.done():
                before = self.rows, self.printed
                await asyncio.sleep(0)
                self.turns += 1
                self.most = max(self.most, self.rows - before[0], self.printed - before[1])
            return task.result()

        return asyncio.run(watch())


def test_of_ten_thousand_the_oldest_come_first(
    stuck: Callable[[int], Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    lister = stuck(MANY).lister()
    turns = Turns(monkeypatch)
    found = turns.run(lister.find(TaskQuery(limit=20)))
    assert [task.tag for task in found.tasks] == [MANY - n for n in range(20)]
    assert (found.total, found.known) == (MANY, MANY)
    assert found.tasks[0].age_seconds == NOW - 1
    # The loop goes on between two turns, and what nobody sees is not printed.
    assert turns.most <= 2 * ROWS_PER_TURN
    assert turns.turns >= MANY // ROWS_PER_TURN
    assert turns.printed == 20


def test_a_filter_finds_the_newest(
    stuck: Callable[[int], Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    lister = stuck(MANY).lister()
    turns = Turns(monkeypatch)
    found = turns.run(lister.find(TaskQuery(words=("iqn.x:one", "tag=0x1 "), limit=5)))
    assert [task.tag for task in found.tasks] == [1]
    assert (found.total, found.known, found.next) == (1, MANY, "")
    assert turns.most <= 2 * ROWS_PER_TURN
    before = turns.printed
    found = turns.run(lister.find(TaskQuery(words=("iqn.x:one", "lun=0"), limit=5)))
    assert found.total == MANY
    assert turns.printed - before == 5  # those words need no printed request
    assert turns.run(lister.find(TaskQuery(words=("lun=7",)))).total == 0


def test_any_place_in_the_list_can_be_looked_at(stuck: Callable[[int], Stuck]) -> None:
    lister = stuck(MANY).lister()
    found = asyncio.run(lister.find(TaskQuery(offset=MANY - 3, limit=10)))
    assert [task.tag for task in found.tasks] == [3, 2, 1]
    assert asyncio.run(lister.find(TaskQuery(offset=MANY))).tasks == []


def test_a_cursor_goes_on_although_others_have_ended(stuck: Callable[[int], Stuck]) -> None:
    it = stuck(25)
    lister = it.lister()
    first = asyncio.run(lister.find(TaskQuery(limit=10)))
    for task in first.tasks:
        it.hba.requests[task.tag].abort()
    second = asyncio.run(lister.find(TaskQuery(after=Key.parse(first.next), limit=10)))
    third = asyncio.run(lister.find(TaskQuery(after=Key.parse(second.next), limit=10)))
    assert [task.tag for task in (*second.tasks, *third.tasks)] == list(range(15, 0, -1))
    assert third.next == ""
    for wrong in ("", "x", "1/2", "1/g/a", "nine/2/a"):
        with pytest.raises(ValueError, match="is no cursor"):
            Key.parse(wrong)


class Registry:
    """Of other nodes: ``pages`` of each unit; it knows how many are asked for at a time."""

    def __init__(self, pages: dict[str, Sequence[list[KnownTask]]], away: str = "") -> None:
        self.pages = pages
        self.away = away
        self.asked = self.most = 0

    async def tasks(self, lun: str) -> Any:
        self.asked += 1
        self.most = max(self.most, self.asked)
        await asyncio.sleep(0)
        for page in self.pages[lun]:
            if lun == self.away:
                raise RegistryAway
            yield page
            await asyncio.sleep(0)
        self.asked -= 1


def known(node: str, tag: int, age: float) -> KnownTask:
    info = f"iqn.x:two 000000000000 0 {tag:x} {WALL - age:.3f} {cdb.write10(0, 1).hex()}"
    return KnownTask(node, 1, tag, True, tag == 1, info)


def others(stuck: Stuck, registry: Registry) -> Any:
    unit = stuck.disk.unit
    units = [(lun, unit) for lun in registry.pages]
    return SimpleNamespace(units=lambda: units, node=SimpleNamespace(registry=registry))


def test_those_of_other_nodes_are_in_the_same_order(stuck: Callable[[int], Stuck]) -> None:
    it = stuck(2)  # begun one and two seconds after the clock was 0
    age = NOW - 1.5
    registry = Registry(
        {
            "x": [[known("b", 1, 3.0), known("a", 2, 1.0)], [known("b", 3, age)]],
            "y": [[known("b", 3, age)], [known("c", 4, NOW + 7)]],  # one is told of twice
        }
    )
    found = asyncio.run(it.lister(others(it, registry)).find(TaskQuery()))
    assert [(t.node, t.tag) for t in found.tasks] == [
        ("c", 4),
        ("a", 2),
        ("b", 3),
        ("a", 1),
        ("b", 1),
    ]
    assert found.others
    assert [t.state for t in found.tasks][-1] == "blocked"
    words = asyncio.run(it.lister(others(it, registry)).find(TaskQuery(words=("iqn.x:two", "3"))))
    assert [t.tag for t in words.tasks] == [3]


def test_units_are_asked_for_together_but_not_all_of_them(stuck: Callable[[int], Stuck]) -> None:
    it = stuck(1)
    registry = Registry({str(n): [[known("b", n, 1.0)]] for n in range(5 * UNITS_AT_A_TIME)})
    found = asyncio.run(it.lister(others(it, registry)).find(TaskQuery()))
    assert found.total == 1 + 5 * UNITS_AT_A_TIME
    assert registry.most == UNITS_AT_A_TIME


def test_without_the_registry_what_is_known_is_told(stuck: Callable[[int], Stuck]) -> None:
    it = stuck(1)
    registry = Registry({"x": [[known("b", 1, 1.0)]], "y": [[known("b", 2, 1.0)]]}, away="x")
    found = asyncio.run(it.lister(others(it, registry)).find(TaskQuery()))
    assert not found.others
    assert {(t.node, t.tag) for t in found.tasks} == {("a", 1), ("b", 2)}


def test_more_than_can_be_told_of_others_is_said(
    stuck: Callable[[int], Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_list, "OTHERS_MAX", 3)
    it = stuck(1)
    registry = Registry({"x": [[known("b", n, 1.0 + n) for n in range(9)]]})
    found = asyncio.run(it.lister(others(it, registry)).find(TaskQuery()))
    assert (found.total, found.others) == (4, False)


def test_as_the_memory_registry_has_them(stuck: Callable[[int], Stuck]) -> None:
    async def story() -> list[KnownTask]:
        registry = MemoryRegistry(lambda: 0, lambda node, told: None)
        await registry.attach("x", "b", 1)
        await registry.submit("x", "b", 1, [], [TaskEntry(1, True, 0, 8, known("b", 1, 1.0).info)])
        return [task async for page in registry.tasks("x") for task in page]

    (task,) = asyncio.run(story())
    it = stuck(0)
    found = asyncio.run(it.lister(others(it, Registry({"x": [[task]]}))).find(TaskQuery()))
    assert found.tasks[0].id.startswith("b/0/1/iqn.x:two,i,0x")
