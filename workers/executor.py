"""Threads for I/O that waits: a bounded number of them, and one wake-up for many completions.

``concurrent.futures`` costs a future, a lock and a wake-up of the event loop per job.  Here a job
is two callables, and the loop is woken once for all that has ended (workers/delivery.py).
"""

from __future__ import annotations

import queue
import threading

from workers.delivery import CallSoonThreadsafe, Delivery, Job
from workers.uring import Uring


class BlockingExecutor:
    """``threads`` workers; ``run(work, done)``: ``work()`` in one of them, then ``done()`` on the
    loop.

    What is queued is bounded by its users: each job belongs to a command that holds a place in a
    session's window.  ``work`` must not raise; errors are part of the I/O that it carries.
    """

    def __init__(
        self, threads: int, call_soon_threadsafe: CallSoonThreadsafe, uring: Uring | None = None
    ) -> None:
        self.uring = uring  # for those that can do without a thread
        self._jobs: queue.SimpleQueue[tuple[Job, Job] | None] = queue.SimpleQueue()
        self._delivery = Delivery(call_soon_threadsafe)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._threads_max = threads
        self._idle = 0  # threads waiting for a job, as far as is known
        self._closed = False
        self.jobs = 0  # begun so far

    @property
    def threads(self) -> int:
        """That there are."""
        return len(self._threads)

    @property
    def queued(self) -> int:
        """Jobs that no thread has taken yet."""
        return self._jobs.qsize()

    def run(self, work: Job, done: Job) -> None:
        """Queue a job; call from the loop's thread only."""
        assert not self._closed, "executor is closed"
        if len(self._threads) < self._threads_max and self._jobs.qsize() >= self._idle:
            self._spawn()
        self.jobs += 1
        self._jobs.put((work, done))

    def _spawn(self) -> None:
        thread = threading.Thread(
            target=self._serve, name=f"lunmesh-io-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            work, done = job
            work()
            self._delivery.put(done)

    def close(self) -> None:
        """End the threads; nothing may be queued."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self.uring is not None:
            self.uring.close()
