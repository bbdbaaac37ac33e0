"""Threads for I/O that waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from workers.executor import BlockingExecutor


class Loop:
    """What the executor needs of an event loop: calls from threads, run when the test says so."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.wakeups = 0

    def turn(self) -> None:
        """Wait for a call and run it."""
        self.calls.get(timeout=10)()
        self.wakeups += 1


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def two(loop: Loop) -> Iterator[BlockingExecutor]:
    executor = BlockingExecutor(2, loop.calls.put)
    yield executor
    executor.close()


def test_work_runs_in_a_thread_and_is_done_on_the_loop(loop: Loop, two: BlockingExecutor) -> None:
    where: list[threading.Thread] = []

    def note() -> None:
        where.append(threading.current_thread())

    two.run(note, note)
    loop.turn()
    assert where[0] is not threading.current_thread()
    assert where[1] is threading.current_thread()


def test_a_thread_that_cannot_be_started_is_done_without(
    loop: Loop, two: BlockingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processes: the jobs go to the threads that there are, and to new ones later."""
    hold = threading.Event()
    done: list[int] = []

    def wait() -> None:
        hold.wait(10)

    def nothing() -> None:
        pass

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            two.run(hold.set, hold.set)
        assert (two.threads, two.queued) == (0, 0)
    two.run(wait, lambda: done.append(1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        two.run(nothing, lambda: done.append(2))
    assert two.threads == 1
    two.run(hold.set, lambda: done.append(3))
    assert two.threads == 2
    while len(done) < 3:
        loop.turn()


def test_everything_that_has_ended_costs_one_wake_up(loop: Loop, two: BlockingExecutor) -> None:
    done: list[int] = []
    hold = threading.Event()
    ended = threading.Semaphore(0)

    def work() -> None:
        hold.wait(10)
        ended.release()

    for i in range(20):
        two.run(work, lambda i=i: done.append(i))  # type: ignore[misc]
    hold.set()
    for _ in range(20):
        assert ended.acquire(timeout=10)
    while len(done) < 20:
        loop.turn()
    assert sorted(done) == list(range(20))
    assert loop.wakeups <= 3  # one, and what ended just behind the last of those counted


def test_no_more_threads_than_allowed_and_no_more_than_needed(
    loop: Loop, two: BlockingExecutor
) -> None:
    def threads() -> int:
        return sum(t.name.startswith("lunmesh-io-") for t in threading.enumerate())

    assert threads() == 0
    hold = threading.Event()
    done: list[bool] = []

    def work() -> None:
        hold.wait(10)

    for _ in range(10):
        two.run(work, lambda: done.append(True))
    assert threads() == 2
    hold.set()
    while len(done) < 10:
        loop.turn()
    two.close()
    assert threads() == 0


def test_a_bug_at_the_end_of_one_does_not_lose_the_others(
    loop: Loop, two: BlockingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    gate = threading.Barrier(3)

    def work() -> None:
        gate.wait(10)

    def broken() -> None:
        raise RuntimeError("broken on purpose")

    for end in (broken, lambda: done.append(1)):
        two.run(work, end)
    gate.wait(10)
    while not (done and "broken on purpose" in caplog.text):
        loop.turn()
